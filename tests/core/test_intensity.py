import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brainchop_pipe.core.intensity import (
    robust_range,
    scale_by_level,
    scale_by_quantiles,
    scale_by_range,
    scale_to_uint8,
    white_matter_level,
)

volumes = arrays(np.uint8, st.tuples(*[st.integers(1, 6)] * 3))


@given(volumes, st.floats(0, 0.4), st.floats(0.6, 1))
def test_quantile_scaling_is_the_formula_of_upstream(voxels, low, high):
    bottom, top = np.quantile(voxels, (low, high))
    expected = np.clip((voxels - bottom) / (top - bottom + 1e-3), 0, 1)
    np.testing.assert_allclose(scale_by_quantiles(voxels, low, high), expected, atol=1e-6)


@given(volumes)
def test_range_scaling_fills_zero_to_one(voxels):
    scaled = scale_by_range(voxels)
    span = voxels.max() > voxels.min()
    assert scaled.min() == 0
    assert scaled.max() == (1 if span else 0)
    assert scaled.dtype == np.float32


def test_robust_range_leaves_out_the_brightest_thousandth():
    voxels = np.concatenate([np.arange(100_000) % 1000, np.full(50, 100_000)])
    low, high = robust_range(voxels.astype(np.float32))
    assert low == 0
    # The next-to-last filled bin: bins are a hundred wide here.
    assert 700 <= high <= 1000


@pytest.mark.parametrize("voxels", [np.full(9, 4.0), np.array([0.001] * 5000 + [5.0])])
def test_robust_range_falls_back_to_the_whole_range(voxels):
    assert robust_range(voxels) == (voxels.min(), voxels.max())


def test_scaling_to_8_bits_rounds_clips_and_keeps_zero():
    voxels = np.array([-20, -10, 0, 2.5, 10, 11], np.float32)
    assert scale_to_uint8(voxels, -10, 10).tolist() == [0, 0, 0, 159, 255, 255]


def test_scaling_a_flat_image_gives_zero():
    assert not scale_to_uint8(np.full(4, 7, np.float32), 7, 7).any()


def tissues(rng, *groups: tuple[float, float, int]) -> np.ndarray:
    """Voxels of tissues: mean, spread, number."""
    return np.concatenate([rng.normal(mean, spread, count).clip(0) for mean, spread, count in groups])


CSF, GM = (30, 12, 250_000), (95, 14, 550_000)


@pytest.mark.parametrize("gain", [0.2, 1.0, 1.9])
@pytest.mark.parametrize(
    "white", [(125, 4, 400_000), (125, 12, 400_000), (125, 4, 150_000)], ids=["sharp", "blurred", "little"]
)
def test_level_of_white_matter_is_found_at_any_gain(gain, white):
    rng = np.random.default_rng(1)
    found = white_matter_level(gain * tissues(rng, CSF, GM, white))
    assert found == pytest.approx(gain * 125, rel=0.05)


@pytest.mark.parametrize("percent", [0.2, 0.4, 0.6, 0.8])
def test_level_follows_white_matter_more_finely_than_the_bins_of_the_search(percent):
    # As many vessels as keep the histogram's range from moving along.
    others = tissues(np.random.default_rng(2), CSF, GM, (190, 1, 20_000))
    white = np.random.default_rng(1).normal(125, 5, 400_000)
    before, after = (
        white_matter_level(np.concatenate([others, white * gain])) for gain in (1, 1 + percent / 100)
    )
    assert after / before == pytest.approx(1 + percent / 100, abs=5e-4)


def test_few_bright_vessels_are_not_taken_for_white_matter():
    rng = np.random.default_rng(1)
    brain = tissues(rng, CSF, GM, (125, 5, 400_000), (190, 5, 8_000))
    assert white_matter_level(brain) == pytest.approx(125, rel=0.03)


def test_brain_whose_bright_part_has_no_peak_has_no_level():
    assert white_matter_level(np.zeros(1000)) is None
    assert white_matter_level(np.array([])) is None
    assert white_matter_level(np.random.default_rng(1).exponential(50, 400_000)) is None


def test_level_becomes_one_and_what_is_brighter_is_cut_off():
    scaled = scale_by_level(np.array([0, 50, 100, 150], np.float32), 100)
    np.testing.assert_allclose(scaled, [0, 0.5, 1, 1])
    assert scaled.dtype == np.float32


def test_brain_that_is_nearly_all_black_has_no_white_matter():
    brain = np.concatenate([np.zeros(9900), np.linspace(1, 200, 100)])
    assert white_matter_level(brain) is None
