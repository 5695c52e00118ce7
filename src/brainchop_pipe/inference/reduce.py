"""A network that gives logits → one that gives labels, without the logits of all classes at once."""

import copy
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.onnx_file import array_of, check_model, parse_model, settings_of, type_name

LABELS_NAME = "labels"
CONFIDENCE_NAME = "confidence"

# Classes whose logits are there at a time, and their powers with them. Up to 5 the peak of 104
# classes (21 hidden channels) stays that of the hidden layers: 3.1 GB of 256³, and 2.1 GB of
# 173×256×256, where all logits take 7 GB; fewer take longer.
_CHUNK = 5

# Names of all values that are added begin so.
_OWN = "labels_model/"
_SHARED: dict[str, np.ndarray] = {
    "class_axis": np.array([1], np.int64),
    "corner_starts": np.array([0, 0, 0], np.int64),
    "corner_ends": np.array([1, 1, 1], np.int64),
    "corner_axes": np.array([1, 2, 3], np.int64),
    "one": np.array([1], np.int64),
    "zero": np.array([0], np.float32),
}

# From these opsets on the axes of a reduction are an input, before they are an attribute.
_AXES_ARE_INPUT = {"ReduceMax": 18, "ReduceSum": 13}
_LOWEST_OPSET = 11

_REAL_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)


class _Running(NamedTuple):
    """What the classes so far come to: names of values of shape (1, D, H, W)."""

    best: str
    label: str
    total: str
    plain: str = ""


@dataclass(frozen=True)
class _Builder:
    """Appends nodes and constants, under names of its own, to a graph."""

    graph: Any
    opset: int
    guarded: bool

    def add(self, operator: str, inputs: list[str], result: str, **attributes: Any) -> str:
        name = _OWN + result
        self.graph.node.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: np.ndarray) -> str:
        self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), _OWN + name))
        return _OWN + name

    def shared(self, name: str) -> str:
        if all(tensor.name != _OWN + name for tensor in self.graph.initializer):
            self.constant(name, _SHARED[name])
        return _OWN + name

    def reduce(self, operator: str, value: str, result: str) -> str:
        if self.opset >= _AXES_ARE_INPUT[operator]:
            return self.add(operator, [value, self.shared("class_axis")], result, keepdims=0)
        return self.add(operator, [value], result, axes=[1], keepdims=0)


def split_model(model: bytes, classes: int, most_channels: float = inf) -> tuple[bytes, bytes] | None:
    """Split a network into what comes before its last layer, and that layer with the arg-max.

    For libraries that would hold the logits of all classes at once, whatever the order
    in the graph: the second part can be run on a few slices at a time.

    Parameters
    ----------
    model : bytes
        As for `labels_model`.
    classes : int
    most_channels : float
        Not where more hidden channels than these would be held between the parts.

    Returns
    -------
    (bytes, bytes) or None
        The first gives hidden channels (1, C, D, H, W), float32; the second takes
        these, or any slices of them along D, and gives what `labels_model` gives. None
        also where the last layer is no 1×1×1 convolution with constant weights.
    """
    proto = parse_model(model)
    check_model(proto)
    last = _pointwise_convolution(proto.graph, _logits(proto, classes))
    if last is None:
        return None
    channels = _channels_into(proto.graph, last)
    if channels > most_channels:
        return None
    hidden = helper.make_tensor_value_info(
        last.input[0], TensorProto.FLOAT, [1, channels, "depth", "height", "width"]
    )
    first, second = copy.deepcopy(proto), copy.deepcopy(proto)
    first.graph.node.remove(last)
    first.graph.output[0].CopyFrom(hidden)
    del second.graph.node[:], second.graph.input[:]
    second.graph.node.append(last)
    second.graph.input.append(hidden)
    for part in (first, second):
        _forget_unused(part.graph)
    return bytes(first.SerializeToString(deterministic=True)), labels_model(
        bytes(second.SerializeToString(deterministic=True)), classes, at_a_time=classes, guarded=True
    )


