"""Made networks in the shapes that people publish."""

from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from brainchop_pipe.zoo.convert import onnx_from_layers
from brainchop_pipe.zoo.meshnet import Activation, Convolution


class Graph:
    """Collects nodes and weights."""

    def __init__(self, opset: int = 17) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: Sequence[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def weight(self, name: str, array: np.ndarray) -> str:
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
        return name

    def conv(self, value: str, name: str, kernel: np.ndarray, **attributes: object) -> str:
        return self.add("Conv", [value, self.weight(f"{name}_kernel", kernel)], name, **attributes)

    def model(self, shape_in: list[object], shape_out: list[object]) -> bytes:
        graph = helper.make_graph(
            self.nodes,
            "made",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape_in)],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape_out)],
            self.tensors,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        return bytes(model.SerializeToString(deterministic=True))


def centre_kernel(out: int, into: int, axes: int, size: int = 3) -> np.ndarray:
    """A convolution that hands on what is there: the same in each output channel."""
    kernel = np.zeros((out, into, *[size] * axes))
    kernel[(slice(None), 0, *[size // 2] * axes)] = 1
    return kernel


def mesh_net(
    dilations: Sequence[int],
    classes: int = 3,
    channels: int = 4,
    seed: int = 0,
    activation: str = "Elu",
    damaged: float | None = None,
) -> bytes:
    """A chain of dilated 3×3×3 convolutions with random weights, and a 1×1×1 one at the end.

    `damaged` takes the place of one weight of each layer.
    """
    random = np.random.default_rng(seed)
    graph, value, into = Graph(), "image", 1
    for layer, d in enumerate(dilations):
        kernel = random.normal(0, (into * 27) ** -0.5, (channels, into, 3, 3, 3)) * 1.5
        if damaged is not None:
            kernel[0, 0, 1, 1, 1] = damaged
        value = graph.conv(value, f"conv{layer}", kernel, dilations=[d] * 3, pads=[d] * 6)
        value, into = graph.add(activation, [value], f"active{layer}"), channels
    graph.conv(value, "scores", random.normal(0, 1, (classes, into, 1, 1, 1)))
    return graph.model([1, 1, "D", "H", "W"], [1, classes, "D", "H", "W"])


def normed_mesh_net(
    dilations: Sequence[int], channels: int = 4, norm: str = "InstanceNormalization", seed: int = 0
) -> bytes:
    """A chain as `mesh_net` makes, with an instance norm and a GELU behind each convolution but the last.

    `norm` is "InstanceNormalization", or "measured" for the nodes that the converter writes.
    """
    if norm == "measured":
        return onnx_from_layers(list(_normed_layers(dilations, channels, seed)))
    random = np.random.default_rng(seed)
    graph, value, into = Graph(20), "image", 1
    scale, shift = (graph.weight(n, random.normal(m, 0.2, channels)) for n, m in (("scale", 1), ("shift", 0)))
    for layer, d in enumerate(dilations):
        kernel = random.normal(0, (into * 27) ** -0.5, (channels, into, 3, 3, 3))
        value = graph.conv(value, f"conv{layer}", kernel, dilations=[d] * 3, pads=[d] * 6)
        value = graph.add(norm, [value, scale, shift], f"normed{layer}", epsilon=1e-4)
        value, into = graph.add("Gelu", [value], f"active{layer}"), channels
    graph.conv(value, "scores", random.normal(0, 1, (3, into, 1, 1, 1)))
    return graph.model([1, 1, "D", "H", "W"], [1, 3, "D", "H", "W"])


def _normed_layers(dilations: Sequence[int], channels: int, seed: int) -> Iterator[Convolution | Activation]:
    random = np.random.default_rng(seed)
    into = 1
    for layer, d in enumerate(dilations):
        kernel = random.normal(0, (into * 27) ** -0.5, (channels, into, 3, 3, 3)).astype(np.float32)
        yield Convolution(f"conv{layer}", kernel, None, (d, d, d), has_instance_norm=True)
        yield Activation(f"active{layer}", "gelu")
        into = channels
    last = random.normal(0, 1, (3, into, 1, 1, 1)).astype(np.float32)
    yield Convolution("last", last, np.ones(3, np.float32), (1, 1, 1))


def unet(axes: int, sizes: Sequence[object], threshold: float = 0.5, batch: object = 1) -> bytes:
    """A residual U-Net with one level, one channel and two classes: 1 where the image is above a threshold.

    What comes back from the lower level is weighed with 0, so that its labels are known.
    """
    graph = Graph()
    pads, twice = [1] * 2 * axes, [2] * axes
    skip = graph.conv("image", "first", centre_kernel(2, 1, axes), pads=pads)
    residual = graph.conv(skip, "inner", centre_kernel(2, 2, axes) * 0, pads=pads)
    skip = graph.add("Add", [skip, residual], "with_residual")
    low = graph.conv(skip, "down", centre_kernel(4, 2, axes), strides=twice, pads=pads)
    low = graph.add("Relu", [low], "low")
    up = graph.add(
        "ConvTranspose", [low, graph.weight("up_kernel", np.ones((4, 2, *twice)) * 0.25)], "up", strides=twice
    )
    both = graph.add("Concat", [skip, up], "both", axis=1)
    kernel = np.zeros((2, 4, *[1] * axes))
    kernel[1, 0] = 20
    bias = graph.weight("last_bias", np.array([0, -20 * threshold]))
    graph.add("Conv", [both, graph.weight("last_kernel", kernel), bias], "scores")
    return graph.model([batch, 1, *sizes], [batch, 2, *sizes])


def identity_channels_last() -> bytes:
    """Two classes in half precision, channels last: 1 where the image is above a half."""
    graph = Graph()
    half = numpy_helper.from_array(np.array([0, 1], np.float16), "side")
    graph.tensors.append(half)
    graph.tensors.append(numpy_helper.from_array(np.array([0, -0.5], np.float16), "shift"))
    scaled = graph.add("Mul", ["image", "side"], "scaled")
    graph.add("Add", [scaled, "shift"], "scores")
    sizes = ["N", "D", "H", "W"]
    made = helper.make_graph(
        graph.nodes,
        "made",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT16, [*sizes, 1])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT16, [*sizes, 2])],
        graph.tensors,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString(deterministic=True))


