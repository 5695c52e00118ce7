"""Published MeshNet weights (TensorFlow.js layers models) → ONNX, byte for byte the same each time."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from brainchop_pipe.errors import ModelError

INPUT_NAME = "volume"
OUTPUT_NAME = "logits"

# Pinned so that the file does not change with the installed onnx. Opset 20 is the
# first with Gelu; IR 9 is what onnxruntime 1.17 and newer read.
_OPSET = 20
_IR_VERSION = 9

# The exporter marks a convolution that an instance norm follows by this name suffix.
_INSTANCE_NORM_SUFFIX = "_gn"
_INSTANCE_NORM_EPSILON = 1e-5

_ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("Relu", {}),
    "elu": ("Elu", {"alpha": 1.0}),
    "gelu": ("Gelu", {"approximate": "none"}),
}

# TensorFlow.js kernels are (kd, kh, kw, in, out), ONNX wants (out, in, kd, kh, kw).
_KERNEL_AXES = (4, 3, 0, 1, 2)


@dataclass(frozen=True)
class _Layer:
    """One layer of the chain: its kind (Keras class name), its name and its settings."""

    kind: str
    name: str
    config: dict[str, Any]


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
    document = json.loads(topology)
    tensors = _read_tensors(document, weights)
    layers = list(_chain(document))
    nodes: list[onnx.NodeProto] = []
    initializers: dict[str, np.ndarray] = {}
    value = INPUT_NAME
    for layer in layers[1:]:
        if layer.kind == "Conv3D":
            value = _add_convolution(layer, value, tensors, nodes, initializers)
        elif layer.kind == "Activation":
            value = _add_activation(layer, value, nodes)
        else:
            raise ModelError(
                f"layer {layer.name!r} is a {layer.kind}; a MeshNet has Conv3D and Activation only"
            )
    if tensors:
        raise ModelError(f"weights {sorted(tensors)} belong to no layer of the model")
    nodes[-1].output[0] = OUTPUT_NAME
    channels = int(layers[0].config["batch_input_shape"][-1])
    classes = int(_last_convolution(layers).config["filters"])
    return _serialise(nodes, initializers, channels, classes)


def _read_tensors(document: dict[str, Any], weights: bytes) -> dict[str, np.ndarray]:
    """Cut the weight file into named float32 tensors; what does not fit exactly is an error."""
    entries = [entry for group in document["weightsManifest"] for entry in group["weights"]]
    needed = sum(4 * int(np.prod(entry["shape"])) for entry in entries)
    if needed != len(weights):
        raise ModelError(f"weight file has {len(weights)} bytes; its manifest describes {needed}")
    tensors = {}
    offset = 0
    for entry in entries:
        if entry["dtype"] != "float32":
            raise ModelError(f"weight {entry['name']!r} is {entry['dtype']}; float32 is needed")
        count = int(np.prod(entry["shape"]))
        flat = np.frombuffer(weights, dtype="<f4", count=count, offset=offset)
        tensors[entry["name"]] = flat.reshape(entry["shape"])
        offset += 4 * count
    return tensors


def _chain(document: dict[str, Any]) -> Iterator[_Layer]:
    """Yield the layers in order, and refuse a model in which one does not follow the other."""
    previous = None
    for entry in document["modelTopology"]["model_config"]["config"]["layers"]:
        sources = [node[0] for call in entry["inbound_nodes"] for node in call]
        if sources != ([] if previous is None else [previous]):
            raise ModelError(
                f"layer {entry['name']!r} takes {sources}, not just its predecessor {previous!r}; "
                "only plain chains can be converted"
            )
        previous = entry["name"]
        yield _Layer(entry["class_name"], entry["name"], entry["config"])


def _last_convolution(layers: list[_Layer]) -> _Layer:
    return next(layer for layer in reversed(layers) if layer.kind == "Conv3D")


def _add_convolution(
    layer: _Layer,
    value: str,
    tensors: dict[str, np.ndarray],
    nodes: list[onnx.NodeProto],
    initializers: dict[str, np.ndarray],
) -> str:
    """Append a 'same' convolution, with its instance norm where the name asks for one."""
    config = layer.config
    if config["padding"] != "same" or set(config["strides"]) != {1}:
        raise ModelError(f"layer {layer.name!r} is not a stride-1 convolution with 'same' padding")
    if config.get("activation", "linear") != "linear":
        raise ModelError(f"layer {layer.name!r} has a built-in {config['activation']} activation")
    names = ["kernel", "bias"] if config["use_bias"] else ["kernel"]
    inputs = [value]
    for name in names:
        key = f"{layer.name}/{name}"
        if key not in tensors:
            raise ModelError(f"layer {layer.name!r} lacks its {name} in the weight file")
        tensor = tensors.pop(key)
        initializers[key] = tensor.transpose(_KERNEL_AXES) if name == "kernel" else tensor
        inputs.append(key)
    padding = [d * (k - 1) // 2 for d, k in zip(config["dilation_rate"], config["kernel_size"], strict=True)]
    nodes.append(
        helper.make_node(
            "Conv",
            inputs,
            [f"{layer.name}/out"],
            name=layer.name,
            kernel_shape=config["kernel_size"],
            dilations=config["dilation_rate"],
            pads=padding + padding,
        )
    )
    if not layer.name.endswith(_INSTANCE_NORM_SUFFIX):
        return f"{layer.name}/out"
    return _add_instance_norm(layer, nodes, initializers)


def _add_instance_norm(
    layer: _Layer, nodes: list[onnx.NodeProto], initializers: dict[str, np.ndarray]
) -> str:
    """Append an instance norm whose statistics stay exact over millions of voxels.

    onnxruntime's InstanceNormalization adds 256³ float32 values in one go, which
    changed 375 labels of a head. Here rows are reduced first, then the rows' results,
    and a BatchNormalization takes the mean and variance: 0 labels, and one pass less.
    """
    channels = int(layer.config["filters"])
    scale, shift = f"norm_scale_{channels}", f"norm_shift_{channels}"
    initializers[scale] = np.ones(channels, np.float32)
    initializers[shift] = np.zeros(channels, np.float32)
    initializers["row_axis"] = np.array([4], np.int64)
    initializers["all_but_channel"] = np.array([0, 2, 3, 4], np.int64)
    source = f"{layer.name}/out"

    def add(operator: str, inputs: list[str], result: str, **attributes: Any) -> str:
        name = f"{layer.name}/{result}"
        nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
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


def _add_activation(layer: _Layer, value: str, nodes: list[onnx.NodeProto]) -> str:
    name = layer.config["activation"]
    if name not in _ACTIVATIONS:
        raise ModelError(f"layer {layer.name!r} is a {name!r}; known are {sorted(_ACTIVATIONS)}")
    operator, attributes = _ACTIVATIONS[name]
    output = f"{layer.name}/out"
    nodes.append(helper.make_node(operator, [value], [output], name=layer.name, **attributes))
    return output


def _serialise(
    nodes: list[onnx.NodeProto], initializers: dict[str, np.ndarray], channels: int, classes: int
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "meshnet",
        [helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, [1, channels, "D", "H", "W"])],
        [helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, [1, classes, "D", "H", "W"])],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in initializers.items()],
    )
    model = helper.make_model(
        graph,
        producer_name="brainchop_pipe",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
