"""Bytes → an ONNX model that is in order; whatever the bytes are, the worst is a `ModelError`."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from onnx import TensorProto, helper, numpy_helper

from brainchop_pipe.errors import ModelError


def parse_model(content: bytes) -> Any:
    """Parse an ONNX file into an ``onnx.ModelProto``, which need not be valid yet.

    Raises
    ------
    ModelError
        These bytes are no ONNX model, are cut off, or hold names that are no text.
    """
    try:
        model = onnx.load_from_string(content)
    except DecodeError as error:
        raise ModelError(f"{len(content)} bytes were given that are no ONNX model: {error}") from error
    if not model.graph.node:
        raise ModelError(f"{len(content)} bytes were given that hold no ONNX graph; give an .onnx file")
    for message in messages_in(model):
        _refuse_broken_text(message)
    return model


def messages_in(root: Any) -> Iterator[Any]:
    """Yield a protobuf message and all messages within it, at any depth."""
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting.extend([value] if isinstance(value, Message) else value)


def check_model(model: Any) -> None:
    """Check a model by the rules of ONNX, shapes included.

    Raises
    ------
    ModelError
        It breaks one.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise ModelError(f"the model is no valid ONNX: {error}") from error


def array_of(tensor: Any) -> np.ndarray:
    """Give the values of an ``onnx.TensorProto``.

    Raises
    ------
    ModelError
        It holds more or fewer values than its shape says, or lies in another file.
    """
    try:
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"tensor {tensor.name!r} of the model cannot be read: {error}") from error


def type_name(number: int) -> str:
    """Name a tensor's type as ONNX does: ``FLOAT``, ``INT64``; one that it does not know is "type 99"."""
    return TensorProto.DataType.Name(number) if number in TensorProto.DataType.values() else f"type {number}"


def _refuse_broken_text(message: Any) -> None:
    """Refuse text that is no UTF-8, which protobuf hands out as bytes."""
    for field, value in message.ListFields():
        if field.type != field.TYPE_STRING:
            continue
        for text in [value] if isinstance(value, str | bytes) else value:
            if isinstance(text, bytes):
                raise ModelError(f"the model has a {field.name} that is no text: {text[:40]!r}")


def settings_of(node: Any) -> dict[str, Any]:
    """Give a node's attributes by name."""
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def sealed(content: bytes, name: str) -> bytes:
    """Append the digest of an ONNX file to it, as metadata under a name: so a writer knows its own files."""
    return content + _seal(name, hashlib.sha256(content).hexdigest())


def is_sealed(content: bytes, name: str) -> bool:
    """Tell whether an ONNX file was sealed under this name, and not changed since."""
    length = len(_seal(name, "0" * 64))
    return len(content) > length and sealed(content[:-length], name) == content


def _seal(name: str, digest: str) -> bytes:
    entry = onnx.StringStringEntryProto(key=name, value=digest)
    return bytes(onnx.ModelProto(metadata_props=[entry]).SerializeToString())
