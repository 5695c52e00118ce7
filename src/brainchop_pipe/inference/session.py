"""Networks that are ready to run: on which device, what ran against what was asked, cached sessions."""

import os
from collections import OrderedDict
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from brainchop_pipe.errors import ModelError, ProviderError
from brainchop_pipe.inference import native_layers, native_runner, onnxruntime_runner, openvino_runner
from brainchop_pipe.inference.native_runner import NativeRunner
from brainchop_pipe.inference.onnxruntime_runner import OnnxRuntimeRunner
from brainchop_pipe.inference.openvino_runner import OpenVinoRunner
from brainchop_pipe.inference.runner import Precision, Runner

Device = Literal["auto", "cpu", "cuda", "tensorrt", "migraphx", "native", "openvino", "coreml"]
DEVICES: tuple[Device, ...] = get_args(Device)

# Set for a process whose predecessor ended while it ran a network: what "auto" then leaves out.
AVOID_VARIABLE = "BRAINCHOP_AVOID_DEVICES"

_PROVIDERS: dict[str, str] = {
    "cpu": onnxruntime_runner.CPU,
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "native": native_runner.PROVIDER,
    "openvino": onnxruntime_runner.OPENVINO,
    "coreml": "CoreMLExecutionProvider",
}

# What "auto" tries, best first; "native" for networks that it pays for. TensorRT builds an engine
# for minutes at each new shape, CoreML has no 3-D convolution: both only by name.
_PREFERENCE: tuple[Device, ...] = ("cuda", "migraphx", "native", "openvino", "cpu")

_ON_GPUS = {"cuda", "tensorrt", "migraphx"}
_VISIBLE_GPUS = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")

# Sessions of MeshNets hold under a megabyte of weights; the limit is for other models.
_CACHE_SIZE = 8


@dataclass(frozen=True)
class Execution:
    """Where a model ran, against where it was asked to run.

    Parameters
    ----------
    requested : str
        A device's name, or "auto".
    provider : str
        onnxruntime's name of the execution provider that ran, "OpenVINO", or "Native".
    fallbacks : tuple of str
        Why each better provider that is installed did not run, or the precision that
        was asked for; usually empty.
    threads : int
        Of the processors, within one operator.
    precision : {"float32", "bfloat16"}
        What the network computed in.
    """

    requested: Device
    provider: str
    fallbacks: tuple[str, ...]
    threads: int
    precision: Precision = "float32"


@dataclass(frozen=True, eq=False)
class Session:
    """A model that is ready to run."""

    execution: Execution
    _runner: Runner

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the model.

        Parameters
        ----------
        batch : array of the type and shape that the model's one input has

        Returns
        -------
        list of arrays
            All outputs, in the model's order.

        Raises
        ------
        ProviderError
            The provider failed, for want of memory for example.
        """
        try:
            return self._runner.run(batch)
        except Exception as error:
            raise ProviderError(
                f"{self.execution.provider} failed on an input of shape {batch.shape}: {error}"
            ) from error


_Key = tuple[str, Device, int, Precision]
_sessions: OrderedDict[_Key, Session] = OrderedDict()


def open_session(
    model: bytes, digest: str, device: Device = "auto", threads: int = 1, precision: Precision = "float32"
) -> Session:
    """Get a model ready on a device; a second call in the same process returns the same session.

    Parameters
    ----------
    model : bytes
        ONNX file. As bytes it cannot pull in other files.
    digest : str
        SHA-256 of `model`; with the other parameters the key of the cache.
    device : str
        "auto" takes the first provider that works, by preference, and records why
        better ones did not. A name is strict: that provider, or an error; that it
        leaves single nodes to the CPU is recorded.
    threads : int
        For the processors.
    precision : {"float32", "bfloat16"}
        What may be computed in. A provider that cannot takes float32; that is recorded.

    Raises
    ------
    ProviderError
        The device is not installed, or cannot run this model.
    ModelError
        The file is no model that can run.
    """
    key = (digest, device, threads, precision)
    if key not in _sessions:
        _sessions[key] = _create(model, device, threads, precision)
        while len(_sessions) > _CACHE_SIZE:
            _sessions.popitem(last=False)
    _sessions.move_to_end(key)
    return _sessions[key]


def replace_with_cpu(session: Session, model: bytes, digest: str, reason: str) -> Session:
    """Drop a session whose provider failed in mid-run, and open one on the CPU that says so."""
    for key in [key for key, known in _sessions.items() if known is session]:
        del _sessions[key]
    before = session.execution
    runner = _start(model, "cpu", before.threads, "float32", strict=False)
    replaced = _session(runner, before.requested, (*before.fallbacks, reason), before.threads, "float32")
    _sessions[(digest, before.requested, before.threads, before.precision)] = replaced
    return replaced


def available_devices() -> tuple[Device, ...]:
    """Devices whose libraries are installed; they may still fail to run."""
    providers = onnxruntime_runner.available_providers()
    return tuple(d for d in DEVICES if d != "auto" and (_PROVIDERS[d] in providers or _is_installed(d)))


def first_choice(device: Device, model: bytes | None = None, precision: Precision = "float32") -> Device:
    """Give the device that is tried first, for a model or for any; "cpu" where none is there."""
    if device != "auto":
        return device
    there = set(available_devices()) - _avoided()
    return next((d for d in _PREFERENCE if d in there and _may_run(d, model, precision)), "cpu")


def load_library(device: Device) -> None:
    """Import what a device needs for most networks, where that takes a fifth of a second."""
    runs_by_own_code = device == "auto" and native_layers.is_installed()
    if _is_openvino(first_choice(device)) and not runs_by_own_code:
        openvino_runner.load_openvino()


def gpus_of(device: Device) -> tuple[str, ...]:
    """Name the GPUs that a device means, as ``CUDA_VISIBLE_DEVICES`` would; none for the processors.

    "auto" means those that are there, if the installed onnxruntime can use them; a GPU
    by name is taken for there.
    """
    count = _nvidia_gpus() + _amd_gpus() or int(device != "auto")
    given = [os.environ[variable] for variable in _VISIBLE_GPUS if variable in os.environ]
    # What is installed is asked last: that takes a while to import.
    if not (count or given) or not _may_use_gpus(device):
        return ()
    if given:
        names = [name.strip() for name in given[0].split(",")]
        # The libraries stop at the first name that is none: "-1", or "NoDevFiles" of SLURM.
        return tuple(takewhile(lambda name: name.isdigit() or "-" in name[1:], names))
    return tuple(map(str, range(count)))


def _may_use_gpus(device: Device) -> bool:
    if device == "auto":
        return not _ON_GPUS.isdisjoint(available_devices())
    return device in _ON_GPUS


def _nvidia_gpus() -> int:
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _amd_gpus() -> int:
    """Count the kernel's compute nodes that are GPUs; processors among them have the number 0."""
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    return sum(node.read_text(encoding="ascii").strip() != "0" for node in nodes)


