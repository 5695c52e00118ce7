from itertools import pairwise

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.onnxruntime_runner import load_onnxruntime
from brainchop_pipe.inference.reduce import labels_model, split_model
from brainchop_pipe.inference.session import open_session
from conftest import linear_model, require_openvino


def run(model: bytes, volume: np.ndarray) -> list[np.ndarray]:
    options = load_onnxruntime().SessionOptions()
    options.intra_op_num_threads = 1
    session = load_onnxruntime().InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"volume": volume})


def random_model(classes: int) -> bytes:
    random = np.random.default_rng(classes)
    return linear_model(list(random.normal(size=classes) * 9), list(random.normal(size=classes)))


def changed(model: bytes, change) -> bytes:
    proto = onnx.load_from_string(model)
    change(proto)
    return proto.SerializeToString()


def append_identity(proto) -> None:
    """Make the last node one that is no convolution."""
    proto.graph.node[-1].output[0] = "before"
    proto.graph.node.append(helper.make_node("Identity", ["before"], ["logits"]))


def append_cast(dtype):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def append(proto) -> None:
        proto.graph.node[-1].output[0] = "before"
        proto.graph.node.append(helper.make_node("Cast", ["before"], ["logits"], to=kind))
        proto.graph.output[0].type.tensor_type.elem_type = kind

    return append


def open_class_axis(proto) -> None:
    for axis in proto.graph.output[0].type.tensor_type.shape.dim[:2]:
        axis.Clear()


def rename_logits(name: str):
    def rename(proto) -> None:
        proto.graph.node[-1].output[0] = name
        proto.graph.output[0].name = name

    return rename


def set_conv(**attributes):
    def change(proto) -> None:
        proto.graph.node[-1].attribute.extend(helper.make_attribute(k, v) for k, v in attributes.items())

    return change


def needed_for(last, graph) -> set[str]:
    """Name the nodes that must have run before one."""
    producers = {name: node for node in graph.node for name in node.output}
    found, queue = set(), list(last.input)
    while queue:
        node = producers.get(queue.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            queue += node.input
    return found


@pytest.fixture
def volume() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, 1, 7, 6, 5)).astype(np.float32)


@pytest.mark.parametrize("change", [lambda _: None, append_identity], ids=["convolution", "other end"])
@pytest.mark.parametrize("classes", [1, 2, 5, 6, 11, 104, 300])
def test_labels_are_the_argmax_and_confidence_is_its_probability(volume, classes, change):
    model = changed(random_model(classes), change)
    logits = run(model, volume)[0][0].astype(np.float64)
    labels, confidence = run(labels_model(model, classes), volume)
    softmax = np.exp(logits - logits.max(axis=0))
    assert labels.dtype == (np.uint8 if classes <= 256 else np.uint16)
    np.testing.assert_array_equal(labels[0], logits.argmax(axis=0))
    np.testing.assert_allclose(confidence[0], (softmax / softmax.sum(axis=0)).max(axis=0), rtol=1e-5)


@pytest.mark.parametrize("classes", [3, 12])
def test_lowest_class_wins_a_tie_within_and_between_chunks(volume, classes):
    labels, confidence = run(labels_model(linear_model([0] * classes, [7] * classes), classes), volume)
    assert not labels.any()
    np.testing.assert_allclose(confidence, 1 / classes, rtol=1e-6)


def test_logits_far_apart_do_not_overflow(volume):
    biases = [-1000.0, 5, 1000, 3, 2, 1, 999, -1000, 0]
    labels, confidence = run(labels_model(linear_model([0] * 9, biases), 9), volume)
    assert set(labels.ravel()) == {2}
    np.testing.assert_allclose(confidence, 1 / (1 + np.exp(-1)), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 4, 11])
def test_confidence_tells_of_logits_that_are_not_finite(volume, bad, place):
    biases = [0.0] * 12
    biases[place] = bad
    _, confidence = run(labels_model(linear_model([1] * 12, biases), 12), volume)
    assert np.isnan(confidence).all()


@pytest.mark.parametrize("opset", [11, 13, 17, 18, 20])
def test_models_of_other_opsets_are_reduced_in_their_own(volume, opset):
    model = changed(random_model(7), lambda proto: setattr(proto.opset_import[0], "version", opset))
    reduced = labels_model(model, 7)
    assert onnx.load_from_string(reduced).opset_import[0].version == opset
    np.testing.assert_array_equal(run(reduced, volume)[0][0], run(model, volume)[0][0].argmax(axis=0))


def test_convolution_without_bias_is_split_too(volume):
    model = changed(linear_model(list(range(-4, 5)), [0] * 9), lambda p: p.graph.node[-1].input.pop())
    reduced = labels_model(model, 9)
    assert "kernel" not in [tensor.name for tensor in onnx.load_from_string(reduced).graph.initializer]
    np.testing.assert_array_equal(run(reduced, volume)[0][0], np.where(volume[0, 0] > 0, 8, 0))


