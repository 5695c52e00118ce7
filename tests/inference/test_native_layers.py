from itertools import product

import numpy as np
import pytest

from brainchop_pipe.inference import native_layers
from brainchop_pipe.inference.chain import Layer, Norm
from brainchop_pipe.inference.native_layers import NativeThreads, PackedLayer
from conftest import compiled

_convolution = compiled("brainchop_pipe.inference.native._convolution")
INSTRUCTIONS = _convolution.instructions()
BEST, ACROSS = INSTRUCTIONS[0]


@pytest.fixture(params=INSTRUCTIONS, ids=[name for name, _ in INSTRUCTIONS], autouse=True)
def instructions(request, monkeypatch) -> None:
    """Each set that the processor has, in the place of the best."""
    monkeypatch.setattr(native_layers, "_instructions", lambda: (request.param,))


def layer_of(outputs: int, inputs: int, taps: int, dilation: int = 1, **more) -> Layer:
    random = np.random.default_rng(taps)
    weights = random.normal(0, 1, (outputs, inputs, taps, taps, taps)).astype(np.float32)
    return Layer(weights, random.normal(0, 1, outputs).astype(np.float32), dilation, **more)


def volume(channels: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (channels, *shape)).astype(np.float32)


def convolved(layer: Layer, seen: np.ndarray) -> np.ndarray:
    """Sum up tap by tap in float64."""
    taps, step = layer.weights.shape[-1], 2 if layer.weights.shape[-1] == 2 else 1
    reach = taps // 2 * layer.dilation if step == 1 else 0
    padded = np.pad(seen.astype(np.float64), [(0, 0), *[(reach, reach)] * 3])
    shape = [n // step for n in seen.shape[1:]]
    made = np.zeros((len(layer.weights), *shape)) + layer.bias[:, None, None, None]
    for tap in product(range(taps), repeat=3):
        part = tuple(
            slice(t * layer.dilation, t * layer.dilation + n * step, step)
            for t, n in zip(tap, shape, strict=True)
        )
        made += np.einsum("oi,izyx->ozyx", layer.weights[(slice(None), slice(None), *tap)], padded[:, *part])
    return made


@pytest.mark.parametrize("shape", [(4, 6, 8), (1, 1, 1), (7, 2, 133), (2, 40, 11), (9, 8, 64)])
@pytest.mark.parametrize(
    ("outputs", "inputs", "taps", "dilation"),
    [(5, 3, 3, 1), (13, 20, 3, 2), (1, 1, 3, 5), (7, 40, 3, 16), (3, 9, 1, 1), (8, 70, 1, 1), (14, 6, 2, 1)],
)
def test_sums_are_those_of_all_taps(outputs, inputs, taps, dilation, shape):
    if taps == 2:
        shape = tuple(2 * n for n in shape)
    dilation = min(dilation, sum(shape))
    layer, seen = layer_of(outputs, inputs, taps, dilation), volume(inputs, *shape)
    expected = convolved(layer, seen)
    with NativeThreads(2) as native:
        found = native.apply(PackedLayer(layer), native.rows_of(seen))
    assert found.voxels.dtype == np.float32
    assert not found.voxels[..., found.width :].any()
    np.testing.assert_allclose(found.inside, expected, atol=1e-6 * inputs**0.5 * np.abs(expected).max())


@pytest.mark.parametrize("taps", [1, 2, 3])
def test_norm_is_of_all_voxels_and_of_each_channel(taps):
    norm = Norm(np.float32([1, 2, -1]), np.float32([0, 1, 0]), 1e-3)
    layer, seen = layer_of(3, 2, taps, norm=norm, activation="relu"), volume(2, 10, 6, 34) + 5
    plain = convolved(layer, seen)
    mean, variance = (f(plain, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.var))
    scale, shift = (a[:, None, None, None] for a in norm[:2])
    expected = np.maximum((plain - mean) / np.sqrt(variance + 1e-3) * scale + shift, 0)
    with NativeThreads(3) as native:
        found = native.apply(PackedLayer(layer), native.rows_of(seen))
    np.testing.assert_allclose(found.inside, expected, atol=1e-4)


def test_voxels_are_added_to_the_eight_that_they_cover():
    coarse, fine = volume(3, 4, 5, 9), volume(3, 8, 10, 18) * 2
    with NativeThreads(2) as native:
        found = native.rows_of(fine)
        native.add_repeated(native.rows_of(coarse), found, "relu")
    repeated = coarse.repeat(2, axis=1).repeat(2, axis=2).repeat(2, axis=3)
    assert np.array_equal(found.inside, np.maximum(fine + repeated, 0))
    assert not found.voxels[..., 18:].any()


def test_a_volume_can_be_used_again():
    layer, seen = PackedLayer(layer_of(2, 2, 3)), volume(2, 5, 6, 7)
    with NativeThreads(1) as native:
        once = native.apply(layer, native.rows_of(seen)).inside
        spare = native.rows(4, seen.shape[1:])
        spare.inside[:] = np.nan
        again = native.apply(layer, native.rows_of(seen), spare)
    assert np.array_equal(again.inside, once)
    assert np.shares_memory(again.voxels, spare.voxels)


def test_planes_can_be_made_alone_within_a_larger_volume():
    """As `_Window` does: of 19 planes those from the fifth on, into planes two farther."""
    layer, seen = PackedLayer(layer_of(3, 2, 3)), volume(2, 19, 6, 7)
    with NativeThreads(2) as native:
        rows = native.rows_of(seen)
        whole = native.apply(layer, rows).inside
        larger = native.rows(3, (23, 6, 7))
        larger.inside[:] = 5
        native.apply(layer, rows, larger.planes(2, 21), (4, 12))
    assert np.array_equal(larger.inside[:, 6:14], whole[:, 4:12])
    assert (larger.inside[:, :6] == 5).all()
    assert (larger.inside[:, 14:] == 5).all()


@pytest.mark.parametrize(
    ("planes", "more"),
    [((2, 8), {}), ((0, 4), {"dilation": 2}), ((0, 4), {"norm": Norm(np.ones(1), np.zeros(1), 1e-5)})],
)
def test_planes_that_cannot_be_made_alone_are_refused(planes, more):
    with NativeThreads(1) as native, pytest.raises(ValueError, match="alone need the dilation 1, no norm"):
        native.apply(PackedLayer(layer_of(1, 1, 3, **more)), native.rows(1, (8, 3, 4)), planes=planes)


# What `convolve` is given by `NativeThreads`, for a layer of 2 to 3 channels on 8 x 5 x 6 voxels.
GIVEN = {
    "source": np.zeros((2, 8, 5, ACROSS), np.float32),
    "target": np.zeros((3, 8, 5, 6), np.float32),
    "weights": np.zeros(108 * 2 * 3, np.float32),
    "bias": np.zeros(3, np.float32),
    "sums": np.zeros((2, 3, 2)),
    "width": 6,
    "taps": 3,
    "dilation": 1,
    "activation": 1,
    "fours": (0, 2, 1),
}
REPEATED = {
    "source": np.zeros((2, 2, 3, ACROSS), np.float32),
    "target": np.zeros((2, 4, 6, ACROSS), np.float32),
    "width": 6,
    "activation": 1,
    "planes": (0, 4),
}
SCALED = {
    "volume": np.zeros((2, 4, 5, ACROSS), np.float32),
    "scale": np.zeros(2, np.float32),
    "shift": np.zeros(2, np.float32),
    "width": 6,
    "activation": 3,
    "planes": (0, 4),
}


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"source": np.zeros((2, 8, 5, ACROSS), np.float64)}, TypeError, "float32 of 4 are needed"),
        ({"weights": np.zeros((108, 6), np.float32)}, TypeError, "float32 of 1 are needed"),
        ({"sums": np.zeros((2, 3, 2), np.float32)}, TypeError, "float64 of 3 are needed"),
        ({"source": np.zeros((1025, 8, 5, ACROSS), np.float32)}, ValueError, "channels"),
        ({"source": np.zeros((2, 8, 5, 2 * ACROSS), np.float32)[..., ::2]}, ValueError, "without gaps"),
        ({"target": np.zeros((3, 8, 6, 6), np.float32)}, ValueError, "planes do not fit"),
        ({"source": np.zeros((2, 8, 5, ACROSS - 1), np.float32)}, ValueError, "source's rows are too short"),
        ({"width": ACROSS + 1}, ValueError, "source's rows are too short"),
        ({"width": 7}, ValueError, "target's rows are too short"),
        ({"width": 2**63 - 1}, ValueError, "rows are too short"),
        ({"width": 0}, ValueError, "width"),
        ({"weights": np.zeros(108, np.float32)}, ValueError, "weights"),
        ({"bias": np.zeros(4, np.float32)}, ValueError, "biases"),
        ({"sums": np.zeros((1, 3, 2))}, ValueError, "sums"),
        ({"fours": (0, 3, 1)}, ValueError, "planes beyond"),
        ({"fours": (-1, 2, 1)}, ValueError, "planes beyond"),
        ({"fours": (0, 2, 0)}, ValueError, "planes beyond"),
        ({"fours": (1, 2, 2**63 - 1)}, ValueError, "planes beyond"),
        ({"dilation": 2**62}, ValueError, "dilation"),
        ({"dilation": 0}, ValueError, "dilation"),
        ({"taps": 4}, ValueError, "kernels"),
        ({"taps": 0}, ValueError, "kernels"),
        ({"taps": 1}, ValueError, "weights"),
        ({"taps": 1, "dilation": 2}, ValueError, "dilation 1"),
        ({"taps": 2}, ValueError, "planes do not fit"),
        (
            {"taps": 2, "target": np.zeros((3, 4, 2, 6), np.float32), "width": ACROSS // 2 + 1},
            ValueError,
            "source's rows",
        ),
        ({"activation": 4}, ValueError, "activation"),
    ],
)
def test_nothing_is_read_or_written_beyond_its_array(changes, error, words):
    _convolution.convolve(BEST, *GIVEN.values())
    with pytest.raises(error, match=words):
        _convolution.convolve(BEST, *(GIVEN | changes).values())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"volume": np.zeros((2, 4, 5), np.float32)}, TypeError, "float32 of 4 are needed"),
        ({"scale": np.zeros(3, np.float32)}, ValueError, "one number of each channel"),
        ({"shift": np.zeros(1, np.float32)}, ValueError, "one number of each channel"),
        ({"width": ACROSS + 1}, ValueError, "rows are too short"),
        ({"width": 2**63 - 1}, ValueError, "rows are too short"),
        ({"width": 0}, ValueError, "rows are too short"),
        ({"activation": -1}, ValueError, "activation"),
        ({"planes": (0, 5)}, ValueError, "planes beyond"),
        ({"planes": (-1, 4)}, ValueError, "planes beyond"),
    ],
)
def test_nothing_is_scaled_beyond_its_array(changes, error, words):
    _convolution.scale(BEST, *SCALED.values())
    with pytest.raises(error, match=words):
        _convolution.scale(BEST, *(SCALED | changes).values())


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"source": np.zeros((2, 2, 3, ACROSS), np.float64)}, TypeError, "float32 of 4 are needed"),
        ({"source": np.zeros((3, 2, 3, ACROSS), np.float32)}, ValueError, "channels differ"),
        ({"source": np.zeros((2, 1, 3, ACROSS), np.float32)}, ValueError, "planes do not fit"),
        ({"target": np.zeros((2, 4, 7, ACROSS), np.float32)}, ValueError, "planes do not fit"),
        ({"source": np.zeros((2, 2, 3, ACROSS // 2 - 1), np.float32)}, ValueError, "rows are too short"),
        ({"width": ACROSS + 1}, ValueError, "rows are too short"),
        ({"width": 2**63 - 1}, ValueError, "rows are too short"),
        ({"width": 0}, ValueError, "rows are too short"),
        ({"activation": 4}, ValueError, "activation"),
        ({"planes": (0, 5)}, ValueError, "planes beyond"),
        ({"planes": (-1, 4)}, ValueError, "planes beyond"),
    ],
)
def test_nothing_is_repeated_beyond_its_array(changes, error, words):
    _convolution.repeat(BEST, *REPEATED.values())
    with pytest.raises(error, match=words):
        _convolution.repeat(BEST, *(REPEATED | changes).values())


@pytest.mark.parametrize("name", ["target", "sums"])
def test_target_that_is_read_only_is_refused(name):
    target = GIVEN[name].copy()
    target.flags.writeable = False
    with pytest.raises((ValueError, BufferError)):
        _convolution.convolve(BEST, *(GIVEN | {name: target}).values())


def test_instructions_that_are_not_there_are_refused():
    with pytest.raises(ValueError, match="has no MMX"):
        _convolution.convolve("MMX", *GIVEN.values())
    with pytest.raises(ValueError, match="has no MMX"):
        _convolution.scale("MMX", *SCALED.values())
    with pytest.raises(ValueError, match="has no MMX"):
        _convolution.repeat("MMX", *REPEATED.values())


@pytest.mark.parametrize("edge", [1, 3])
def test_what_lies_behind_a_row_stays_what_it_is(edge):
    layer = Layer(np.ones((2, 1, edge, edge, edge), np.float32), np.ones(2, np.float32), 1)
    packed = PackedLayer(layer)
    source = np.zeros((1, 3, 4, ACROSS), np.float32)
    source[..., :6] = 1
    target = np.full((2, 3, 4, 20), 7, np.float32)
    given = (packed.weights, packed.bias, None, 6, packed.taps, 1, 0, (0, 1, 1))
    _convolution.convolve(BEST, source, target, *given)
    assert (target[..., 6:] == 7).all()
    assert (target[..., :6] != 7).all()
    whole = np.full((2, 3, 4, ACROSS), 7, np.float32)
    _convolution.scale(BEST, whole, packed.bias, packed.bias, 6, 0, (0, 3))
    assert (whole[..., 6:] == 7).all()
    assert (whole[..., :6] == 8).all()
