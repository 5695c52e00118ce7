import numpy as np
import pytest
from scipy import ndimage

from brainchop_pipe.core.bias import even_out_head
from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.head import find_head

SHAPE = (97, 96, 96)


def ball(radius: float) -> np.ndarray:
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij"))
    return ((ijk - np.reshape([48, 48, 48], (3, 1, 1, 1))) ** 2).sum(axis=0) < radius**2


@pytest.fixture
def noisy() -> tuple[np.ndarray, np.ndarray]:
    """A head of 200 with a dark core of 20, in noise whose mean is 38, in a tilted field of view."""
    rng = np.random.default_rng(0)
    head = ball(30)
    clean = np.where(ball(14), 20.0, np.where(head, 200.0, 0.0))
    noise = [rng.normal(0, 30, SHAPE) for _ in range(2)]
    seen = np.add.outer(np.arange(97), np.arange(96))[..., None] > 30
    return (np.hypot(clean + noise[0], noise[1]) * seen).clip(0, 255).astype(np.uint8), head


def test_noise_in_the_air_is_cleared_and_the_dark_core_stays(noisy):
    voxels, head = noisy
    even, is_cleared = even_out_head(Volume(voxels, Grid(SHAPE, np.eye(4))))
    assert is_cleared
    far = ndimage.distance_transform_edt(~head) > 14
    assert not even.voxels[far].any()
    core = ball(12)
    assert (even.voxels[core] > 0).mean() > 0.9
    assert np.corrcoef(even.voxels[head], voxels[head])[0, 1] > 0.9


@pytest.mark.parametrize("spacing_mm", [1.0, 2.0])
def test_near_reaches_as_many_millimetres_at_any_spacing(noisy, spacing_mm):
    voxels, head = noisy
    near = find_head(voxels, spacing_mm).near
    assert near[head].all()
    reach = ndimage.distance_transform_edt(~head)[near].max() * spacing_mm
    assert 8 <= reach <= 8 + 4 * spacing_mm


def test_single_voxels_of_noise_are_no_head(noisy):
    voxels, head = noisy
    bright = find_head(voxels, 1.0).bright
    assert not bright[~ndimage.binary_dilation(head, iterations=9)].any()
    assert bright[head & ~ball(18)].mean() > 0.95


def test_dark_air_needs_no_telling_apart(noisy):
    _, head = noisy
    found = find_head(np.where(head, 200, 2).astype(np.uint8), 1.0)
    assert found.near is None
    np.testing.assert_array_equal(found.bright, head)


@pytest.mark.parametrize("air", [0, 3])
def test_tissue_that_most_voxels_are_is_no_noise(noisy, air):
    _, head = noisy
    brain = np.where(ball(14), 250, np.where(head, 80, air)).astype(np.uint8)
    found = find_head(brain, 1.0)
    assert found.near is None
    np.testing.assert_array_equal(found.bright, head)


def test_nothing_is_found_where_nothing_is():
    assert find_head(np.zeros((4, 4, 4), np.uint8), 1.0) is None


def test_brain_as_dark_as_the_air_stays_where_the_field_of_view_ends_in_it():
    rng = np.random.default_rng(0)
    skull = ball(40) & ~ball(34)
    noise = np.hypot(rng.normal(0, 30, SHAPE), rng.normal(0, 30, SHAPE)) / 2
    voxels = (np.where(skull, 200, 0) + noise).clip(0, 255).astype(np.uint8)
    near = find_head(voxels[:, :, :52], 1.0).near
    assert near is not None
    assert near[ball(34)[:, :, :52]].all()
