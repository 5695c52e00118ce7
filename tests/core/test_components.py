import numpy as np
import pytest
from scipy import ndimage

from brainchop_pipe.core.components import largest_component
from brainchop_pipe.errors import ShapeError


@pytest.mark.parametrize(("connectivity", "rank"), [(6, 1), (18, 2), (26, 3)])
def test_largest_component_is_that_of_scipy(connectivity, rank):
    mask = np.random.default_rng(5).random((30, 31, 32)) < 0.2
    regions, count = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
    sizes = ndimage.sum_labels(mask, regions, np.arange(1, count + 1))
    assert (sizes == sizes.max()).sum() == 1
    np.testing.assert_array_equal(largest_component(mask, connectivity), regions == 1 + sizes.argmax())


def test_more_than_255_regions_are_told_apart():
    mask = np.zeros((60, 60, 3), bool)
    mask[::2, ::2, 0] = True
    mask[40:44, 41, 0] = True
    assert largest_component(mask, 6).sum() == 8


def test_labels_that_touch_are_one_region():
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[1, 1, 1], labels[2, 1, 1], labels[4, 4, 4] = 1, 2, 2
    assert np.argwhere(largest_component(labels)).tolist() == [[1, 1, 1], [2, 1, 1]]


def test_empty_mask_stays_empty():
    assert not largest_component(np.zeros((3, 3, 3), bool)).any()


def test_full_mask_stays_full():
    assert largest_component(np.ones((3, 3, 3), bool)).all()


def test_mask_of_two_axes_is_refused():
    with pytest.raises(ShapeError, match="three axes are needed"):
        largest_component(np.ones((3, 3), bool))
