"""The converter against a direct computation of the layers."""

import json

import numpy as np
import onnx
import pytest
from scipy import ndimage
from scipy.special import erf

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.session import open_session
from brainchop_pipe.storage import sha256_of_bytes
from brainchop_pipe.zoo.convert import onnx_from_tfjs

ACTIVATIONS = {
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "gelu": lambda x: x * 0.5 * (1 + erf(x / np.sqrt(2))),
}


def layer(kind: str, name: str, previous: str, **config) -> dict:
    nodes = [[[previous, 0, 0, {}]]] if previous else []
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": nodes}


def convolution(name: str, previous: str, filters: int, dilation: int, size: int = 3, **more) -> dict:
    config = {
        "filters": filters,
        "kernel_size": [size] * 3,
        "strides": [1, 1, 1],
        "padding": "same",
        "dilation_rate": [dilation] * 3,
        "activation": "linear",
        "use_bias": True,
    }
    return layer("Conv3D", name, previous, **{**config, **more})


def meshnet(activation: str, suffix: str = "") -> list[dict]:
    hidden = f"hidden{suffix}"
    return [
        layer("InputLayer", "input", "", batch_input_shape=[None, 8, 8, 8, 1]),
        convolution(hidden, "input", 3, 2, use_bias=not suffix),
        layer("Activation", "act", hidden, activation=activation),
        convolution("output", "act", 2, 1, size=1),
    ]


def weights_of(layers: list[dict]) -> tuple[list[dict], bytes, dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    tensors, channels = {}, 1
    for entry in layers:
        if entry["class_name"] == "Conv3D":
            config = entry["config"]
            tensors[f"{entry['name']}/kernel"] = random.normal(
                size=(*config["kernel_size"], channels, config["filters"])
            ).astype("<f4")
            channels = config["filters"]
            if config["use_bias"]:
                tensors[f"{entry['name']}/bias"] = random.normal(size=channels).astype("<f4")
    manifest = [{"name": n, "shape": list(t.shape), "dtype": "float32"} for n, t in tensors.items()]
    return manifest, b"".join(t.tobytes() for t in tensors.values()), tensors


def published(layers: list[dict]) -> tuple[bytes, bytes, dict[str, np.ndarray]]:
    manifest, content, tensors = weights_of(layers)
    document = {
        "modelTopology": {"model_config": {"config": {"layers": layers}}},
        "weightsManifest": [{"paths": ["model.bin"], "weights": manifest}],
    }
    return json.dumps(document).encode(), content, tensors


def reference(volume: np.ndarray, tensors: dict, activation: str, suffix: str) -> np.ndarray:
    """Compute the network with scipy, in float64."""
    kernel = tensors[f"hidden{suffix}/kernel"].astype(np.float64)
    dilated = np.zeros((5, 5, 5, *kernel.shape[3:]))
    dilated[::2, ::2, ::2] = kernel
    hidden = np.stack(
        [ndimage.correlate(volume, dilated[..., 0, n], mode="constant") for n in range(kernel.shape[4])]
    )
    if suffix:
        mean = hidden.mean(axis=(1, 2, 3), keepdims=True)
        hidden = (hidden - mean) / np.sqrt(hidden.var(axis=(1, 2, 3), keepdims=True) + 1e-5)
    else:
        hidden += tensors["hidden/bias"].reshape(-1, 1, 1, 1)
    hidden = ACTIVATIONS[activation](hidden)
    final = np.einsum("io,ixyz->oxyz", tensors["output/kernel"][0, 0, 0], hidden)
    return final + tensors["output/bias"].reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("suffix", ["", "_gn"])
def test_converted_network_computes_what_its_layers_say(activation, suffix):
    topology, content, tensors = published(meshnet(activation, suffix))
    model = onnx_from_tfjs(topology, content)
    volume = np.random.default_rng(1).random((9, 8, 7)).astype(np.float32)
    found = open_session(model, sha256_of_bytes(model), "cpu", 1).run(volume[None, None])[0][0]
    np.testing.assert_allclose(found, reference(volume, tensors, activation, suffix), atol=2e-5)


def test_conversion_gives_the_same_bytes_each_time():
    topology, content, _ = published(meshnet("gelu", "_gn"))
    assert onnx_from_tfjs(topology, content) == onnx_from_tfjs(topology, content)
    onnx.checker.check_model(onnx.load_from_string(onnx_from_tfjs(topology, content)), full_check=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda layers: layers[1]["config"].update(padding="valid"), "'same' padding"),
        (lambda layers: layers[1]["config"].update(strides=[2, 2, 2]), "stride-1"),
        (lambda layers: layers[1]["config"].update(activation="relu"), "built-in relu"),
        (lambda layers: layers[2]["config"].update(activation="swish"), "'swish'; known are"),
        (lambda layers: layers[2].update(class_name="Dense"), "is a Dense"),
        (lambda layers: layers[3].update(inbound_nodes=[[["input", 0, 0, {}]]]), "only plain chains"),
        (lambda layers: layers[1].update(name="other"), "other"),
        (lambda layers: layers[1]["config"].update(filters=4), r"\(3, 1, 3, 3, 3\); \(4, \.\.\., 3, 3, 3\)"),
    ],
)
def test_what_is_no_meshnet_is_refused(change, message):
    topology, content, _ = published(meshnet("relu"))
    document = json.loads(topology)
    change(document["modelTopology"]["model_config"]["config"]["layers"])
    with pytest.raises(ModelError, match=message):
        onnx_from_tfjs(json.dumps(document).encode(), content)


def test_model_without_a_convolution_is_refused():
    topology, content, _ = published(
        [meshnet("relu")[0], layer("Activation", "act", "input", activation="relu")]
    )
    with pytest.raises(ModelError, match="has no convolution"):
        onnx_from_tfjs(topology, content)


def test_weight_file_must_be_filled_exactly():
    topology, content, _ = published(meshnet("relu"))
    with pytest.raises(ModelError, match="its manifest describes"):
        onnx_from_tfjs(topology, content + b"\0\0\0\0")


def test_weights_of_another_type_or_of_no_layer_or_missing_are_refused():
    layers = meshnet("relu")
    topology, content, _ = published(layers)
    with pytest.raises(ModelError, match="is float16; float32 is needed"):
        onnx_from_tfjs(topology.replace(b'"dtype": "float32"}', b'"dtype": "float16"}'), content)
    with pytest.raises(ModelError, match="belong to no layer"):
        onnx_from_tfjs(topology.replace(b'"use_bias": true', b'"use_bias": false', 1), content)
    with pytest.raises(ModelError, match="lacks its bias"):
        onnx_from_tfjs(topology.replace(b"hidden/bias", b"hidden/bios"), content)
