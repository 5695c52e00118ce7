"""What an ONNX file holds, and whether it may run: nothing of it is executed here."""

from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
from onnx import helper

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.onnx_file import messages_in, parse_model, type_name

# Operators of ONNX itself, and those that onnxruntime brings.
_STANDARD_DOMAINS = {"", "ai.onnx"}
_KNOWN_DOMAINS = {*_STANDARD_DOMAINS, "ai.onnx.ml", "com.microsoft"}

_REFUSED_OPERATORS = {
    "Loop": "repeats for as long as it likes",
    "Scan": "repeats for as long as it likes",
    "SequenceMap": "repeats for as long as it likes",
    "EPContext": "is compiled code of a device, and may lie in another file",
}


@dataclass(frozen=True)
class TensorFacts:
    """An input or output of a model.

    Parameters
    ----------
    name : str
    dtype : str
        numpy's name of it, such as "float32"; else ONNX's.
    shape : tuple of int or str
        A name stands for any size, "?" for one without a name. Empty if the file does
        not tell.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class ModelFacts:
    """What an ONNX file says of its model.

    Parameters
    ----------
    inputs, outputs : tuple of TensorFacts
        Inputs that have a default are left out.
    opset : int
        Version of ONNX's own operators.
    parameter_bytes : int
        Of all constants, by their shapes and types.
    operators : tuple of str
        In order of the alphabet; "domain:name" for those that are not ONNX's own.
    """

    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    opset: int
    parameter_bytes: int
    operators: tuple[str, ...]


def inspect_model(content: bytes, name: str, limit_bytes: int | None = None) -> ModelFacts:
    """Read what a model is, and refuse one that needs more than its own file to run.

    Parameters
    ----------
    content : bytes
        ONNX file.
    name : str
        What the messages call it.
    limit_bytes : int or None
        Most that its constants may take together; None: no limit.

    Raises
    ------
    ModelError
        It is no ONNX model; it keeps tensors outside of the file, calls operators that
        are neither ONNX's nor onnxruntime's nor defined in it, has loops, or is too
        large. Branches and functions are looked through as well.
    """
    try:
        model = parse_model(content)
    except ModelError as error:
        raise ModelError(f"model {name} cannot be read: {error}") from error
    nodes, tensors = _parts(model)
    _refuse_external_data(tensors, name)
    _refuse_operators(nodes, model, name)
    parameter_bytes = sum(_size_bytes(tensor) for tensor in tensors)
    if limit_bytes is not None and parameter_bytes > limit_bytes:
        raise ModelError(
            f"model {name} has {parameter_bytes} bytes of weights; at most {limit_bytes} are allowed here. "
            "Give a smaller model, or raise the limit"
        )
    constants = {tensor.name for tensor in model.graph.initializer}
    return ModelFacts(
        inputs=tuple(_facts(value) for value in model.graph.input if value.name not in constants),
        outputs=tuple(_facts(value) for value in model.graph.output),
        opset=max((o.version for o in model.opset_import if o.domain in _STANDARD_DOMAINS), default=1),
        parameter_bytes=parameter_bytes,
        operators=tuple(sorted({_operator(node) for node in nodes})),
    )


def _parts(model: Any) -> tuple[list[Any], list[Any]]:
    """Give all nodes and all tensors, wherever they are."""
    nodes, tensors = [], []
    for message in messages_in(model):
        if isinstance(message, onnx.NodeProto):
            nodes.append(message)
        elif isinstance(message, onnx.TensorProto):
            tensors.append(message)
    return nodes, tensors


def _refuse_external_data(tensors: list[Any], name: str) -> None:
    for tensor in tensors:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            place = next(
                (e.value for e in tensor.external_data if e.key == "location"), "a file without a name"
            )
            raise ModelError(
                f"model {name} keeps tensor {tensor.name!r} outside of itself, in {place!r}; models run from "
                "one file alone. Save it with all data inside: onnx.save(model, path, "
                "save_as_external_data=False)"
            )


def _refuse_operators(nodes: list[Any], model: Any, name: str) -> None:
    """Refuse loops, and operators whose code is not known beforehand."""
    defined = {(function.domain, function.name) for function in model.functions}
    foreign = {
        _operator(node)
        for node in nodes
        if node.domain not in _KNOWN_DOMAINS and (node.domain, node.op_type) not in defined
    }
    if foreign:
        raise ModelError(
            f"model {name} calls the operators {sorted(foreign)}, which neither ONNX nor onnxruntime has; "
            "code of others is not run. Export it with standard operators"
        )
    for node in nodes:
        if node.op_type in _REFUSED_OPERATORS and node.domain in _KNOWN_DOMAINS:
            raise ModelError(
                f"model {name} has node {node.name!r}, a {node.op_type}, which "
                f"{_REFUSED_OPERATORS[node.op_type]}. Export it without"
            )


def _operator(node: Any) -> str:
    return node.op_type if node.domain in _STANDARD_DOMAINS else f"{node.domain}:{node.op_type}"


def _size_bytes(tensor: Any) -> int:
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    count = prod(max(0, size) for size in tensor.dims)
    return int(max(count * _item_bytes(tensor.data_type), len(tensor.raw_data)))


def _item_bytes(data_type: int) -> int:
    try:
        return int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    except (KeyError, TypeError):
        return 0


def _facts(value: Any) -> TensorFacts:
    if value.type.WhichOneof("value") != "tensor_type":
        return TensorFacts(value.name, value.type.WhichOneof("value") or "unknown", ())
    tensor = value.type.tensor_type
    # Some exporters write 0 or -1 where the size is open.
    shape = tuple(
        int(axis.dim_value) if axis.dim_value > 0 else axis.dim_param or "?" for axis in tensor.shape.dim
    )
    return TensorFacts(value.name, _dtype(tensor.elem_type), shape)


def _dtype(elem_type: int) -> str:
    try:
        return str(helper.tensor_dtype_to_np_dtype(elem_type).name)
    except (KeyError, TypeError):
        return type_name(elem_type)
