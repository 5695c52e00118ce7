import numpy as np
import pytest

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference import native_runner
from brainchop_pipe.inference.chain import Layer
from brainchop_pipe.inference.native import _convolution
from brainchop_pipe.inference.native_runner import NativeRunner, pays_for
from brainchop_pipe.inference.onnxruntime_runner import CPU, OnnxRuntimeRunner
from conftest import linear_model
from networks import mesh_net, unet

INSTRUCTIONS = _convolution.instructions()


def volume(*shape: int, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (1, channels, *shape)).astype(np.float32)


@pytest.fixture(params=INSTRUCTIONS)
def instructions(request, monkeypatch) -> str:
    """Each set that the processor has, in the place of the best."""
    monkeypatch.setattr(native_runner, "_instructions", lambda: (request.param,))
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
    np.testing.assert_allclose(NativeRunner(content, 1).run(image)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "content", [unet(3, ["D", "H", "W"]), mesh_net((1, 1), channels=65), mesh_net((1, 1), classes=9)]
)
def test_other_networks_are_refused(content):
    with pytest.raises(ModelError, match=r"no chain .* of up to 64 channels"):
        NativeRunner(content, 1)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4, 4), (1, 2, 4, 4, 4)])
def test_other_batches_are_refused(shape):
    with pytest.raises(ModelError, match="one volume of 1 channels is needed"):
        NativeRunner(mesh_net((1,)), 1).run(np.zeros(shape, np.float32))


def test_it_pays_for_few_channels_and_classes():
    assert pays_for(mesh_net((1, 2), channels=5))
    assert not pays_for(mesh_net((1, 2), channels=20))
    assert not pays_for(mesh_net((1, 2), classes=50, channels=5))
    assert not pays_for(linear_model([0, 1], [0, 0]))
    assert not pays_for(unet(3, ["D", "H", "W"]))
    assert not pays_for(b"no model")
    assert not pays_for(mesh_net((1, 2)) + bytes(1 << 20))


def test_without_the_compiled_part_it_never_pays(monkeypatch):
    monkeypatch.setattr(native_runner, "_convolution", None)
    assert not native_runner.is_installed()
    assert not pays_for(mesh_net((1, 2)))


# What `convolve` is given in `NativeRunner`, for a layer of 2 to 3 channels on 4 x 5 x 6 voxels.
GIVEN = {
    "source": np.zeros((2, 4, 5, 40), np.float32),
    "target": np.zeros((3, 4, 5, 6), np.float32),
    "weights": np.zeros(27 * 2 * 3, np.float32),
    "bias": np.zeros(3, np.float32),
    "margins": (1, 0),
    "width": 6,
    "taps": 3,
    "dilation": 1,
    "activation": 1,
    "planes": (0, 4, 1),
}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"source": np.zeros((2, 4, 5, 30), np.float64)}, TypeError, "float32 of 4 are needed"),
        ({"weights": np.zeros((27, 6), np.float32)}, TypeError, "float32 of 1 are needed"),
        ({"source": np.zeros((65, 4, 5, 40), np.float32)}, ValueError, "channels"),
        ({"target": np.zeros((3, 4, 6, 6), np.float32)}, ValueError, "planes differ"),
        ({"margins": (0, 0)}, ValueError, "margins"),
        ({"dilation": 2}, ValueError, "margins"),
        ({"width": 33}, ValueError, "margins"),
        ({"margins": (1, 1)}, ValueError, "rows are too short"),
        ({"weights": np.zeros(27, np.float32)}, ValueError, "weights"),
        ({"bias": np.zeros(4, np.float32)}, ValueError, "biases"),
        ({"planes": (0, 5, 1)}, ValueError, "planes beyond"),
        ({"planes": (-1, 4, 1)}, ValueError, "planes beyond"),
        ({"planes": (0, 4, 0)}, ValueError, "planes beyond"),
        ({"planes": (1, 4, 2**63 - 1)}, ValueError, "planes beyond"),
        ({"width": 2**63 - 1, "margins": (1, 1)}, ValueError, "less than a row"),
        ({"margins": (2**62 + 1000, 0), "dilation": 2**62}, ValueError, "less than a row"),
        ({"margins": (1, 2**63 - 1)}, ValueError, "less than a row"),
        ({"margins": (2**63 - 1, 0)}, ValueError, "less than a row"),
        ({"taps": 5}, ValueError, "kernels"),
        ({"activation": 3}, ValueError, "activation"),
        ({"width": 0}, ValueError, "width"),
    ],
)
def test_nothing_is_read_or_written_beyond_its_array(changes, error, words):
    _convolution.convolve(INSTRUCTIONS[0], *GIVEN.values())
    with pytest.raises(error, match=words):
        _convolution.convolve(INSTRUCTIONS[0], *(GIVEN | changes).values())


def test_target_that_is_read_only_is_refused():
    target = np.zeros((3, 4, 5, 6), np.float32)
    target.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        _convolution.convolve(INSTRUCTIONS[0], *(GIVEN | {"target": target}).values())


def test_instructions_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="has no MMX"):
        _convolution.convolve("MMX", *GIVEN.values())


def test_margins_of_a_target_stay_what_they_are():
    layer = Layer(np.ones((2, 1, 3, 3, 3), np.float32), np.ones(2, np.float32), 1, "linear")
    packed = native_runner._Packed(layer)
    source, target = np.ones((1, 3, 4, 40), np.float32), np.full((2, 3, 4, 20), 7, np.float32)
    given = (packed.weights, packed.bias, (1, 5), 6, packed.taps, 1, 0, (0, 3, 1))
    _convolution.convolve(INSTRUCTIONS[0], source, target, *given)
    assert (target[..., :5] == 7).all()
    assert (target[..., 11:] == 7).all()
    assert (target[..., 5:11] != 7).all()
