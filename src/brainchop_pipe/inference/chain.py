"""ONNX networks that are a chain of dilated convolutions, MeshNets above all, as a list of layers."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from onnx import TensorProto

from brainchop_pipe.inference.onnx_file import array_of, check_model, parse_model, settings_of

Activation = Literal["linear", "relu", "elu", "gelu"]

_ACTIVATIONS: dict[str, Activation] = {"Relu": "relu", "Elu": "elu", "Gelu": "gelu"}

# An instance norm in the nodes that `zoo.convert` writes for it.
_MEASURED = (
    "ReduceMean",
    "ReduceMean",
    "ReduceSumSquare",
    "Shape",
    "Cast",
    "Div",
    "ReduceMean",
    "Mul",
    "Sub",
    "BatchNormalization",
)

_OPERATORS = {"Conv", "InstanceNormalization", *_MEASURED, *_ACTIVATIONS}


class Norm(NamedTuple):
    """An instance norm: each channel to mean 0 and variance 1 over the volume, then scaled and shifted.

    Parameters
    ----------
    scale, shift : float32, shape (channels,)
    epsilon : float
        Added to the variance.
    """

    scale: np.ndarray
    shift: np.ndarray
    epsilon: float


class Layer(NamedTuple):
    """A convolution over a volume, and what follows it.

    Parameters
    ----------
    weights : float32, shape (outputs, inputs, n, n, n)
        n is 1 or 3, which keep the shape; or 2, two voxels apart, which halve it.
    bias : float32, shape (outputs,)
    dilation : int
        Of all three axes; what lies beyond the volume counts as 0.
    norm : Norm or None
        Before the activation.
    activation : {"linear", "relu", "elu", "gelu"}
    """

    weights: np.ndarray
    bias: np.ndarray
    dilation: int
    norm: Norm | None = None
    activation: Activation = "linear"


def layers_of(model: bytes) -> tuple[Layer, ...] | None:
    """Read a network as a chain of layers, each of what the one before gives; None where it is no such chain.

    Parameters
    ----------
    model : bytes
        ONNX file: (1, C, D, H, W), float32, to (1, classes, D, H, W).

    Raises
    ------
    ModelError
        These bytes are no ONNX model, or one that is not valid.
    """
    proto = parse_model(model)
    graph = proto.graph
    # Before the check, which takes long for large models.
    if not {node.op_type for node in graph.node} <= _OPERATORS:
        return None
    check_model(proto)
    if len(graph.input) != 1 or len(graph.output) != 1 or not _is_float32_volume(graph.input[0]):
        return None
    if any(node.domain not in ("", "ai.onnx") or list(node.output[1:]) for node in graph.node):
        return None
    layers = _chain(list(graph.node), graph.input[0].name, graph.output[0].name, _constants(graph))
    return layers if layers and _fit_each_other(layers) else None


def _chain(
    nodes: list[Any], name: str, output: str, constants: Mapping[str, np.ndarray]
) -> tuple[Layer, ...] | None:
    """Take nodes from the front, as many as a layer has, until none is left."""
    layers: list[Layer] = []
    while nodes:
        if nodes[0].op_type != "Conv" or nodes[0].input[0] != name:
            return None
        layer = _convolution(nodes[0], constants)
        if layer is None:
            return None
        name, nodes = nodes[0].output[0], nodes[1:]
        norm, taken = _norm(nodes, name, constants)
        if norm is not None:
            name, nodes = nodes[taken - 1].output[0], nodes[taken:]
        activation = _activation(nodes[0], name) if nodes else None
        if activation is not None:
            name, nodes = nodes[0].output[0], nodes[1:]
        layers.append(layer._replace(norm=norm, activation=activation or "linear"))
    return tuple(layers) if name == output else None


def _is_float32_volume(value: Any) -> bool:
    kind = value.type.tensor_type
    return kind.elem_type == TensorProto.FLOAT and len(kind.shape.dim) == 5


def _constants(graph: Any) -> dict[str, np.ndarray]:
    """Read the constants that are in the file itself."""
    return {
        tensor.name: array_of(tensor)
        for tensor in graph.initializer
        if tensor.data_location == TensorProto.DEFAULT
    }


def _numbers(names: Sequence[str], constants: Mapping[str, np.ndarray], ndim: int) -> list[np.ndarray] | None:
    """Give constants of so many dimensions and type float32; None where one is something else."""
    arrays = [constants.get(name) for name in names]
    found = [a for a in arrays if a is not None and a.dtype == np.float32 and a.ndim == ndim]
    return found if len(found) == len(arrays) else None


def _convolution(node: Any, constants: Mapping[str, np.ndarray]) -> Layer | None:
    weights = _numbers(node.input[1:2], constants, 5)
    biases = _numbers([name for name in node.input[2:] if name], constants, 1)
    if weights is None or biases is None or weights[0].shape[2:] not in ((1, 1, 1), (3, 3, 3)):
        return None
    settings, edge = settings_of(node), weights[0].shape[-1]
    dilations = settings.get("dilations", [1, 1, 1])
    is_plain = (
        list(settings.get("kernel_shape", [edge] * 3)) == [edge] * 3
        and list(dilations) == [dilations[0]] * 3
        and list(settings.get("strides", [1] * 3)) == [1] * 3
        and settings.get("group", 1) == 1
        and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
        and list(settings.get("pads", [0] * 6)) == [edge // 2 * dilations[0]] * 6
    )
    if not is_plain:
        return None
    bias = biases[0] if biases else np.zeros(len(weights[0]), np.float32)
    # Of one tap it says nothing.
    return Layer(weights[0], bias, dilations[0] if edge > 1 else 1)


def _activation(node: Any, name: str) -> Activation | None:
    kind = _ACTIVATIONS.get(node.op_type)
    settings = settings_of(node)
    is_plain = settings.get("alpha", 1.0) == 1.0 and settings.get("approximate", b"none") == b"none"
    return kind if list(node.input) == [name] and is_plain else None


def _norm(nodes: list[Any], name: str, constants: Mapping[str, np.ndarray]) -> tuple[Norm | None, int]:
    """Read the norm with which nodes begin, and how many they are for it."""
    if nodes and nodes[0].op_type == "InstanceNormalization" and nodes[0].input[0] == name:
        return _norm_of(nodes[0], constants), 1
    count = len(_MEASURED)
    if tuple(node.op_type for node in nodes[:count]) == _MEASURED and _measures(
        nodes[:count], name, constants
    ):
        return _norm_of(nodes[count - 1], constants), count
    return None, 0


def _norm_of(node: Any, constants: Mapping[str, np.ndarray]) -> Norm | None:
    numbers = _numbers(node.input[1:3], constants, 1)
    if numbers is None:
        return None
    scale, shift = numbers
    return Norm(scale, shift, settings_of(node).get("epsilon", 1e-5))


def _measures(nodes: list[Any], source: str, constants: Mapping[str, np.ndarray]) -> bool:
    """Tell whether the last node's mean and variance are those of its own input, channel by channel."""
    row_mean, mean, squares, shape, length, row_power, power, mean_squared, variance = (
        node.output[0] for node in nodes[:-1]
    )
    scale, shift = nodes[-1].input[1:3]
    rows, rest = [4], [0, 2, 3, 4]
    wanted: list[tuple[list[Any], dict[str, Any]]] = [
        ([source, rows], {}),
        ([row_mean, rest], {"keepdims": 0}),
        ([source, rows], {}),
        ([source], {"start": 4, "end": 5}),
        ([shape], {"to": TensorProto.FLOAT}),
        ([squares, length], {}),
        ([row_power, rest], {"keepdims": 0}),
        ([mean, mean], {}),
        ([power, mean_squared], {}),
        ([source, scale, shift, mean, variance], {}),
    ]
    return all(
        [_value(name, constants) if name not in (scale, shift) else name for name in node.input] == inputs
        and {k: v for k, v in settings_of(node).items() if k != "epsilon"} == settings
        for node, (inputs, settings) in zip(nodes, wanted, strict=True)
    )


def _value(name: str, constants: Mapping[str, np.ndarray]) -> Any:
    """Give what a constant holds, and of all else the name."""
    return constants[name].tolist() if name in constants else name


def _fit_each_other(layers: Sequence[Layer]) -> bool:
    return all(len(before.weights) == after.weights.shape[1] for before, after in pairwise(layers)) and all(
        layer.norm is None or len(layer.norm.scale) == len(layer.norm.shift) == len(layer.weights)
        for layer in layers
    )
