import random

import onnx
import pytest
from onnx import TensorProto, helper

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.onnx_file import array_of, check_model, messages_in, parse_model, type_name
from conftest import linear_model

MODEL = linear_model([1, 2, 3], [0, 0, 0])


def test_model_that_is_in_order_is_parsed():
    model = parse_model(MODEL)
    check_model(model)
    assert array_of(model.graph.initializer[0]).ravel().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [b"", b"no model", MODEL[:-5], b"PK\x03\x04" + bytes(60), b"\x3a" * 400, bytes(1000)],
    ids=["empty", "text", "cut off", "archive", "nested", "zeros"],
)
def test_bytes_that_are_no_model_are_refused(content):
    with pytest.raises(ModelError, match="bytes were given that"):
        parse_model(content)


def test_names_that_are_no_text_are_refused():
    with pytest.raises(ModelError, match=r"has a name that is no text: b'linea\\xff'"):
        parse_model(MODEL.replace(b"linear", b"linea\xff"))
    with pytest.raises(ModelError, match=r"has a input that is no text: b'vol\\xffme'"):
        parse_model(MODEL.replace(b"volume", b"vol\xffme", 1))


def test_messages_are_found_at_any_depth():
    inner = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "inner", [], [])
    outer = helper.make_graph(
        [helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner)], "o", [], []
    )
    found = [m.op_type for m in messages_in(helper.make_model(outer)) if isinstance(m, onnx.NodeProto)]
    assert sorted(found) == ["If", "Relu", "Relu"]


def test_model_that_breaks_a_rule_is_refused():
    model = parse_model(MODEL)
    model.graph.node[0].op_type = "Convolve"
    with pytest.raises(ModelError, match="no valid ONNX: No Op registered for Convolve"):
        check_model(model)


def test_tensor_with_too_few_values_is_refused():
    tensor = parse_model(MODEL).graph.initializer[0]
    tensor.dims[0] = 9
    with pytest.raises(ModelError, match="'kernel' of the model cannot be read"):
        array_of(tensor)


def test_types_have_their_names_in_onnx():
    assert type_name(TensorProto.FLOAT16) == "FLOAT16"
    assert type_name(99) == "type 99"


def test_whatever_is_done_to_the_bytes_the_worst_is_a_model_error():
    chance = random.Random(0)
    refused = 0
    for _ in range(300):
        content = bytearray(MODEL)
        for _ in range(chance.choice([1, 3])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        try:
            check_model(parse_model(bytes(content)))
        except ModelError:
            refused += 1
    assert 0 < refused < 300
