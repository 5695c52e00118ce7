"""Conform and back: exact where lattices coincide, faithful elsewhere, the head never cut."""

from itertools import permutations, product

import numpy as np
import pytest

from brainchop_pipe.core.conform import conform, restore_labels, restore_probability
from brainchop_pipe.core.grid import Grid, Volume, canonical_grid, conformed_grid, is_conformed
from brainchop_pipe.core.resample import resample_labels
from brainchop_pipe.errors import InputError

ORIENTATIONS = [(order, signs) for order in permutations(range(3)) for signs in product((1, -1), repeat=3)]

# Axis-aligned, oblique, anisotropic: spacings in mm and angles in degrees.
GRIDS = [
    ((1.0, 1.0, 1.0), 0),
    ((0.8, 0.8, 0.8), 0),
    ((2.0, 2.0, 2.0), 20),
    ((1.0, 1.0, 4.8), 0),
    ((0.75, 0.75, 5.5), 12),
    ((0.5, 1.0, 0.7), 33),
]


def oriented_affine(order, signs, spacing=(1.0, 1.0, 1.0), degrees=0.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    turn = np.array(
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]
    ) @ np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag(signs)[:, order] * spacing
    return affine


def centred(affine: np.ndarray, shape) -> Grid:
    affine = affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def world(grid: Grid) -> np.ndarray:
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    return ijk @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def two_blobs(grid: Grid) -> np.ndarray:
    """Label 1: a ball of 22 mm radius on the right; label 2: an ellipsoid on the left, further back."""
    xyz = world(grid)
    labels = np.zeros(grid.shape, np.uint8)
    labels[((xyz - (35, 10, 5)) ** 2).sum(axis=-1) < 22**2] = 1
    labels[(((xyz - (-30, -20, -8)) / (16, 25, 20)) ** 2).sum(axis=-1) < 1] = 2
    return labels


def there_and_back(labels: np.ndarray, grid: Grid) -> np.ndarray:
    target = conformed_grid(grid)
    conformed = resample_labels(Volume(labels, grid), target)
    return restore_labels(Volume(conformed, target), grid)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_restore_undoes_conform_exactly_where_lattices_coincide(order, signs):
    shape = (40, 50, 60)
    affine = oriented_affine(order, signs)
    # The centre voxel of even axes lies on a voxel of the conformed grid.
    affine[:3, 3] = (3, -7, 11)
    grid = Grid(shape, affine)
    labels = np.random.default_rng(3).integers(0, 40, shape).astype(np.uint8)
    np.testing.assert_array_equal(there_and_back(labels, grid), labels)


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_conform_puts_the_patients_right_to_the_low_end_of_the_first_axis(order, signs):
    grid = centred(oriented_affine(order, signs, (4, 4, 4)), (44, 46, 48))
    xyz = world(grid)
    voxels = (np.linalg.norm(xyz, axis=-1) < 70).astype(np.int16) * 100
    for center, value in (((50, 0, 0), 1000), ((0, 50, 0), 700), ((0, 0, 50), 400)):
        voxels[np.linalg.norm(xyz - center, axis=-1) < 12] = value
    found = conform(Volume(voxels, grid)).volume
    # LIA: i runs to the left, j to inferior, k to anterior; the centre is near voxel 128.
    assert found.voxels[128 - 50, 128, 128] > found.voxels[128, 128, 128 + 50]
    assert found.voxels[128, 128, 128 + 50] > found.voxels[128, 128 - 50, 128] > 80
    assert found.voxels[128 + 50, 128, 128] < 60


@pytest.mark.parametrize(("spacing", "degrees"), GRIDS)
def test_labels_keep_place_and_volume_on_any_grid(spacing, degrees):
    shape = tuple(int(160 / s) for s in spacing)
    grid = centred(oriented_affine((0, 1, 2), (1, 1, 1), spacing, degrees), shape)
    labels = two_blobs(grid)
    back = there_and_back(labels, grid)
    xyz = world(grid)
    for label in (1, 2):
        before, after = labels == label, back == label
        assert after.sum() == pytest.approx(before.sum(), rel=0.03)
        moved = xyz[after].mean(axis=0) - xyz[before].mean(axis=0)
        voxels = np.linalg.inv(grid.affine[:3, :3]) @ moved
        assert np.abs(voxels).max() < 0.5


@pytest.mark.parametrize(("spacing", "degrees"), GRIDS)
def test_labels_come_from_the_conformed_grid_to_their_true_place(spacing, degrees):
    """Against the truth: the same ellipsoids drawn on both grids."""
    shape = tuple(int(160 / s) for s in spacing)
    grid = centred(oriented_affine((2, 0, 1), (-1, 1, -1), np.take(spacing, (2, 0, 1)), degrees), shape)
    target = conformed_grid(grid)
    restored = restore_labels(Volume(two_blobs(target), target), grid)
    truth = two_blobs(grid)
    for label in (1, 2):
        assert (restored == label).sum() == pytest.approx((truth == label).sum(), rel=0.03)
        both = ((restored == label) & (truth == label)).sum()
        assert 2 * both / ((restored == label).sum() + (truth == label).sum()) > 0.97


