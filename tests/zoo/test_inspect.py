import random

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from brainchop_pipe.errors import ModelError
from brainchop_pipe.zoo.inspect import TensorFacts, inspect_model
from conftest import linear_model

LINEAR = linear_model([1, 2, 3], [0, 0, 0])


def value(name: str, elem_type: int = TensorProto.FLOAT, shape: list | None = None):
    return helper.make_tensor_value_info(name, elem_type, [1, 1, "D", "H", "W"] if shape is None else shape)


def graph_of(*nodes, initializers=(), inputs=(), name: str = "made"):
    return helper.make_graph(nodes, name, [value("x"), *inputs], [value("y")], initializers)


def model_of(*nodes, functions=(), domains=(), **parts) -> bytes:
    imports = [helper.make_opsetid("", 18), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph_of(*nodes, **parts), opset_imports=imports, functions=functions)
    return model.SerializeToString()


def node(operator: str, **attributes):
    return helper.make_node(operator, ["x"], ["y"], name=f"the {operator}", **attributes)


def in_a_branch(inner) -> bytes:
    branches = {
        f"{name}_branch": helper.make_graph([step], name, [], [value("y")])
        for name, step in (("then", inner), ("else", node("Relu")))
    }
    return model_of(helper.make_node("If", ["x"], ["y"], **branches))


def in_a_function(inner, domain: str = "made.here") -> bytes:
    imports = [helper.make_opsetid("", 18)]
    function = helper.make_function(domain, "Step", ["x"], ["y"], [inner], imports)
    return model_of(node("Step", domain=domain), functions=[function], domains=[domain])


def on_top(inner) -> bytes:
    return model_of(inner)


PLACES = [on_top, in_a_branch, in_a_function]


def external(location: str) -> TensorProto:
    tensor = numpy_helper.from_array(np.ones(3, np.float32), "weights")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_facts_are_those_of_the_file():
    facts = inspect_model(LINEAR, "made")
    assert facts.inputs == (TensorFacts("volume", "float32", (1, 1, "D", "H", "W")),)
    assert facts.outputs == (TensorFacts("logits", "float32", (1, 3, "D", "H", "W")),)
    assert (facts.opset, facts.parameter_bytes, facts.operators) == (20, 3 * 4 + 3 * 4, ("Conv",))


def test_input_with_a_default_is_no_input():
    weights = numpy_helper.from_array(np.ones(3, np.float16), "weights")
    content = model_of(node("Relu"), initializers=[weights], inputs=[value("weights", shape=[3])])
    facts = inspect_model(content, "made")
    assert [tensor.name for tensor in facts.inputs] == ["x"]
    assert facts.parameter_bytes == 6


@pytest.mark.parametrize(
    ("elem_type", "shape", "dtype", "found"),
    [
        (TensorProto.FLOAT16, [1, 256], "float16", (1, 256)),
        (TensorProto.UINT8, [-1, 0, None], "uint8", ("?", "?", "?")),
        (TensorProto.INT32, [], "int32", ()),
        (TensorProto.UNDEFINED, [1], "UNDEFINED", (1,)),
    ],
)
def test_types_and_shapes_are_told_as_the_file_has_them(elem_type, shape, dtype, found):
    content = model_of(node("Relu"), inputs=[value("other", elem_type, shape)])
    assert inspect_model(content, "made").inputs[1] == TensorFacts("other", dtype, found)


def test_input_that_is_no_tensor_is_told_as_what_it_is():
    sequence = helper.make_tensor_sequence_value_info("other", TensorProto.FLOAT, None)
    facts = inspect_model(model_of(node("Relu"), inputs=[sequence]), "made")
    assert facts.inputs[1] == TensorFacts("other", "sequence_type", ())


@pytest.mark.parametrize("inside", PLACES)
def test_operators_are_found_in_branches_and_functions(inside):
    assert "Sigmoid" in inspect_model(inside(node("Sigmoid")), "made").operators


