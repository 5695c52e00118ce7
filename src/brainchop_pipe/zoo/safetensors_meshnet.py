"""MeshNets of PyTorch or tinygrad kept as safetensors → the layers of a MeshNet; nothing is unpickled."""

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from operator import itemgetter

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from brainchop_pipe.errors import ModelError
from brainchop_pipe.zoo.meshnet import Activation, Convolution, Layer, MeshNetPlan

_NAME = re.compile(r"(?:module\.)?(?:model\.)?(?P<place>\d+(?:\.\d+)*)\.(?P<parameter>\w+)", re.ASCII)
_LEARNED = {"weight", "bias"}
_STATISTICS = {"running_mean", "running_var"}
# Counts training steps, which nobody needs any more.
_IGNORED = "num_batches_tracked"


@dataclass(frozen=True, eq=False)
class _Step:
    """A convolution's parameters, and those of the batch norm after it; none where there is none."""

    name: str
    convolution: dict[str, np.ndarray]
    norm: dict[str, np.ndarray]


def layers_of_safetensors(weights: bytes, plan: MeshNetPlan) -> list[Layer]:
    """Read the weights of a MeshNet under the names that PyTorch or tinygrad give them.

    Parameters
    ----------
    weights : bytes
        Content of a ``.safetensors`` file. ``model.N.0.weight`` and ``.bias`` are a
        convolution; ``model.N.1.running_mean``, ``.running_var``, and if you like
        ``.weight`` and ``.bias``, the batch norm after it. ``model.N.weight`` is as good.
        The numbers give the order. Kernels have the shape (out, in, kd, kh, kw).
    plan : MeshNetPlan

    Returns
    -------
    list of Layer
        Batch norms are folded, in float64, into the convolutions before them.

    Raises
    ------
    ModelError
        This is no safetensors file, it holds something that MeshNets do not have, or it
        does not fit the plan.

    Notes
    -----
    Source: neuroneural/brainchop-models cec1887, ``meshnet_gn.py`` (names of PyTorch);
    neuroneural/brainchop-cli f5816f8, ``convert_tfjs_to_pth.py`` (names of tinygrad).
    """
    steps = _steps(_read(weights))
    _check_against_plan(steps, plan)
    layers: list[Layer] = []
    for number, (step, dilation) in enumerate(zip(steps, (*plan.dilations, 1), strict=True)):
        is_last = step is steps[-1]
        kernel, bias = _folded(step, plan.epsilon)
        has_norm = plan.norm == "instance" and not is_last
        layers.append(Convolution(step.name, kernel, bias, (dilation, dilation, dilation), has_norm))
        if not is_last:
            layers.append(Activation(f"activation.{number}", plan.activation))
    return layers


def _read(weights: bytes) -> dict[str, np.ndarray]:
    try:
        tensors: dict[str, np.ndarray] = load(weights)
    # numpy knows fewer types than the format has.
    except (SafetensorError, KeyError) as error:
        raise ModelError(
            f"{len(weights)} bytes were given that are no safetensors file of numpy's types: {error}"
        ) from error
    return tensors


def _steps(tensors: dict[str, np.ndarray]) -> list[_Step]:
    """Put tensors into the order of the chain, by the numbers in their names."""
    steps: list[_Step] = []
    for place, module in sorted(_modules(tensors).items(), key=itemgetter(0)):
        name = f"model.{'.'.join(map(str, place))}"
        kernel = module.get("weight")
        if kernel is not None and kernel.ndim == 5 and set(module) <= _LEARNED:
            steps.append(_Step(name, module, {}))
        elif steps and not steps[-1].norm and _STATISTICS <= set(module) <= _STATISTICS | _LEARNED:
            steps[-1] = replace(steps[-1], norm=module)
        else:
            shapes = {parameter: tensor.shape for parameter, tensor in module.items()}
            raise ModelError(f"{name!r} has {shapes}; a MeshNet has 3-D convolutions and batch norms only")
    return steps


def _modules(tensors: dict[str, np.ndarray]) -> dict[tuple[int, ...], dict[str, np.ndarray]]:
    """Gather the tensors of each module under its place in the chain: (0, 1) for ``model.0.1``."""
    modules: dict[tuple[int, ...], dict[str, np.ndarray]] = defaultdict(dict)
    for name, tensor in tensors.items():
        match = _NAME.fullmatch(name)
        if match is None:
            raise ModelError(f"weight {name!r} is not named as a MeshNet's are, such as 'model.0.0.weight'")
        if match["parameter"] == _IGNORED:
            continue
        if tensor.dtype.kind != "f":
            raise ModelError(f"weight {name!r} is {tensor.dtype}; real numbers are needed")
        place = tuple(int(number) for number in match["place"].split("."))
        if match["parameter"] in modules[place]:
            raise ModelError(f"weight {name!r} is there twice, under two names")
        modules[place][match["parameter"]] = tensor
    return modules


def _check_against_plan(steps: list[_Step], plan: MeshNetPlan) -> None:
    """Refuse weights that are not those of the plan, or whose shapes make no chain."""
    if len(steps) != len(plan.dilations) + 1 or min(plan.dilations, default=1) < 1:
        raise ModelError(
            f"the weight file has {len(steps)} convolutions; dilations {plan.dilations} and a last one of "
            f"1×1×1 make it {len(plan.dilations) + 1}"
        )
    channels = steps[0].convolution["weight"].shape[1]
    for step in steps:
        is_last = step is steps[-1]
        wanted = "batch" if step.norm else "none or instance"
        if bool(step.norm) != (plan.norm == "batch" and not is_last):
            raise ModelError(
                f"{step.name!r} has norm {wanted} by the weight file; the plan says {plan.norm!r}"
            )
        shape = step.convolution["weight"].shape
        if shape[1:] != (channels, *(1 if is_last else 3,) * 3):
            size = "1×1×1" if is_last else "3×3×3"
            raise ModelError(f"{step.name!r} has a kernel of shape {shape}; {channels} × {size} is needed")
        channels = shape[0]
        _check_vectors(step, channels)


def _check_vectors(step: _Step, channels: int) -> None:
    vectors = {**step.norm, "bias of the convolution": step.convolution.get("bias", np.zeros(channels))}
    for name, vector in vectors.items():
        if vector.shape != (channels,):
            raise ModelError(f"{step.name!r}: {name} has shape {vector.shape}; ({channels},) is needed")


def _folded(step: _Step, epsilon: float) -> tuple[np.ndarray, np.ndarray | None]:
    """Give kernel and bias, float32, of a convolution together with its batch norm."""
    kernel = step.convolution["weight"]
    bias = step.convolution.get("bias")
    if not step.norm:
        return kernel.astype(np.float32), None if bias is None else bias.astype(np.float32)
    norm = {name: values.astype(np.float64) for name, values in step.norm.items()}
    if not (norm["running_var"] + epsilon > 0).all():
        raise ModelError(f"{step.name!r} has a batch norm with a variance below zero")
    scale = norm.get("weight", 1.0) / np.sqrt(norm["running_var"] + epsilon)
    shift = norm.get("bias", 0.0) - norm["running_mean"] * scale
    folded_kernel = kernel.astype(np.float64) * scale.reshape(-1, 1, 1, 1, 1)
    folded_bias = shift if bias is None else bias.astype(np.float64) * scale + shift
    return folded_kernel.astype(np.float32), folded_bias.astype(np.float32)
