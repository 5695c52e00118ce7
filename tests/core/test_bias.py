import numpy as np
import pytest

from brainchop_pipe.core.bias import bias_field, correct_bias, even_out_head
from brainchop_pipe.core.grid import Grid, Volume


@pytest.fixture
def brain() -> tuple[np.ndarray, np.ndarray]:
    """Two tissues under a field that falls off by half from one side to the other."""
    ijk = np.stack(np.meshgrid(*[np.arange(96)] * 3, indexing="ij"))
    mask = ((ijk - 47.5) ** 2).sum(axis=0) < 40**2
    stripes = np.where((ijk // 8).sum(axis=0) % 2, 160.0, 100.0)
    return (stripes * np.linspace(1.4, 0.7, 96).reshape(-1, 1, 1)).astype(np.uint8), mask


def test_tissue_is_as_bright_on_both_sides_afterwards(brain):
    voxels, mask = brain
    tissue = mask & ((np.indices(mask.shape) // 8).sum(axis=0) % 2 == 1)

    def unevenness(values):
        low, high = values[:40][tissue[:40]].mean(), values[-40:][tissue[-40:]].mean()
        return abs(low / high - 1)

    corrected = correct_bias(voxels, mask)
    assert unevenness(voxels) > 0.3
    assert unevenness(corrected) < 0.05


def test_nothing_is_left_outside_and_the_scale_stays(brain):
    voxels, mask = brain
    corrected = correct_bias(voxels, mask)
    assert corrected.dtype == np.float32
    assert not corrected[~mask].any()
    assert np.median(corrected[mask]) == pytest.approx(np.median(voxels[mask]), rel=0.1)


def test_same_input_gives_the_same_bytes(brain):
    np.testing.assert_array_equal(correct_bias(*brain), correct_bias(*brain))


def test_field_goes_on_outside_of_the_mask(brain):
    voxels, mask = brain
    volume = Volume(voxels[::2], Grid(voxels[::2].shape, np.diag([2.0, 1, 1, 1])))
    field = bias_field(volume, mask[::2])
    assert field.shape == volume.voxels.shape
    assert field.min() > 0
    np.testing.assert_array_equal(field[0], field[1])
    inner = field[4:-4, 48, 48] / field[24, 48, 48]
    np.testing.assert_allclose(inner, (np.linspace(1.4, 0.7, 96)[::2] / 1.04)[4:-4], rtol=0.1)


def test_field_of_an_empty_mask_is_one(brain):
    volume = Volume(brain[0], Grid(brain[0].shape, np.eye(4)))
    assert (bias_field(volume, np.zeros_like(brain[1])) == 1).all()


def test_empty_mask_gives_an_empty_image(brain):
    voxels, mask = brain
    assert not correct_bias(voxels, np.zeros_like(mask)).any()


def test_which_voxels_the_estimate_sees_matters_little(brain):
    voxels, mask = brain
    larger = mask.copy()
    # The box begins a voxel earlier along each axis, and so does the estimate's lattice.
    larger[6, 48, 48] = larger[48, 6, 48] = larger[48, 48, 6] = True
    ratio = correct_bias(voxels, larger)[mask] / correct_bias(voxels, mask)[mask]
    low, high = np.percentile(ratio, (5, 95))
    # One pass leaves 1.5 %.
    assert high / low < 1.01


@pytest.mark.parametrize("axis", [0, 2])
def test_made_field_of_40_percent_hardly_shows_afterwards(brain, axis):
    voxels, mask = (brain[0] / 2).astype(np.uint8), brain[1]
    field = np.moveaxis(np.linspace(0.6, 1.4, 96).reshape(-1, 1, 1), 0, axis)
    lit = (voxels * field).astype(np.uint8)
    ratio = correct_bias(lit, mask)[mask] / correct_bias(voxels, mask)[mask]
    low, high = np.percentile(ratio, (5, 95))
    # One pass leaves 4 %.
    assert high / low < 1.03


@pytest.mark.parametrize(("spacing_mm", "every"), [(0.8, 1), (1.3, 1), (5.0, 4)])
def test_field_is_found_at_any_spacing(brain, spacing_mm, every):
    voxels, mask = (each[::every, ::every, ::every] for each in brain)
    grid = Grid(voxels.shape, np.diag([spacing_mm, spacing_mm, spacing_mm, 1]))
    field = bias_field(Volume(voxels, grid), mask)
    assert field.shape == voxels.shape
    assert np.log(field[mask]).mean() == pytest.approx(0, abs=1e-5)
    middle = 48 // every
    inner = field[:, middle, middle] / field[middle, middle, middle]
    truth = np.linspace(1.4, 0.7, 96)[::every] / 1.05
    border = 12 // every
    np.testing.assert_allclose(inner[border:-border], truth[border:-border], rtol=0.1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_whole_head_is_evened_out_in_its_type_and_air_stays_air(brain, dtype):
    voxels, mask = brain
    head = Volume(np.where(mask, voxels, 1).astype(dtype), Grid(voxels.shape, np.eye(4)))
    even, is_cleared = even_out_head(head)
    even = even.voxels
    assert not is_cleared
    assert even.dtype == dtype
    tissue = mask & ((np.indices(mask.shape) // 8).sum(axis=0) % 2 == 1)
    sides = [even[part][tissue[part]].mean() for part in (slice(0, 40), slice(-40, None))]
    assert sides[0] == pytest.approx(sides[1], rel=0.05)
    assert even[~mask].max() <= 2
    if dtype == np.uint8:
        assert np.percentile(even[mask], 99.9) == pytest.approx(255, abs=2)
    else:
        assert np.median(even[mask]) == pytest.approx(np.median(voxels[mask]), rel=0.1)


@pytest.mark.parametrize("values", [np.zeros((8, 8, 8), np.uint8), np.full((8, 8, 8), -1.0, np.float32)])
def test_head_without_light_stays_as_it_is(values):
    head = Volume(values, Grid(values.shape, np.eye(4)))
    assert even_out_head(head).image is head