def test_canonical_form_holds_the_same_labels_as_the_native_one():
    grid = centred(oriented_affine((2, 0, 1), (-1, 1, -1), (2, 2, 2), 8), (70, 75, 80))
    target = conformed_grid(grid)
    labels = Volume(two_blobs(target), target)
    native = restore_labels(labels, grid)
    canonical = restore_labels(labels, canonical_grid(grid))
    assert np.bincount(native.ravel()).tolist() == np.bincount(canonical.ravel()).tolist()


def test_nearest_neighbour_on_request():
    grid = centred(oriented_affine((0, 1, 2), (1, 1, 1), (1.3, 1.3, 1.3)), (100, 100, 100))
    target = conformed_grid(grid)
    labels = Volume(two_blobs(target), target)
    nearest = restore_labels(labels, grid, "nearest")
    linear = restore_labels(labels, grid)
    assert 0.98 < (nearest == linear)[linear > 0].mean() < 1


def test_probabilities_stay_between_0_and_1(head):
    target = conformed_grid(head.grid)
    probability = np.random.default_rng(0).random(target.shape).astype(np.float32)
    restored = restore_probability(Volume(probability, target), head.grid)
    assert restored.min() >= 0
    assert restored.max() <= 1
    assert restored.dtype == np.float32


def test_conformed_image_comes_back_untouched():
    voxels = np.random.default_rng(0).integers(0, 9, (256, 256, 256)).astype(np.uint8)
    grid = conformed_grid(Grid((10, 10, 10), np.eye(4)))
    assert conform(Volume(voxels, grid)).volume.voxels is voxels


def test_uint8_image_is_not_scaled():
    voxels = np.zeros((100, 100, 100), np.uint8)
    voxels[20:80, 20:80, 20:80] = 77
    found = conform(Volume(voxels, Grid(voxels.shape, np.eye(4)))).volume
    assert is_conformed(found.grid)
    assert found.voxels.max() == 77


def test_image_whose_range_is_one_extreme_voxel_is_refused():
    voxels = np.ones((120, 120, 120), np.float32)
    # At 0.5 mm every second voxel lies between the voxels of the conformed grid.
    voxels[61, 61, 61], voxels[:20] = 1e9, 0
    with pytest.raises(InputError, match="nothing to see"):
        conform(Volume(voxels, Grid(voxels.shape, np.diag([0.5, 0.5, 0.5, 1]))))


def large_view(head_center_mm: tuple[float, float, float], length_mm: int = 340) -> Volume:
    """A ball of 80 mm radius (a head without neck) somewhere in a large field of view of 2 mm voxels."""
    count = length_mm // 2
    grid = centred(np.diag([2.0, 2, 2, 1]), (count, count, count))
    inside = ((world(grid) - head_center_mm) ** 2).sum(axis=-1) < 80**2
    noise = np.random.default_rng(0).integers(0, 20, grid.shape)
    return Volume((noise + 1000 * inside).astype(np.int16), grid)


def test_large_field_of_view_keeps_its_centre_if_the_head_is_in_the_box():
    image = large_view((0, 0, 0))
    found = conform(image)
    assert found.notes == ()
    assert found.volume.grid.matches(conformed_grid(image.grid))


@pytest.mark.parametrize("center", [(0, 0, 85), (0, 0, -85), (60, -70, 80)])
def test_box_is_shifted_to_keep_a_head_that_it_would_cut(center):
    found = conform(large_view(center))
    low, high = found.volume.grid.world_bounds_mm
    # Of the lower end only what is more than a brain's height below the vertex may go.
    needed_low = np.array(center) - 80
    needed_low[2] = max(needed_low[2], center[2] + 80 - 170)
    assert (np.array(center) + 80 <= high + 4).all()
    assert (needed_low >= low - 4).all()
    assert "the box was moved by" in found.notes[0]


def test_what_is_cut_is_said():
    grid = centred(np.diag([2.0, 2, 2, 1]), (80, 100, 180))
    xyz = world(grid)
    neck = (np.hypot(xyz[..., 0], xyz[..., 1]) < 60) & (xyz[..., 2] < 120)
    found = conform(Volume((neck * 500 + 1).astype(np.int16), grid))
    assert "mm of bright tissue at the inferior end" in found.notes[0]
    assert found.volume.grid.world_bounds_mm[1][2] >= 118


def test_large_field_of_view_without_a_head_is_searched_in_vain():
    voxels = np.zeros((300, 60, 60), np.int16)
    # Between the samples of the search.
    voxels[151, 31, 31] = 5
    found = conform(Volume(voxels, Grid(voxels.shape, np.eye(4))))
    assert found.volume.voxels.any()
