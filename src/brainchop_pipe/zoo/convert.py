"""MeshNets as their makers publish them → ONNX, byte for byte the same each time."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from brainchop_pipe.errors import ModelError
from brainchop_pipe.zoo.meshnet import Activation, ActivationKind, Convolution, Layer, MeshNetPlan
from brainchop_pipe.zoo.safetensors_meshnet import layers_of_safetensors
from brainchop_pipe.zoo.tfjs import layers_of_tfjs

INPUT_NAME = "volume"
OUTPUT_NAME = "logits"

# Pinned so that the file does not change with the installed onnx. Opset 20 is the
# first with Gelu; IR 9 is what onnxruntime 1.17 and newer read.
_OPSET = 20
_IR_VERSION = 9

_INSTANCE_NORM_EPSILON = 1e-5

_ACTIVATIONS: dict[ActivationKind, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "gelu": ("Gelu", {"approximate": "none"}),
}


@dataclass(frozen=True)
class _Graph:
    """Nodes and constants so far; a constant given twice under one name is kept once."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)


def onnx_from_tfjs(topology: bytes, weights: bytes) -> bytes:
    """Convert a TensorFlow.js layers model that is a plain chain of 3-D convolutions.

    Parameters
    ----------
    topology : bytes
        Content of ``model.json``.
    weights : bytes
        Content of the weight file: little-endian float32 tensors in the order of
        the manifest, nothing between or after them.

    Returns
    -------
    bytes
        ONNX model with input ``volume`` float32 (1, channels, D, H, W) and output
        ``logits`` float32 (1, classes, D, H, W) for any D, H, W. The same input
        gives the same bytes. Zero padding keeps D, H, W in each layer.

    Raises
    ------
    ModelError
        The model is no chain, holds a layer that MeshNets do not have, or its
        tensors do not fill the weight file exactly.

    Notes
    -----
    A convolution whose name ends in ``_gn`` is followed by an instance norm over
    the whole field of view (no affine part, epsilon 1e-5, biased variance), which
    is how the upstream exporter marks it. GELU is the exact form.

    Source: neuroneural/brainchop 4c87885, ``public/models``.
    """
    return onnx_from_layers(layers_of_tfjs(topology, weights))


def onnx_from_safetensors(weights: bytes, plan: MeshNetPlan) -> bytes:
    """Convert a MeshNet of PyTorch or tinygrad that is kept as safetensors.

    Parameters
    ----------
    weights : bytes
        Content of the file; for the names of its tensors see `layers_of_safetensors`.
    plan : MeshNetPlan
        What the file does not say.

    Returns
    -------
    bytes
        As `onnx_from_tfjs` gives; batch norms are folded into the convolutions.

    Raises
    ------
    ModelError
        This is no safetensors file, it holds something that MeshNets do not have, or it
        does not fit the plan.
    """
    return onnx_from_layers(layers_of_safetensors(weights, plan))


def onnx_from_layers(layers: Sequence[Layer]) -> bytes:
    """Write a chain of layers as an ONNX model: (1, channels, D, H, W) to (1, classes, D, H, W), float32."""
    convolutions = [layer for layer in layers if isinstance(layer, Convolution)]
    if not convolutions:
        raise ModelError("the model has no convolution; a MeshNet has some")
    graph = _Graph()
    value = INPUT_NAME
    for layer in layers:
        if isinstance(layer, Convolution):
            value = _add_convolution(layer, value, graph)
        else:
            value = _add_activation(layer, value, graph)
    graph.nodes[-1].output[0] = OUTPUT_NAME
    return _serialise(graph, convolutions[0].kernel.shape[1], convolutions[-1].kernel.shape[0])


def _add_convolution(layer: Convolution, value: str, graph: _Graph) -> str:
    """Append a convolution that keeps D, H, W, with the instance norm after it if there is one."""
    inputs = [value]
    for part, tensor in (("kernel", layer.kernel), ("bias", layer.bias)):
        if tensor is not None:
            graph.constants[f"{layer.name}/{part}"] = tensor
            inputs.append(f"{layer.name}/{part}")
    sizes = layer.kernel.shape[2:]
    padding = [d * (k - 1) // 2 for d, k in zip(layer.dilation, sizes, strict=True)]
    graph.nodes.append(
        helper.make_node(
            "Conv",
            inputs,
            [f"{layer.name}/out"],
            name=layer.name,
            kernel_shape=sizes,
            dilations=layer.dilation,
            pads=padding + padding,
        )
    )
    if not layer.has_instance_norm:
        return f"{layer.name}/out"
    return _add_instance_norm(layer, graph)


def _add_instance_norm(layer: Convolution, graph: _Graph) -> str:
    """Append an instance norm whose statistics stay exact over millions of voxels.

    onnxruntime's InstanceNormalization adds 256³ float32 values in one go, which
    changed 375 labels of a head. Here rows are reduced first, then the rows' results,
    and a BatchNormalization takes the mean and variance: 0 labels, and one pass less.
    """
    channels = layer.kernel.shape[0]
    scale, shift = f"norm_scale_{channels}", f"norm_shift_{channels}"
    graph.constants[scale] = np.ones(channels, np.float32)
    graph.constants[shift] = np.zeros(channels, np.float32)
    graph.constants["row_axis"] = np.array([4], np.int64)
    graph.constants["all_but_channel"] = np.array([0, 2, 3, 4], np.int64)
    source = f"{layer.name}/out"

    def add(operator: str, inputs: list[str], result: str, **attributes: Any) -> str:
        name = f"{layer.name}/{result}"
        graph.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    row_mean = add("ReduceMean", [source, "row_axis"], "row_mean")
    mean = add("ReduceMean", [row_mean, "all_but_channel"], "mean", keepdims=0)
    row_squares = add("ReduceSumSquare", [source, "row_axis"], "row_squares")
    row_shape = add("Shape", [source], "row_shape", start=4, end=5)
    row_length = add("Cast", [row_shape], "row_length", to=TensorProto.FLOAT)
    row_power = add("Div", [row_squares, row_length], "row_power")
    power = add("ReduceMean", [row_power, "all_but_channel"], "power", keepdims=0)
    variance = add("Sub", [power, add("Mul", [mean, mean], "mean_squared")], "variance")
    inputs = [source, scale, shift, mean, variance]
    return add("BatchNormalization", inputs, "norm", epsilon=_INSTANCE_NORM_EPSILON)


def _add_activation(layer: Activation, value: str, graph: _Graph) -> str:
    operator, attributes = _ACTIVATIONS[layer.kind]
    output = f"{layer.name}/out"
    graph.nodes.append(helper.make_node(operator, [value], [output], name=layer.name, **attributes))
    return output


def _serialise(graph: _Graph, channels: int, classes: int) -> bytes:
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "meshnet",
            [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [1, channels, "D", "H", "W"])],
            [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [1, classes, "D", "H", "W"])],
            [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in graph.constants.items()],
        ),
        producer_name="brainchop_pipe",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
