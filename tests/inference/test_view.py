import numpy as np
import pytest

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.intensity import scale_by_quantiles, scale_by_range
from brainchop_pipe.inference.card import read_card
from brainchop_pipe.inference.card_input import (
    NoScaling,
    QuantileScaling,
    RangeScaling,
    WindowScaling,
    ZScoreScaling,
)
from brainchop_pipe.inference.view import scaled, view_of
from conftest import make_card

GREY = np.random.default_rng(0).integers(0, 200, (12, 12, 12), np.uint8)
WIDE = GREY.astype(np.float32) * 7.3 - 300


def test_eight_bits_and_raw_values_are_scaled_alike():
    quantile = QuantileScaling(method="quantile", low=0.1, high=0.9)
    np.testing.assert_array_equal(scaled(GREY, quantile), scale_by_quantiles(GREY, 0.1, 0.9, 1e-3))
    np.testing.assert_allclose(scaled(WIDE, quantile), scaled(GREY, quantile), atol=1e-4)
    minmax = RangeScaling(method="minmax")
    np.testing.assert_array_equal(scaled(GREY, minmax), scale_by_range(GREY))
    np.testing.assert_allclose(scaled(WIDE, minmax), scaled(GREY, minmax), atol=1e-6)
    assert not scaled(np.full((2, 2, 2), 7.5), minmax).any()


def test_scalings_of_other_fields_are_there():
    assert scaled(WIDE, WindowScaling(method="window", low=0, high=100)).max() == 1
    assert scaled(GREY, ZScoreScaling(method="zscore", over="volume")).mean() == pytest.approx(0, abs=1e-5)
    over = QuantileScaling(method="quantile", over="foreground")
    assert 0 <= scaled(GREY, over).min() < scaled(GREY, over).max() <= 1
    np.testing.assert_array_equal(scaled(WIDE, NoScaling(method="none")), WIDE)


def test_head_is_found_in_raw_values_too(tmp_path):
    crop = {"threshold": 20, "margin_voxels": 0, "agreement": 1, "measured_on": "made"}
    card = read_card(make_card(tmp_path, "regions", input={"intensity": {"method": "minmax"}, "crop": crop}))
    raw = np.zeros((32, 32, 32), np.float32)
    raw[10:20, 10:20, 10:20] = 3000
    volume = Volume(raw, Grid(raw.shape, np.eye(4)))
    assert view_of((volume,), card).box[0].stop < 24
    assert view_of((volume,), card, full_volume=True).box[0].stop == 32
