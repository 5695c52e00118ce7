"""ONNX networks that are a chain of dilated convolutions, MeshNets above all, as a list of layers."""

from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numpy as np
from onnx import TensorProto, helper

from brainchop_pipe.inference.onnx_file import array_of, check_model, parse_model

Activation = Literal["linear", "relu", "elu"]

_ACTIVATIONS: dict[str, Activation] = {"Relu": "relu", "Elu": "elu"}


class Layer(NamedTuple):
    """A convolution over a volume that keeps its shape, and what follows it.

    Parameters
    ----------
    weights : float32, shape (outputs, inputs, n, n, n)
        n is 1 or 3.
    bias : float32, shape (outputs,)
    dilation : int
        Of all three axes; what lies beyond the volume counts as 0.
    activation : {"linear", "relu", "elu"}
    """

    weights: np.ndarray
    bias: np.ndarray
    dilation: int
    activation: Activation


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
    if not {node.op_type for node in graph.node} <= {"Conv", *_ACTIVATIONS}:
        return None
    check_model(proto)
    if len(graph.input) != 1 or len(graph.output) != 1 or not _is_float32_volume(graph.input[0]):
        return None
    constants = {tensor.name: tensor for tensor in graph.initializer}
    layers: list[Layer] = []
    name = graph.input[0].name
    for node in graph.node:
        if node.domain not in ("", "ai.onnx") or list(node.output[1:]) or node.input[:1] != [name]:
            return None
        if node.op_type == "Conv":
            layer = _convolution(node, constants)
        else:
            layer = _activated(layers, node)
            del layers[-1:]
        if layer is None:
            return None
        layers.append(layer)
        name = node.output[0]
    return tuple(layers) if name == graph.output[0].name and _fit_each_other(layers) else None


def _is_float32_volume(value: Any) -> bool:
    kind = value.type.tensor_type
    return kind.elem_type == TensorProto.FLOAT and len(kind.shape.dim) == 5


def _is_float32_here(tensor: Any) -> bool:
    """Tell whether a constant is there, of this type, and not in another file."""
    return (
        tensor is not None
        and tensor.data_type == TensorProto.FLOAT
        and tensor.data_location == TensorProto.DEFAULT
    )


def _convolution(node: Any, constants: dict[str, Any]) -> Layer | None:
    tensors = [constants.get(name) for name in node.input[1:] if name]
    if not 1 <= len(tensors) <= 2 or not all(map(_is_float32_here, tensors)):
        return None
    weights, *biases = [array_of(tensor) for tensor in tensors]
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if weights.ndim != 5 or weights.shape[2:] not in ((1, 1, 1), (3, 3, 3)):
        return None
    dilations, edge = settings.get("dilations", [1, 1, 1]), weights.shape[-1]
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
    bias = biases[0] if biases else np.zeros(len(weights), np.float32)
    return Layer(weights, bias, dilations[0], "linear")


def _activated(layers: list[Layer], node: Any) -> Layer | None:
    """Give the last layer with what a node does to its output."""
    kind = _ACTIVATIONS.get(node.op_type)
    alpha = next((a.f for a in node.attribute if a.name == "alpha"), 1.0)
    if kind is None or alpha != 1.0 or not layers or layers[-1].activation != "linear":
        return None
    return layers[-1]._replace(activation=kind)


def _fit_each_other(layers: list[Layer]) -> bool:
    return bool(layers) and all(
        len(before.weights) == after.weights.shape[1] for before, after in pairwise(layers)
    )