@pytest.mark.parametrize("inside", PLACES)
def test_constants_are_counted_in_branches_and_functions(inside):
    constant = node("Constant", value=numpy_helper.from_array(np.ones(10, np.float64)))
    assert inspect_model(inside(constant), "made").parameter_bytes == 80


def test_constants_of_text_and_of_unknown_type_are_counted_by_what_is_there():
    text = helper.make_tensor("text", TensorProto.STRING, [2], [b"ab", b"cde"])
    unknown = TensorProto(name="unknown", data_type=99, dims=[1000], raw_data=b"1234567")
    assert inspect_model(model_of(node("Relu"), initializers=[text, unknown]), "made").parameter_bytes == 12


@pytest.mark.parametrize("location", ["weights.bin", "../../etc/passwd", "/etc/passwd", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize("inside", PLACES)
def test_data_outside_of_the_file_are_refused(inside, location):
    content = inside(node("Constant", value=external(location)))
    with pytest.raises(ModelError, match="keeps tensor 'weights' outside of itself") as caught:
        inspect_model(content, "made")
    assert repr(location) in str(caught.value)


def test_weights_outside_of_the_file_are_refused():
    with pytest.raises(ModelError, match="models run from one file alone"):
        inspect_model(model_of(node("Relu"), initializers=[external("weights.bin")]), "made")


@pytest.mark.parametrize("inside", PLACES)
@pytest.mark.parametrize("operator", ["Loop", "Scan", "SequenceMap"])
def test_loops_are_refused(inside, operator):
    loop = node(operator, body=graph_of(node("Relu"), name="body"))
    with pytest.raises(ModelError, match=f"'the {operator}', a {operator}, which repeats"):
        inspect_model(inside(loop), "made")


def test_compiled_code_is_refused():
    with pytest.raises(ModelError, match="a EPContext, which is compiled code"):
        inspect_model(model_of(node("EPContext", domain="com.microsoft"), domains=["com.microsoft"]), "made")


@pytest.mark.parametrize("inside", PLACES)
def test_operators_of_others_are_refused(inside):
    with pytest.raises(ModelError, match=r"calls the operators \['org.other:Magic'\], which neither"):
        inspect_model(inside(node("Magic", domain="org.other")), "made")


def test_operators_of_onnxruntime_and_of_the_file_itself_are_taken():
    content = model_of(node("FusedConv", domain="com.microsoft"), domains=["com.microsoft"])
    assert inspect_model(content, "made").operators == ("com.microsoft:FusedConv",)
    assert inspect_model(in_a_function(node("Relu")), "made").operators == ("Relu", "made.here:Step")


def test_branches_are_taken():
    assert inspect_model(in_a_branch(node("Relu")), "made").operators == ("If", "Relu")


def test_weights_above_the_limit_are_refused():
    assert inspect_model(LINEAR, "made", limit_bytes=24).parameter_bytes == 24
    with pytest.raises(ModelError, match="made has 24 bytes of weights; at most 23 are allowed"):
        inspect_model(LINEAR, "made", limit_bytes=23)


def test_size_that_is_only_claimed_counts():
    huge = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[2**40, 2**40, -1])
    claimed = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[2**40, 2**40])
    assert inspect_model(model_of(node("Relu"), initializers=[huge]), "made").parameter_bytes == 0
    with pytest.raises(ModelError, match="raise the limit"):
        inspect_model(model_of(node("Relu"), initializers=[claimed]), "made", 10**12)


@pytest.mark.parametrize("content", [b"", b"no model", LINEAR[:-4], bytes(100)])
def test_what_is_no_model_is_refused_by_its_name(content):
    with pytest.raises(ModelError, match=r"model net\.onnx cannot be read: .* bytes were given"):
        inspect_model(content, "net.onnx")


def test_whatever_is_done_to_the_bytes_the_worst_is_a_model_error():
    content = in_a_function(node("Constant", value=external("weights.bin")))
    chance, outcomes = random.Random(0), set()
    for _ in range(500):
        damaged = bytearray(chance.choice([content, LINEAR]))
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        try:
            outcomes.add(type(inspect_model(bytes(damaged), "made")).__name__)
        except ModelError as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"ModelFacts", "ModelError"}