def _avoided() -> set[str]:
    return {*os.environ.get(AVOID_VARIABLE, "").split(",")} - {""}


def _is_openvino(device: str) -> bool:
    """Tell whether a device means the package openvino, which goes before onnxruntime's own provider."""
    return device == "openvino" and openvino_runner.is_installed()


def _is_installed(device: str) -> bool:
    """Tell whether a library that is not onnxruntime's is there for a device."""
    return _is_openvino(device) or (device == "native" and native_layers.is_installed())


def _may_run(device: Device, model: bytes | None, precision: Precision) -> bool:
    """Tell whether "auto" considers a device for a model."""
    if device != "native":
        return True
    return model is not None and precision == "float32" and native_runner.pays_for(model)


def _create(model: bytes, device: Device, threads: int, precision: Precision) -> Session:
    if device != "auto":
        return _create_strict(model, device, threads, precision)
    fallbacks: list[str] = []
    available = available_devices()
    for candidate in _PREFERENCE:
        if candidate not in available or not _may_run(candidate, model, precision):
            continue
        if candidate in _avoided():
            fallbacks.append(f"a process ended by itself while it ran a network on {candidate}")
            continue
        try:
            runner = _start(model, candidate, threads, precision, strict=False)
        except ProviderError as error:
            fallbacks.append(str(error))
            continue
        if _is_what_was_asked(runner, candidate):
            return _session(runner, device, tuple(fallbacks), threads, precision)
        given = f"{_PROVIDERS[candidate]} is installed but did not start; {runner.provider} was given instead"
        fallbacks.append(given)
    raise ProviderError(f"no execution provider runs this model: {'; '.join(fallbacks) or 'none installed'}")


def _create_strict(model: bytes, device: Device, threads: int, precision: Precision) -> Session:
    available = available_devices()
    if device not in available:
        raise ProviderError(
            f"device {device!r} was asked for, but only {', '.join(available)} are installed; install "
            "brainchop-pipe[openvino], or the onnxruntime wheel for the device, or for native brainchop-pipe "
            "anew where there is a C compiler; or use --device auto"
        )
    fallbacks: tuple[str, ...] = ()
    try:
        strict = device != "cpu" and not _is_installed(device)
        runner = _start(model, device, threads, precision, strict=strict)
    except ProviderError as error:
        if _is_installed(device):
            raise
        # Sizes are computed on the CPU whatever the provider; that is worth a word, not an end.
        runner = _start(model, device, threads, precision, strict=False)
        fallbacks = (f"not every node of the model runs on {device}: {error}",)
    if not _is_what_was_asked(runner, device):
        raise ProviderError(
            f"device {device!r} was asked for, but onnxruntime gave {runner.provider}; "
            "check the driver and its libraries, or use --device auto"
        )
    return _session(runner, device, fallbacks, threads, precision)


def _start(model: bytes, device: Device, threads: int, precision: Precision, *, strict: bool) -> Runner:
    """Get a network ready with the library that a device means."""
    try:
        if device == "native":
            return NativeRunner(model, threads)
        if _is_openvino(device):
            return OpenVinoRunner(model, threads, precision)
        return OnnxRuntimeRunner(model, _PROVIDERS[device], threads, strict=strict)
    except Exception as error:
        if device == "cpu":
            raise ModelError(f"onnxruntime does not take the model: {error}") from error
        raise ProviderError(f"{_PROVIDERS[device]} cannot run the model: {error}") from error


def _is_what_was_asked(runner: Runner, device: Device) -> bool:
    return _is_installed(device) or runner.provider == _PROVIDERS[device]


def _session(
    runner: Runner, requested: Device, fallbacks: tuple[str, ...], threads: int, precision: Precision
) -> Session:
    if runner.precision != precision:
        fallbacks = (*fallbacks, f"{runner.provider} computes in {runner.precision} here, not {precision}")
    return Session(Execution(requested, runner.provider, fallbacks, threads, runner.precision), runner)
