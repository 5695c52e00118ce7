import numpy as np
import pytest

from brainchop_pipe.core.metrics import dice, hausdorff_95
from brainchop_pipe.errors import ShapeError


@pytest.mark.parametrize(
    ("found", "reference", "expected"),
    [([1, 1, 0, 0], [1, 1, 0, 0], 1), ([1, 1, 0, 0], [0, 1, 1, 0], 0.5), ([1, 0], [0, 1], 0), ([0], [0], 1)],
)
def test_dice_is_twice_the_overlap_by_the_sum(found, reference, expected):
    assert dice(np.array(found, bool), np.array(reference, bool)) == expected


def test_masks_of_two_grids_are_refused():
    with pytest.raises(ShapeError, match="one grid is needed"):
        dice(np.zeros(2, bool), np.zeros(3, bool))


def test_surfaces_that_lie_apart_have_that_distance():
    """Two slabs, the second one longer by 3 voxels of 2 mm; and twice as far along an axis of 4 mm."""
    found, longer = np.zeros((12, 20, 20), bool), np.zeros((12, 20, 20), bool)
    found[2:6], longer[2:9] = True, True
    assert hausdorff_95(found, longer, (2.0, 1.0, 1.0)) == pytest.approx(6)
    assert hausdorff_95(longer, found, (4.0, 1.0, 1.0)) == pytest.approx(12)
    assert hausdorff_95(found, found, (1.0, 1.0, 1.0)) == 0


def test_single_stray_voxel_does_not_count_in_the_95_percent_distance():
    found = np.zeros((30, 30, 30), bool)
    found[5:20, 5:20, 5:20] = True
    stray = found.copy()
    stray[29, 29, 29] = True
    assert hausdorff_95(stray, found, (1.0, 1.0, 1.0)) == 0


def test_empty_masks_are_infinitely_far_from_others_and_not_from_each_other():
    nothing, something = np.zeros((4, 4, 4), bool), np.ones((4, 4, 4), bool)
    assert hausdorff_95(nothing, nothing, (1.0, 1.0, 1.0)) == 0
    assert hausdorff_95(nothing, something, (1.0, 1.0, 1.0)) == np.inf
    assert hausdorff_95(something, nothing, (1.0, 1.0, 1.0)) == np.inf
    with pytest.raises(ShapeError, match="one grid is needed"):
        hausdorff_95(nothing, something[:2], (1.0, 1.0, 1.0))