def ending_in(values: str) -> bytes:
    """A network whose output is a sigmoid's score, label numbers, or probabilities."""
    graph = Graph()
    sizes: list[object] = ["D", "H", "W"]
    if values == "sigmoid":
        half = graph.weight("half", np.array(-0.5))
        graph.add("Add", ["image", half], "scores")
        return graph.model([1, 1, *sizes], [1, 1, *sizes])
    bounds = [
        graph.add("Greater", ["image", graph.weight(f"t{t}", np.array(t))], f"above{t}") for t in (0.25, 0.75)
    ]
    low, high = (graph.add("Cast", [b], f"{b}_number", to=TensorProto.FLOAT) for b in bounds)
    if values == "labels":
        graph.add("Add", [low, high], "scores")
        return graph.model([1, 1, *sizes], [1, 1, *sizes])
    one = graph.weight("one", np.array(1.0))
    parts = [graph.add("Sub", [one, low], "p0"), graph.add("Sub", [low, high], "p1"), high]
    graph.add("Concat", parts, "scores", axis=1)
    return graph.model([1, 1, *sizes], [1, 3, *sizes])


def answering_for_a_box(
    content: bytes, low: Sequence[int], high: Sequence[int], corner: object = None
) -> bytes:
    """A network that gives a part of what another one does, and where that begins."""
    model = onnx.load_from_string(content)
    whole = model.graph.output[0]
    for name, values in (("low", low), ("high", high), ("axes", (2, 3, 4)), ("corner", corner or low)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), name))
    model.graph.node.append(helper.make_node("Slice", [whole.name, "low", "high", "axes"], ["part"]))
    model.graph.node.append(helper.make_node("Identity", ["corner"], ["first"]))
    channels = whole.type.tensor_type.shape.dim[1].dim_value
    del model.graph.output[:]
    for name, kind, shape in (
        ("part", TensorProto.FLOAT, [1, channels, "i", "j", "k"]),
        ("first", TensorProto.INT64, [3]),
    ):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
    return bytes(model.SerializeToString(deterministic=True))


def brightness_of_channel(channel: int, channels: int) -> bytes:
    """Two classes: 1 where one of several channels is above a half."""
    graph = Graph()
    kernel = np.zeros((2, channels, 1, 1, 1))
    kernel[1, channel] = 20
    bias = graph.weight("bias", np.array([0, -10]))
    graph.add("Conv", ["image", graph.weight("kernel", kernel), bias], "scores")
    return graph.model([1, channels, "D", "H", "W"], [1, 2, "D", "H", "W"])
