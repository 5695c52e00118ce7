import numpy as np
import pytest

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference import native_layers
from brainchop_pipe.inference.native_runner import NativeRunner, pays_for
from brainchop_pipe.inference.onnxruntime_runner import CPU, OnnxRuntimeRunner
from conftest import compiled, linear_model
from networks import mesh_net, normed_mesh_net, unet

_convolution = compiled("brainchop_pipe.inference.native._convolution")
INSTRUCTIONS = _convolution.instructions()


def volume(*shape: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (1, channels, *shape)).astype(np.float32)


@pytest.fixture(params=INSTRUCTIONS, ids=[name for name, _ in INSTRUCTIONS])
def instructions(request, monkeypatch) -> str:
    """Each set that the processor has, in the place of the best."""
    monkeypatch.setattr(native_layers, "_instructions", lambda: (request.param,))
    return request.param


@pytest.mark.parametrize("activation", ["Elu", "Relu"])
@pytest.mark.parametrize(
    ("dilations", "channels", "shape"),
    [
        ((1, 2, 4, 2, 1), 5, (19, 21, 33)),
        ((16, 1), 11, (20, 7, 64)),
        ((3,), 1, (1, 1, 1)),
        ((2, 8), 7, (9, 40, 16)),
        ((1,), 64, (4, 5, 6)),
        # Rows in parts, more than one behind another, and a dilation beyond the volume.
        ((1, 2), 40, (3, 4, 145)),
        ((2, 1), 3, (5, 30, 9)),
        ((17, 100), 2, (4, 5, 6)),
    ],
)
def test_scores_are_those_of_onnxruntime(instructions, dilations, channels, shape, activation):
    content = mesh_net(dilations, 4, channels, activation=activation)
    (expected,) = OnnxRuntimeRunner(content, CPU, 1, strict=False).run(volume(*shape))
    (found,) = NativeRunner(content, 1).run(volume(*shape))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_threads_do_not_change_a_bit():
    content, image = mesh_net((1, 8, 2), channels=5), volume(21, 22, 23)
    (one,) = NativeRunner(content, 1).run(image)
    for threads in (2, 3, 8):
        assert np.array_equal(NativeRunner(content, threads).run(image)[0], one)


def test_runner_serves_volumes_of_any_shape():
    runner = NativeRunner(mesh_net((1, 4)), 2)
    again = runner.run(volume(8, 9, 10))[0]
    runner.run(volume(30, 5, 40))
    assert np.array_equal(runner.run(volume(8, 9, 10))[0], again)


def test_damaged_weights_are_not_hidden(instructions):
    for activation in ("Relu", "Elu"):
        content = mesh_net((1, 1), activation=activation, damaged=np.nan)
        assert np.isnan(NativeRunner(content, 1).run(volume(5, 5, 5))[0]).any()


def test_far_below_zero_elu_is_minus_one(instructions):
    content = mesh_net((1,), channels=2, activation="Elu")
    image = volume(4, 4, 4) * 1e6
    (expected,) = OnnxRuntimeRunner(content, CPU, 1, strict=False).run(image)
    np.testing.assert_allclose(NativeRunner(content, 1).run(image)[0], expected, rtol=5e-5)


@pytest.mark.parametrize("norm", ["InstanceNormalization", "measured"])
def test_norms_and_gelu_are_those_of_onnxruntime(instructions, norm):
    content = normed_mesh_net((1, 2, 5), channels=7, norm=norm)
    image = volume(19, 22, 35) * 3 + 2
    (expected,) = OnnxRuntimeRunner(content, CPU, 1, strict=False).run(image)
    (found,) = NativeRunner(content, 1).run(image)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert np.array_equal(NativeRunner(content, 3).run(image)[0], found)


@pytest.mark.parametrize("content", [unet(3, ["D", "H", "W"]), mesh_net((1,), classes=1025)])
def test_other_networks_are_refused(content):
    with pytest.raises(ModelError, match=r"no chain .* of up to 1024 channels"):
        NativeRunner(content, 1)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4, 4), (1, 2, 4, 4, 4)])
def test_other_batches_are_refused(shape):
    with pytest.raises(ModelError, match="one volume of 1 channels is needed"):
        NativeRunner(mesh_net((1,)), 1).run(np.zeros(shape, np.float32))


def test_it_pays_for_chains_of_wide_kernels():
    assert pays_for(mesh_net((1, 2), channels=5))
    assert pays_for(mesh_net((1, 2), classes=50, channels=20))
    assert pays_for(normed_mesh_net((1,)))
    assert not pays_for(mesh_net((1, 2), activation="Tanh"))
    assert not pays_for(linear_model([0, 1], [0, 0]))
    assert not pays_for(unet(3, ["D", "H", "W"]))
    assert not pays_for(b"no model")
    assert not pays_for(mesh_net((1, 2)) + bytes(32 << 20))


def test_without_the_compiled_part_it_never_pays(monkeypatch):
    monkeypatch.setattr(native_layers, "_convolution", None)
    assert not native_layers.is_installed()
    assert not pays_for(mesh_net((1, 2)))
