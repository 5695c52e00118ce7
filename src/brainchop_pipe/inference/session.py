"""The only user of onnxruntime: providers, what ran against what was asked, cached sessions."""

import json
import logging
import os
import sys
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from brainchop_pipe.errors import ModelError, ProviderError

logger = logging.getLogger(__name__)

Device = Literal["auto", "cpu", "cuda", "tensorrt", "migraphx", "openvino", "coreml"]
DEVICES: tuple[Device, ...] = get_args(Device)

_PROVIDERS: dict[str, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
}

# What "auto" tries, best first. TensorRT builds an engine for minutes at each new shape,
# CoreML has no 3-D convolution: both only by name.
_PREFERENCE: tuple[Device, ...] = ("cuda", "migraphx", "openvino", "cpu")

# float32 means float32: both providers would take a shorter type by themselves.
_OPTIONS: dict[str, dict[str, str]] = {
    "cuda": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    "openvino": {
        "device_type": "CPU",
        "load_config": json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}),
    },
}

# onnxruntime's number of the arena's strategy kSameAsRequested.
_AS_REQUESTED = 1

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
        onnxruntime's name of the execution provider that ran.
    fallbacks : tuple of str
        Why each better provider that is installed did not run; usually empty.
    threads : int
        Of the CPU provider, within one operator.
    """

    requested: Device
    provider: str
    fallbacks: tuple[str, ...]
    threads: int


@dataclass(frozen=True, eq=False)
class Session:
    """A model that is ready to run."""

    execution: Execution
    _session: Any

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
        ort = load_onnxruntime()
        options = ort.RunOptions()
        if self.execution.provider == _PROVIDERS["cpu"]:
            # Gives the gigabytes of the arena back before the next stage needs them.
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        name = self._session.get_inputs()[0].name
        try:
            return [np.asarray(output) for output in self._session.run(None, {name: batch}, options)]
        except Exception as error:
            raise ProviderError(
                f"{self.execution.provider} failed on an input of shape {batch.shape}: {error}"
            ) from error


_sessions: OrderedDict[tuple[str, Device, int], Session] = OrderedDict()


def open_session(model: bytes, digest: str, device: Device = "auto", threads: int = 1) -> Session:
    """Get a model ready on a device; a second call in the same process returns the same session.

    Parameters
    ----------
    model : bytes
        ONNX file. As bytes it cannot pull in other files.
    digest : str
        SHA-256 of `model`; with `device` and `threads` the key of the cache.
    device : str
        "auto" takes the first provider that works, by preference, and records why
        better ones did not. A name is strict: that provider, or an error; that it
        leaves single nodes to the CPU is recorded.
    threads : int
        For the CPU provider.

    Raises
    ------
    ProviderError
        The device is not installed, or cannot run this model.
    ModelError
        onnxruntime does not take the file.
    """
    key = (digest, device, threads)
    if key not in _sessions:
        _sessions[key] = _create(model, device, threads)
        while len(_sessions) > _CACHE_SIZE:
            _sessions.popitem(last=False)
    _sessions.move_to_end(key)
    return _sessions[key]


def replace_with_cpu(session: Session, model: bytes, digest: str, reason: str) -> Session:
    """Drop a session whose provider failed in mid-run, and open one on the CPU that says so."""
    execution = session.execution
    cpu = _start(model, "cpu", execution.threads, strict=False)
    fallbacks = (*execution.fallbacks, reason)
    replaced = Session(Execution(execution.requested, _PROVIDERS["cpu"], fallbacks, execution.threads), cpu)
    _sessions[(digest, execution.requested, execution.threads)] = replaced
    return replaced


def available_devices() -> tuple[Device, ...]:
    """Devices whose providers the installed onnxruntime contains; they may still fail to run."""
    installed = load_onnxruntime().get_available_providers()
    return tuple(d for d in DEVICES if d != "auto" and _PROVIDERS[d] in installed)


def gpus_of(device: Device) -> tuple[str, ...]:
    """Name the GPUs that a device means, as ``CUDA_VISIBLE_DEVICES`` would; none for the processors.

    "auto" means those that are there, if the installed onnxruntime can use them; a GPU
    by name is taken for there.
    """
    wanted = {"cuda", "tensorrt", "migraphx"} & {*available_devices(), *({device} - {"auto"})}
    if device not in ("auto", *wanted) or not wanted:
        return ()
    for variable in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        if variable in os.environ:
            names = [name.strip() for name in os.environ[variable].split(",")]
            # The libraries stop at the first name that is none: "-1", or "NoDevFiles" of SLURM.
            return tuple(takewhile(lambda name: name.isdigit() or "-" in name[1:], names))
    count = _nvidia_gpus() + _amd_gpus() or int(device != "auto")
    return tuple(map(str, range(count)))


def _nvidia_gpus() -> int:
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _amd_gpus() -> int:
    """Count the kernel's compute nodes that are GPUs; processors among them have the number 0."""
    nodes = Path("/sys/class/kfd/kfd/topology/nodes").glob("*/gpu_id")
    return sum(node.read_text(encoding="ascii").strip() != "0" for node in nodes)


