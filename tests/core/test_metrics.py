import numpy as np
import pytest

from brainchop_pipe.core.metrics import dice
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
