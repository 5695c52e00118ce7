import numpy as np

from brainchop_pipe.core.scaling import scale_by_deviation, scale_by_foreground_quantiles, scale_by_window

HEAD = np.array([0, 0, 0, 0, 10, 20, 30, 40, 50], np.int16)


def test_quantiles_of_the_foreground_leave_the_air_out():
    np.testing.assert_allclose(
        scale_by_foreground_quantiles(HEAD, 0, 1, 1e-9), [0, 0, 0, 0, 0, 0.25, 0.5, 0.75, 1], atol=1e-6
    )


def test_volume_without_a_foreground_stays_zero():
    assert not scale_by_foreground_quantiles(np.zeros(5), 0, 1, 1e-3).any()
    assert not scale_by_deviation(np.zeros(5), foreground_only=True).any()


def test_window_clips_at_both_ends():
    np.testing.assert_allclose(scale_by_window(np.array([-100, 0, 40, 80, 900]), 0, 80), [0, 0, 0.5, 1, 1])


def test_deviation_of_the_foreground_leaves_the_air_at_zero():
    scaled = scale_by_deviation(HEAD, foreground_only=True)
    assert not scaled[:4].any()
    np.testing.assert_allclose([scaled[4:].mean(), scaled[4:].std()], [0, 1], atol=1e-6)


def test_deviation_of_all_voxels_counts_the_air():
    scaled = scale_by_deviation(HEAD, foreground_only=False)
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-6)
    assert not scale_by_deviation(np.full(4, 7), foreground_only=False).any()