def labels_model(model: bytes, classes: int, at_a_time: int = _CHUNK, *, guarded: bool = False) -> bytes:
    """Make a network give each voxel's label, and how sure it is, in place of logits.

    Parameters
    ----------
    model : bytes
        ONNX model with one output: logits (1, classes, D, H, W), float32; float16 and
        float64 are cast to it.
    classes : int
    at_a_time : int
        Classes whose logits are there at a time.
    guarded : bool
        Add up the logits as well, for libraries whose maximum and exponential lose NaN.

    Returns
    -------
    bytes
        ONNX model with the same input and two outputs: ``labels``, the arg-max of the
        logits, uint8 (1, D, H, W), uint16 for more than 256 classes; ``confidence``,
        the soft-max probability of that class, float32 (1, D, H, W). The lowest class
        wins ties. Where a logit is NaN or +infinite the confidence is NaN. The same
        input gives the same bytes.

    Raises
    ------
    ModelError
        This is no valid ONNX model, or its output is something else.

    Notes
    -----
    A last 1×1×1 convolution with constant weights is split, so that the logits of a few
    classes are there at a time; those of 104 classes at 256³ are 7 GB. What follows
    another last node holds all logits, twice.

    Source: Milakov and Gimelshein 2018 (arXiv:1805.02867), algorithm 3, with chunks of
    classes in the place of single values.
    """
    proto = parse_model(model)
    check_model(proto)
    logits = _logits(proto, classes)
    _refuse_taken_names(proto.graph)
    build = _builder(proto, guarded=guarded)
    last = _pointwise_convolution(proto.graph, logits)
    running = _split_convolution(build, last, at_a_time) if last is not None else _reduce_all(build, logits)
    _finish(build, running, logits, classes)
    check_model(proto)
    return bytes(proto.SerializeToString(deterministic=True))


def _logits(proto: Any, classes: int) -> Any:
    """Give the one output; refuse a model in which it cannot be logits of these classes."""
    if len(proto.graph.output) != 1:
        names = [output.name for output in proto.graph.output]
        raise ModelError(f"the model has the outputs {names}; one, the logits, is needed")
    logits = proto.graph.output[0]
    shape = _shape(logits)
    fits = len(shape) == 5 and all(
        found == wanted or not isinstance(found, int)
        for found, wanted in zip(shape, (1, classes), strict=False)
    )
    if logits.type.tensor_type.elem_type not in _REAL_TYPES or not fits:
        raise ModelError(
            f"output {logits.name!r} is {type_name(logits.type.tensor_type.elem_type)} {shape}; "
            f"FLOAT [1, {classes}, D, H, W] is needed"
        )
    return logits


def _shape(value: Any) -> list[int | str | None]:
    """Give the sizes that a file tells: a number, a name, or None."""
    axes = value.type.tensor_type.shape.dim
    return [axis.dim_param or (axis.dim_value if axis.dim_value > 0 else None) for axis in axes]


def _refuse_taken_names(graph: Any) -> None:
    names = {value.name for values in (graph.input, graph.initializer) for value in values}
    names |= {name for node in graph.node for name in node.output}
    taken = sorted(n for n in names if n in (LABELS_NAME, CONFIDENCE_NAME) or n.startswith(_OWN))
    if taken:
        raise ModelError(f"the model has values named {taken} already; give them other names")


