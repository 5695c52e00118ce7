"""TensorFlow.js layers models → the layers of a MeshNet."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainchop_pipe.errors import ModelError
from brainchop_pipe.zoo.meshnet import ACTIVATIONS, Activation, Convolution, Layer

# The exporter marks a convolution that an instance norm follows by this name suffix.
_INSTANCE_NORM_SUFFIX = "_gn"

# TensorFlow.js kernels are (kd, kh, kw, in, out), ONNX wants (out, in, kd, kh, kw).
_KERNEL_AXES = (4, 3, 0, 1, 2)


@dataclass(frozen=True)
class _Entry:
    """One entry of the topology: its Keras class, its name and its settings."""

    kind: str
    name: str
    config: dict[str, Any]


def layers_of_tfjs(topology: bytes, weights: bytes) -> list[Layer]:
    """Read a TensorFlow.js layers model that is a plain chain of 3-D convolutions.

    Parameters
    ----------
    topology : bytes
        Content of ``model.json``.
    weights : bytes
        Content of the weight file: little-endian float32 tensors in the order of
        the manifest, nothing between or after them.

    Raises
    ------
    ModelError
        The model is no chain, holds a layer that MeshNets do not have, or its
        tensors do not fill the weight file exactly.
    """
    document = json.loads(topology)
    tensors = _read_tensors(document, weights)
    layers: list[Layer] = []
    for entry in list(_chain(document))[1:]:
        if entry.kind == "Conv3D":
            layers.append(_convolution(entry, tensors))
        elif entry.kind == "Activation":
            layers.append(_activation(entry))
        else:
            raise ModelError(
                f"layer {entry.name!r} is a {entry.kind}; a MeshNet has Conv3D and Activation only"
            )
    if tensors:
        raise ModelError(f"weights {sorted(tensors)} belong to no layer of the model")
    return layers


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


def _chain(document: dict[str, Any]) -> Iterator[_Entry]:
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
        yield _Entry(entry["class_name"], entry["name"], entry["config"])


def _convolution(entry: _Entry, tensors: dict[str, np.ndarray]) -> Convolution:
    """Take a convolution's tensors out of the others, and check that it is one of a MeshNet."""
    config = entry.config
    if config["padding"] != "same" or set(config["strides"]) != {1}:
        raise ModelError(f"layer {entry.name!r} is not a stride-1 convolution with 'same' padding")
    if config.get("activation", "linear") != "linear":
        raise ModelError(f"layer {entry.name!r} has a built-in {config['activation']} activation")
    kernel = _take(tensors, entry, "kernel").transpose(_KERNEL_AXES)
    bias = _take(tensors, entry, "bias") if config["use_bias"] else None
    out, _, *sizes = kernel.shape
    if [out, *sizes] != [config["filters"], *config["kernel_size"]]:
        wanted = ", ".join(map(str, (config["filters"], "...", *config["kernel_size"])))
        raise ModelError(f"layer {entry.name!r} has a kernel of shape {kernel.shape}; ({wanted}) is needed")
    has_norm = entry.name.endswith(_INSTANCE_NORM_SUFFIX)
    return Convolution(entry.name, kernel, bias, tuple(config["dilation_rate"]), has_norm)


def _take(tensors: dict[str, np.ndarray], entry: _Entry, name: str) -> np.ndarray:
    try:
        return tensors.pop(f"{entry.name}/{name}")
    except KeyError:
        raise ModelError(f"layer {entry.name!r} lacks its {name} in the weight file") from None


def _activation(entry: _Entry) -> Activation:
    kind = entry.config["activation"]
    if kind not in ACTIVATIONS:
        raise ModelError(f"layer {entry.name!r} is a {kind!r}; known are {sorted(ACTIVATIONS)}")
    return Activation(entry.name, kind)
