import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brainchop_pipe.core.intensity import (
    robust_range,
    scale_by_quantiles,
    scale_by_range,
    scale_to_uint8,
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
