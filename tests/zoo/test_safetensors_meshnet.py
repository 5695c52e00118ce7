"""MeshNets kept as safetensors against a direct computation of their layers, in float64."""

import numpy as np
import onnx
import pytest
from safetensors.numpy import save
from test_convert import ACTIVATIONS

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.onnxruntime_runner import load_onnxruntime
from brainchop_pipe.zoo.convert import onnx_from_safetensors
from brainchop_pipe.zoo.meshnet import MeshNetPlan

DILATIONS = (1, 2)
VOLUME = np.random.default_rng(1).normal(size=(1, 1, 9, 8, 7)).astype(np.float32)


def meshnet(norm: str = "none", *, bias: bool = True) -> dict[str, np.ndarray]:
    """Make weights 1 → 3 → 2 → 4 channels under the names of PyTorch."""
    random = np.random.default_rng(0)
    tensors = {}
    for number, (taken, out) in enumerate([(1, 3), (3, 2)]):
        tensors[f"model.{number}.0.weight"] = random.normal(size=(out, taken, 3, 3, 3))
        if bias:
            tensors[f"model.{number}.0.bias"] = random.normal(size=out)
        if norm == "batch":
            tensors[f"model.{number}.1.running_mean"] = random.normal(size=out)
            tensors[f"model.{number}.1.running_var"] = random.uniform(0.5, 4, size=out)
            tensors[f"model.{number}.1.weight"] = random.normal(size=out)
            tensors[f"model.{number}.1.bias"] = random.normal(size=out)
    tensors["model.2.weight"] = random.normal(size=(4, 2, 1, 1, 1))
    tensors["model.2.bias"] = random.normal(size=4)
    single = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    if norm == "batch":
        single["model.0.1.num_batches_tracked"] = np.array(7)
    return single