@cache
def load_onnxruntime() -> Any:
    """Import onnxruntime with its uploader off; Linux wheels from 1.29 on have one that is on."""
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        logger.warning(
            "onnxruntime was imported before brainchop_pipe could set ORT_DISABLE_TELEMETRY=1; "
            "set it in the environment to keep its telemetry off"
        )
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


@cache
def _share_allocator() -> None:
    """Have the CPU's memory grow by what is asked for, not by powers of two.

    Of 104 classes on 173 x 256 x 256 voxels that makes 2.1 GB of 3.2.
    """
    ort = load_onnxruntime()
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    settings = {"max_mem": 0, "arena_extend_strategy": _AS_REQUESTED}
    defaults = {"initial_chunk_size_bytes": -1, "max_dead_bytes_per_chunk": -1}
    ort.create_and_register_allocator(place, ort.OrtArenaCfg(settings | defaults))


def _create(model: bytes, device: Device, threads: int) -> Session:
    if device != "auto":
        return _create_strict(model, device, threads)
    fallbacks: list[str] = []
    available = available_devices()
    for candidate in _PREFERENCE:
        if candidate not in available:
            continue
        try:
            session = _start(model, candidate, threads, strict=False)
        except ProviderError as error:
            fallbacks.append(str(error))
            continue
        ran = session.get_providers()[0]
        if ran == _PROVIDERS[candidate]:
            return Session(Execution(device, ran, tuple(fallbacks), threads), session)
        fallbacks.append(f"{_PROVIDERS[candidate]} is installed but did not start; {ran} was given instead")
    raise ProviderError(f"no execution provider runs this model: {'; '.join(fallbacks) or 'none installed'}")


def _create_strict(model: bytes, device: Device, threads: int) -> Session:
    available = available_devices()
    if device not in available:
        raise ProviderError(
            f"device {device!r} was asked for, but this onnxruntime has only {', '.join(available)}; "
            "install the onnxruntime wheel for it, or use --device auto"
        )
    fallbacks: tuple[str, ...] = ()
    try:
        session = _start(model, device, threads, strict=device != "cpu")
    except ProviderError as error:
        # Sizes are computed on the CPU whatever the provider; that is worth a word, not an end.
        session = _start(model, device, threads, strict=False)
        fallbacks = (f"not every node of the model runs on {device}: {error}",)
    ran = session.get_providers()[0]
    if ran != _PROVIDERS[device]:
        raise ProviderError(
            f"device {device!r} was asked for, but onnxruntime gave {ran}; "
            "check the driver and its libraries, or use --device auto"
        )
    return Session(Execution(device, ran, fallbacks, threads), session)


def _start(model: bytes, device: Device, threads: int, *, strict: bool) -> Any:
    """Create an onnxruntime session whose provider list is named."""
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A plan of the memory of an earlier run costs a gigabyte from the second run of a shape on.
    options.enable_mem_pattern = False
    if device == "cpu":
        _share_allocator()
        options.add_session_config_entry("session.use_env_allocators", "1")
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        return ort.InferenceSession(
            model, options, providers=[(_PROVIDERS[device], _OPTIONS.get(device, {}))]
        )
    except Exception as error:
        if device == "cpu":
            raise ModelError(f"onnxruntime does not take the model: {error}") from error
        raise ProviderError(f"{_PROVIDERS[device]} cannot run the model: {error}") from error
