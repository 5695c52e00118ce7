import numpy as np
import onnx
import pytest
from onnx import helper

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.chain import layers_of
from conftest import linear_model
from networks import identity_channels_last, mesh_net, normed_mesh_net, unet


def test_mesh_net_is_read_layer_by_layer():
    layers = layers_of(mesh_net((1, 4, 2), classes=3, channels=5))
    assert [layer.weights.shape for layer in layers] == [
        (5, 1, 3, 3, 3),
        *[(5, 5, 3, 3, 3)] * 2,
        (3, 5, 1, 1, 1),
    ]
    assert [layer.dilation for layer in layers] == [1, 4, 2, 1]
    assert [layer.activation for layer in layers] == ["elu"] * 3 + ["linear"]
    assert all(np.array_equal(layer.bias, np.zeros(len(layer.bias))) for layer in layers)


def test_biases_are_read():
    (layer,) = layers_of(linear_model([1, 2], [3, 4]))
    assert layer.bias.tolist() == [3, 4]
    assert layer.weights.ravel().tolist() == [1, 2]


@pytest.mark.parametrize(("norm", "epsilon"), [("InstanceNormalization", 1e-4), ("measured", 1e-5)])
def test_norms_are_read(norm, epsilon):
    first, second, last = layers_of(normed_mesh_net((1, 2), channels=5, norm=norm))
    for layer in (first, second):
        assert layer.activation == "gelu"
        assert layer.norm.epsilon == pytest.approx(epsilon)
        assert layer.norm.scale.shape == layer.norm.shift.shape == (5,)
    assert (last.norm, last.activation) == (None, "linear")


@pytest.mark.parametrize(
    ("number", "change"),
    [
        (0, lambda node: node.input.__setitem__(0, "conv1_gn/out")),
        (1, lambda node: set_attribute(node, "keepdims", 1)),
        (2, lambda node: node.input.__setitem__(1, "all_but_channel")),
        (3, lambda node: set_attribute(node, "start", 3)),
        (7, lambda node: node.input.__setitem__(1, "conv0/power")),
        (8, lambda node: node.input.reverse()),
        (9, lambda node: set_attribute(node, "training_mode", 1)),
    ],
)
def test_other_norms_are_no_chain(number, change):
    model = onnx.load_from_string(normed_mesh_net((1,), norm="measured"))
    assert layers_of(model.SerializeToString()) is not None
    change(model.graph.node[1 + number])
    assert not is_chain(model.SerializeToString())


@pytest.mark.parametrize("content", [unet(3, ["D", "H", "W"]), unet(2, ["H", "W"]), identity_channels_last()])
def test_what_is_no_chain_is_none(content):
    assert layers_of(content) is None


def is_chain(content: bytes) -> bool:
    """Tell whether it is read as a chain; one that is no valid ONNX is refused."""
    try:
        return layers_of(content) is not None
    except ModelError:
        return False


def changed(change) -> bytes:
    model = onnx.load_from_string(mesh_net((2, 1)))
    change(model.graph)
    return model.SerializeToString()


def set_attribute(node, name: str, value: object) -> None:
    for attribute in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute(name, value))


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: set_attribute(graph.node[0], "strides", [2, 2, 2]),
        lambda graph: set_attribute(graph.node[0], "pads", [1] * 6),
        lambda graph: set_attribute(graph.node[0], "dilations", [2, 2, 1]),
        lambda graph: set_attribute(graph.node[2], "group", 2),
        lambda graph: setattr(graph.initializer[0], "data_location", onnx.TensorProto.EXTERNAL),
        lambda graph: set_attribute(graph.node[0], "auto_pad", "VALID"),
        lambda graph: set_attribute(graph.node[1], "alpha", 0.5),
        lambda graph: setattr(graph.node[1], "op_type", "Sigmoid"),
        lambda graph: setattr(graph.node[1], "domain", "com.example"),
        lambda graph: graph.node[2].input.__setitem__(0, "image"),
        lambda graph: setattr(graph.output[0], "name", "conv0"),
        lambda graph: graph.output.append(graph.output[0]),
        lambda graph: graph.initializer.__delitem__(0),
        lambda graph: graph.node.__delitem__(0),
    ],
    ids=[
        "stride", "padding", "unequal dilations", "groups", "weights elsewhere", "automatic padding",
        "slope of ELU", "other node",
        "other domain", "not one after the other", "output in between", "two outputs", "computed weights",
        "activation first",
    ],
)  # fmt: skip
def test_anything_else_than_the_plain_convolution_is_no_chain(change):
    assert is_chain(changed(lambda graph: None))
    assert not is_chain(changed(change))


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: set_attribute(graph.node[0], "dilations", 2),
        lambda graph: set_attribute(graph.node[0], "dilations", [2.0, 2.0, 2.0]),
        lambda graph: set_attribute(graph.node[0], "dilations", [2, 2]),
        lambda graph: set_attribute(graph.node[0], "kernel_shape", [1, 1, 1]),
        lambda graph: graph.node[0].output.__delitem__(0),
        lambda graph: graph.initializer[0].dims.__delitem__(slice(None)),
        lambda graph: graph.node[0].attribute.append(helper.make_attribute("unknown", 1)),
    ],
    ids=["number", "fractions", "two axes", "another kernel", "no output", "no shape", "unknown attribute"],
)
def test_malformed_networks_are_no_chains(change):
    assert not is_chain(changed(change))
