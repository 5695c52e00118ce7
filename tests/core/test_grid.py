from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from brainchop_pipe.core.grid import Grid, Volume, canonical_grid, conformed_grid, is_conformed
from brainchop_pipe.errors import GeometryError, ShapeError


def test_affine_of_a_grid_cannot_be_changed_from_outside():
    affine = np.eye(4)
    grid = Grid((2, 3, 4), affine)
    affine[0, 0] = 7
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 2


@pytest.mark.parametrize(
    ("affine", "message"),
    [
        (np.eye(3), "no finite 4 x 4"),
        (np.diag([1, np.nan, 1, 1]), "no finite 4 x 4"),
        (np.diag([1, 0, 1, 1]), "singular"),
        (np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
    ],
)
def test_affine_that_does_not_span_space_is_refused(affine, message):
    with pytest.raises(GeometryError, match=message):
        Grid((2, 2, 2), affine)


@pytest.mark.parametrize("shape", [(2, 2), (2, 2, 0), (2, 2, 2, 2)])
def test_grid_needs_three_filled_axes(shape):
    with pytest.raises(ShapeError, match="three axes"):
        Grid(shape, np.eye(4))


def test_volume_refuses_voxels_that_are_not_on_its_grid():
    with pytest.raises(ShapeError, match="their grid has"):
        Volume(np.zeros((2, 2, 2)), Grid((2, 2, 3), np.eye(4)))


def test_small_voxels_are_not_taken_for_a_singular_affine():
    grid = Grid((2, 2, 2), np.diag([0.001, 0.001, 0.001, 1]))
    assert grid.voxel_volume_mm3 == pytest.approx(1e-9)
    assert grid.spacing_mm == pytest.approx((0.001, 0.001, 0.001))


def test_conformed_grid_keeps_the_centre_and_loses_the_tilt():
    tilt = np.array([[0.9, -0.1, 0, 5], [0.1, 0.9, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1]])
    image = Grid((100, 120, 80), tilt)
    target = conformed_grid(image)
    assert target.orientation == "LIA"
    assert is_conformed(target)
    assert target.affine @ [128, 128, 128, 1] == pytest.approx(tilt @ [50, 60, 40, 1], abs=1e-5)


def test_shift_moves_the_conformed_grid_in_the_world():
    image = Grid((100, 100, 100), np.eye(4))
    moved = conformed_grid(image, (1, -2, 30)).affine - conformed_grid(image).affine
    assert moved[:3, 3].tolist() == [1, -2, 30]


def test_half_a_voxel_less_is_not_conformed():
    affine = conformed_grid(Grid((10, 10, 10), np.eye(4))).affine * [[0.99], [1], [1], [1]]
    assert not is_conformed(Grid((256, 256, 256), affine))


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_canonical_grid_is_that_of_nibabel(order, signs):
    affine = np.eye(4)
    affine[:3, :3] = (np.diag(signs) * [1.5, 1, 2])[:, order]
    affine[:3, 3] = (3, 4, 5)
    image = nib.Nifti1Image(np.zeros((4, 5, 6), np.uint8), affine)
    expected = nib.as_closest_canonical(image)
    grid = canonical_grid(Grid((4, 5, 6), affine))
    assert grid.matches(Grid(expected.shape, expected.affine))
    assert grid.orientation == "RAS"