def _builder(proto: Any, *, guarded: bool) -> _Builder:
    opset = max((int(o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    if opset < _LOWEST_OPSET:
        raise ModelError(f"the model has opset {opset}; convert it to {_LOWEST_OPSET} or a higher one")
    return _Builder(proto.graph, opset, guarded)


def _pointwise_convolution(graph: Any, logits: Any) -> Any:
    """Find the last node if it is a 1×1×1 convolution that can be cut into chunks, else None."""
    last = next((node for node in graph.node if logits.name in node.output), None)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    constant_names = {*constants, ""} - {value.name for value in graph.input}
    if last is None or last.op_type != "Conv" or not set(last.input[1:]) <= constant_names:
        return None
    settings = settings_of(last)
    is_plain = (
        list(constants[last.input[1]].dims[2:]) == [1, 1, 1]
        and settings.get("group", 1) == 1
        and set(settings.get("strides", [1])) == {1}
        and set(settings.get("pads", [0])) == {0}
        and logits.type.tensor_type.elem_type == TensorProto.FLOAT
        and not any(logits.name in node.input for node in graph.node)
    )
    return last if is_plain else None


def _channels_into(graph: Any, convolution: Any) -> int:
    return int(next(t for t in graph.initializer if t.name == convolution.input[1]).dims[1])


def _reduce_all(build: _Builder, logits: Any) -> _Running:
    """Reduce logits that are there in one piece."""
    single = build.add("Cast", [logits.name], "single", to=TensorProto.FLOAT)
    return _join(build, None, single, 0, "all/")


def _split_convolution(build: _Builder, last: Any, at_a_time: int) -> _Running:
    """Put a convolution for each chunk of classes in the place of one for all."""
    hidden = last.input[0]
    first = 0
    joined: list[_Running] = []
    for part, (weights, biases) in enumerate(_take_chunks(build.graph, last, at_a_time)):
        prefix = f"{part}/"
        kernel = build.constant(f"{prefix}kernel", weights)
        bias = build.constant(f"{prefix}bias", biases)
        if joined:
            bias = _after(build, joined[-1], bias, prefix)
        logits = build.add("Conv", [hidden, kernel, bias], f"{prefix}logits", kernel_shape=[1, 1, 1])
        joined.append(_join(build, joined[-1] if joined else None, logits, first, prefix))
        first += len(weights)
    return joined[-1]


def _take_chunks(graph: Any, last: Any, at_a_time: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Remove a convolution; give its weights and biases in chunks of about the same size."""
    names = [name for name in last.input[1:] if name]
    tensors = {t.name: array_of(t) for t in graph.initializer if t.name in names}
    graph.node.remove(last)
    _forget_unused(graph)
    weights = tensors[names[0]]
    biases = tensors[names[1]] if len(names) == 2 else np.zeros(len(weights), np.float32)
    count = -(-len(weights) // at_a_time)
    return list(zip(np.array_split(weights, count), np.array_split(biases, count), strict=True))


def _forget_unused(graph: Any) -> None:
    """Remove constants that no node takes."""
    used = {name for node in graph.node for name in node.input}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _after(build: _Builder, done: _Running, bias: str, prefix: str) -> str:
    """Add to a bias a zero that is not known before the chunks so far are done with.

    onnxruntime orders nodes by itself, and would hold the logits of all chunks at once.
    """
    corner = [build.shared(f"corner_{part}") for part in ("starts", "ends", "axes")]
    values = []
    for name in ("total", "label"):
        value = build.add("Slice", [getattr(done, name), *corner], f"{prefix}{name}_corner")
        values.append(build.add("Cast", [value], f"{prefix}{name}_value", to=TensorProto.FLOAT))
    both = build.add("Add", values, f"{prefix}both")
    flat = build.add("Reshape", [both, build.shared("one")], f"{prefix}flat")
    # False, also for NaN: neither value is negative.
    never = build.add("Less", [flat, build.shared("zero")], f"{prefix}never")
    zero = build.add("Cast", [never], f"{prefix}zero", to=TensorProto.FLOAT)
    return build.add("Add", [bias, zero], f"{prefix}bias_in_turn")


def _join(build: _Builder, before: _Running | None, logits: str, first: int, prefix: str) -> _Running:
    """Join the logits of some classes, (1, n, D, H, W), to what the classes below `first` came to."""
    best = build.reduce("ReduceMax", logits, f"{prefix}max")
    index = build.add("ArgMax", [logits], f"{prefix}argmax", axis=1, keepdims=0)
    if first:
        index = build.add(
            "Add", [index, build.constant(f"{prefix}first", np.array(first, np.int64))], f"{prefix}index"
        )
    label = build.add("Cast", [index], f"{prefix}cast", to=TensorProto.INT32)
    if before is not None:
        is_better = build.add("Greater", [best, before.best], f"{prefix}is_better")
        label = build.add("Where", [is_better, label, before.label], f"{prefix}label")
        best = build.add("Max", [before.best, best], f"{prefix}best")
    powers = build.add("Exp", [build.add("Sub", [logits, best], f"{prefix}shifted")], f"{prefix}powers")
    total = build.reduce("ReduceSum", powers, f"{prefix}sum")
    if before is not None:
        change = build.add("Exp", [build.add("Sub", [before.best, best], f"{prefix}fall")], f"{prefix}change")
        rescaled = build.add("Mul", [before.total, change], f"{prefix}rescaled")
        total = build.add("Add", [rescaled, total], f"{prefix}total")
    plain = build.reduce("ReduceSum", logits, f"{prefix}plain") if build.guarded else ""
    if before is not None and plain:
        plain = build.add("Add", [before.plain, plain], f"{prefix}plain_so_far")
    return _Running(best, label, total, plain)


def _finish(build: _Builder, running: _Running, logits: Any, classes: int) -> None:
    """Make labels and confidence the outputs, in the place of logits."""
    kind = TensorProto.UINT8 if classes <= 256 else TensorProto.UINT16
    graph = build.graph
    graph.node.append(helper.make_node("Cast", [running.label], [LABELS_NAME], to=kind))
    if running.plain:
        # Zero, or NaN where a logit is NaN or infinite.
        guard = build.add("Mul", [running.plain, build.shared("zero")], "guard")
        confidence = build.add("Reciprocal", [running.total], "confidence")
        graph.node.append(helper.make_node("Add", [confidence, guard], [CONFIDENCE_NAME]))
    else:
        graph.node.append(helper.make_node("Reciprocal", [running.total], [CONFIDENCE_NAME]))
    shape = _shape(logits)
    graph.output.remove(logits)
    for name, element in ((LABELS_NAME, kind), (CONFIDENCE_NAME, TensorProto.FLOAT)):
        graph.output.append(helper.make_tensor_value_info(name, element, [shape[0], *shape[2:]]))