def test_chunk_waits_until_the_one_before_is_done_with():
    graph = onnx.load_from_string(labels_model(random_model(16), 16)).graph
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 4
    for earlier, later in pairwise(convolutions):
        users = {node.name for node in graph.node if earlier.output[0] in node.input}
        assert users <= needed_for(later, graph)


@pytest.mark.parametrize(
    "change",
    [
        set_conv(strides=[2, 2, 2]),
        set_conv(pads=[1] * 6),
        lambda proto: proto.graph.input.append(helper.make_tensor_value_info("bias", TensorProto.FLOAT, [8])),
    ],
    ids=["strides", "pads", "bias can be replaced"],
)
def test_other_convolutions_stay_whole(volume, change):
    model = changed(random_model(8), change)
    reduced = labels_model(model, 8)
    assert sum(node.op_type == "Conv" for node in onnx.load_from_string(reduced).graph.node) == 1
    np.testing.assert_array_equal(run(reduced, volume)[0][0], run(model, volume)[0][0].argmax(axis=0))


def test_reduced_model_is_valid_and_the_same_each_time():
    reduced = labels_model(random_model(12), 12)
    proto = onnx.load_from_string(reduced)
    onnx.checker.check_model(proto, full_check=True)
    assert reduced == labels_model(random_model(12), 12)
    assert proto.opset_import[0].version == 20
    assert proto.ir_version == 9
    assert [output.name for output in proto.graph.output] == ["labels", "confidence"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rename_logits("labels"), r"values named \['labels'\] already"),
        (lambda p: p.graph.output.append(p.graph.input[0]), r"outputs \['logits', 'volume'\]; one"),
        (lambda p: setattr(p.opset_import[0], "version", 9), "has opset 9; convert it"),
        (lambda p: p.graph.output[0].type.tensor_type.shape.dim.pop(), "no valid ONNX"),
        (lambda p: p.graph.initializer[1].dims.__setitem__(0, 5), "'bias' of the model cannot be read"),
        (lambda p: p.graph.node[-1].input.pop(0), "no valid ONNX"),
        (lambda p: p.graph.ClearField("node"), "hold no ONNX graph"),
    ],
)
def test_what_gives_no_logits_is_refused(change, message):
    with pytest.raises(ModelError, match=message):
        labels_model(changed(random_model(6), change), 6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_logits_of_other_precisions_are_cast(volume, dtype):
    model = changed(random_model(12), append_cast(dtype))
    logits = run(model, volume)[0][0]
    labels, confidence = run(labels_model(model, 12), volume)
    assert logits.dtype == dtype
    assert confidence.dtype == np.float32
    np.testing.assert_array_equal(labels[0], logits.argmax(axis=0))


def test_shape_that_the_file_leaves_open_is_taken_on_trust(volume):
    model = changed(random_model(12), open_class_axis)
    np.testing.assert_array_equal(
        run(labels_model(model, 12), volume)[0][0], run(model, volume)[0][0].argmax(axis=0)
    )


def test_output_of_other_classes_or_type_is_refused():
    with pytest.raises(ModelError, match=r"is FLOAT \[1, 6, 'D', 'H', 'W'\]; FLOAT \[1, 7, D"):
        labels_model(random_model(6), 7)
    graph = helper.make_graph(
        [helper.make_node("Shape", ["volume"], ["size"])],
        "shape",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, [1, 1, "D", "H", "W"])],
        [helper.make_tensor_value_info("size", TensorProto.INT64, [5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    with pytest.raises(ModelError, match=r"is INT64 \[5\]"):
        labels_model(model.SerializeToString(), 6)


@pytest.mark.parametrize("classes", [2, 7, 20])
def test_parts_give_what_the_whole_gives_slice_by_slice(classes):
    model = random_model(classes)
    volume = np.random.default_rng(3).normal(size=(1, 1, 5, 4, 6)).astype(np.float32)
    first, last = split_model(model, classes)
    hidden = onnx.load_from_string(last).graph.input[0].name
    session = load_onnxruntime().InferenceSession(last, providers=["CPUExecutionProvider"])
    (channels,) = run(first, volume)
    slabs = [session.run(None, {hidden: channels[:, :, low : low + 2]}) for low in range(0, 5, 2)]
    whole = run(labels_model(model, classes), volume)
    for found, wanted in zip(zip(*slabs, strict=True), whole, strict=True):
        np.testing.assert_allclose(np.concatenate(found, axis=1), wanted, atol=1e-6)


def test_network_with_another_last_layer_has_no_parts():
    assert split_model(changed(random_model(3), append_identity), 3) is None


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_guard_finds_what_is_not_finite_in_any_library(wrong, device):
    if device == "openvino":
        require_openvino()
    model = labels_model(linear_model([1, 2, 3], [0, 0, 0]), 3, guarded=True)
    volume = np.zeros((1, 1, 3, 4, 5), np.float32)
    volume[0, 0, 1, 2, 3] = wrong
    confidence = open_session(model, f"guard {wrong}", device).run(volume)[1]
    assert not np.isfinite(confidence[0, 1, 2, 3])
    assert np.isfinite(confidence).sum() == confidence.size - 1