def convolved(values: np.ndarray, kernel: np.ndarray, bias: np.ndarray | float, dilation: int) -> np.ndarray:
    reach = dilation * (kernel.shape[-1] // 2)
    padded = np.pad(values, [(0, 0)] + [(reach, reach)] * 3)
    result = np.zeros((len(kernel), *values.shape[1:]))
    for offset in np.ndindex(kernel.shape[2:]):
        window = tuple(
            slice(o * dilation, o * dilation + n) for o, n in zip(offset, values.shape[1:], strict=True)
        )
        weights = kernel[(slice(None), slice(None), *offset)]
        result += np.einsum("oi,ixyz->oxyz", weights, padded[(slice(None), *window)])
    return result + np.reshape(bias, (-1, 1, 1, 1))


def normalised(values: np.ndarray, tensors: dict, norm: str, place: str) -> np.ndarray:
    if norm == "none":
        return values
    mean, variance = values.mean(axis=(1, 2, 3)), values.var(axis=(1, 2, 3))
    scale, shift = np.ones(len(values)), np.zeros(len(values))
    if norm == "batch":
        mean, variance = tensors[f"{place}.running_mean"], tensors[f"{place}.running_var"]
        scale, shift = tensors.get(f"{place}.weight", scale), tensors.get(f"{place}.bias", shift)
    mean, variance, scale, shift = (
        v.astype(float).reshape(-1, 1, 1, 1) for v in (mean, variance, scale, shift)
    )
    return (values - mean) / np.sqrt(variance + 1e-5) * scale + shift


def reference(tensors: dict, activation: str, norm: str) -> np.ndarray:
    values = VOLUME[0].astype(np.float64)
    for number, dilation in enumerate(DILATIONS):
        kernel, bias = tensors[f"model.{number}.0.weight"], tensors.get(f"model.{number}.0.bias", 0.0)
        values = normalised(convolved(values, kernel, bias, dilation), tensors, norm, f"model.{number}.1")
        values = ACTIVATIONS[activation](values)
    return convolved(values, tensors["model.2.weight"], tensors["model.2.bias"], 1)


def run(model: bytes) -> np.ndarray:
    session = load_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"volume": VOLUME})[0][0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", ["none", "batch", "instance"])
@pytest.mark.parametrize("bias", [True, False])
def test_converted_network_computes_what_its_layers_say(activation, norm, bias):
    tensors = meshnet(norm, bias=bias)
    model = onnx_from_safetensors(save(tensors), MeshNetPlan(DILATIONS, activation, norm))
    np.testing.assert_allclose(run(model), reference(tensors, activation, norm), rtol=1e-4, atol=1e-4)


def test_batch_norm_without_affine_part_is_folded_too():
    tensors = meshnet("batch")
    for name in ("model.0.1.weight", "model.0.1.bias"):
        del tensors[name]
    model = onnx_from_safetensors(save(tensors), MeshNetPlan(DILATIONS, "elu", "batch"))
    assert "BatchNormalization" not in [node.op_type for node in onnx.load_from_string(model).graph.node]
    np.testing.assert_allclose(run(model), reference(tensors, "elu", "batch"), rtol=1e-4, atol=1e-4)


def test_epsilon_of_the_batch_norm_is_that_of_the_plan():
    tensors = meshnet("batch")
    model = onnx_from_safetensors(save(tensors), MeshNetPlan(DILATIONS, "relu", "batch", epsilon=1e-3))
    for number in range(2):
        tensors[f"model.{number}.1.running_var"] += np.float32(1e-3 - 1e-5)
    np.testing.assert_allclose(run(model), reference(tensors, "relu", "batch"), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "names",
    [
        {"model.0.0": "model.0", "model.1.0": "model.2", "model.2": "model.10"},
        {"model.0.0": "module.model.0.0", "model.1.0": "module.model.1.0", "model.2": "module.model.2.0"},
        {"model.0.0": "0", "model.1.0": "3", "model.2": "6"},
    ],
    ids=["tinygrad", "data parallel", "bare"],
)
def test_numbers_in_the_names_give_the_order(names):
    plan = MeshNetPlan(DILATIONS, "relu")
    tensors = meshnet()
    renamed = {
        f"{names[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": t for name, t in tensors.items()
    }
    np.testing.assert_array_equal(
        run(onnx_from_safetensors(save(renamed), plan)), run(onnx_from_safetensors(save(tensors), plan))
    )


def test_half_precision_weights_are_taken_as_the_numbers_they_are():
    tensors = {
        name: tensor.astype(np.float16) for name, tensor in meshnet("batch").items() if "num" not in name
    }
    model = onnx_from_safetensors(save(tensors), MeshNetPlan(DILATIONS, "relu", "batch"))
    np.testing.assert_allclose(run(model), reference(tensors, "relu", "batch"), rtol=1e-4, atol=1e-4)


def test_conversion_gives_the_same_bytes_each_time():
    tensors, plan = meshnet("instance"), MeshNetPlan(DILATIONS, "gelu", "instance")
    backwards = dict(reversed(tensors.items()))
    assert onnx_from_safetensors(save(tensors), plan) == onnx_from_safetensors(save(backwards), plan)


def changed(**changes: np.ndarray | None) -> bytes:
    """Give the batch-norm network with some weights replaced, or left out."""
    tensors = meshnet("batch") | {name.replace("__", "."): t for name, t in changes.items()}
    return save({name: tensor for name, tensor in tensors.items() if tensor is not None})


F = np.float32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder__weight": np.ones(3, F)}, "'decoder.weight' is not named as a MeshNet's"),
        ({"model__0__0__bias": np.ones(3, np.int32)}, "is int32; real numbers"),
        ({"model__0__weight": np.ones((3, 1, 3, 3, 3), F), "model__0__0__weight": None}, "'model.0.0' has"),
        ({"module__model__2__bias": np.ones(4, F)}, "there twice, under two names"),
        ({"model__0__1__running_var": None}, "'model.0.1' has .* 3-D convolutions and batch norms only"),
        ({"model__0__0__weight": np.ones((3, 1, 3, 3), F)}, "'model.0.0' has"),
        ({"model__0__0__weight": np.ones((3, 1, 5, 5, 5), F)}, "1 × 3×3×3 is needed"),
        ({"model__1__0__weight": np.ones((2, 4, 3, 3, 3), F)}, r"shape \(2, 4, 3, 3, 3\); 3 × 3×3×3"),
        ({"model__2__weight": np.ones((4, 2, 3, 3, 3), F)}, "2 × 1×1×1 is needed"),
        ({"model__0__0__bias": np.ones(4, F)}, r"bias of the convolution has shape \(4,\); \(3,\)"),
        ({"model__0__1__weight": np.ones(1, F)}, r"weight has shape \(1,\); \(3,\)"),
        ({"model__0__1__running_var": -np.ones(3, F)}, "variance below zero"),
        ({"model__2__weight": None, "model__2__bias": None}, "has 2 convolutions; dilations"),
        ({"model__3__running_mean": np.ones(4, F), "model__3__running_var": np.ones(4, F)}, "has norm batch"),
    ],
)
def test_weights_that_are_no_meshnet_of_the_plan_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        onnx_from_safetensors(changed(**changes), MeshNetPlan(DILATIONS, "relu", "batch"))


@pytest.mark.parametrize(
    ("made", "planned", "message"),
    [
        ("none", "batch", "'model.0.0' has norm none or instance by the weight file; the plan says 'batch'"),
        ("batch", "instance", "'model.0.0' has norm batch by the weight file; the plan says 'instance'"),
    ],
)
def test_norm_of_the_plan_must_be_that_of_the_file(made, planned, message):
    with pytest.raises(ModelError, match=message):
        onnx_from_safetensors(save(meshnet(made)), MeshNetPlan(DILATIONS, "relu", planned))


def test_dilation_below_one_is_refused():
    with pytest.raises(ModelError, match=r"dilations \(1, 0\)"):
        onnx_from_safetensors(save(meshnet()), MeshNetPlan((1, 0), "relu"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04pickle",
        b"\xff" * 64,
        save(meshnet())[:-3],
        save(meshnet()).replace(b'"F32"', b'"F99"'),
        (2).to_bytes(8, "little") + b"[]",
        save({"model.0.weight": np.ones(2, np.int16)}).replace(b'"I16"', b'"BF16"'),
    ],
    ids=["empty", "pickle", "long header", "cut off", "unknown type", "no object", "bfloat16"],
)
def test_what_is_no_safetensors_file_is_refused(content):
    with pytest.raises(ModelError, match="no safetensors file"):
        onnx_from_safetensors(content, MeshNetPlan(DILATIONS, "relu"))
