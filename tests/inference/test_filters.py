"""What a card's post-filter does, and in which order."""

import numpy as np
import pytest

from brainchop_pipe.inference.card import ModelCard, PostFilter
from brainchop_pipe.inference.filters import filter_labels
from brainchop_pipe.zoo.catalog import shipped_models

CARD = shipped_models()["subcortical"].card


def card_with(**wanted: object) -> ModelCard:
    given = PostFilter(**{"largest_component": False, **wanted})
    return CARD.model_copy(update={"post_filter": given})


@pytest.fixture
def labels() -> np.ndarray:
    """Two large blocks of two labels that touch, an island of each apart, and a hole in each block."""
    voxels = np.zeros((24, 16, 16), np.uint8)
    voxels[2:10, 2:14, 2:14] = 11
    voxels[10:18, 2:14, 2:14] = 13
    voxels[5, 7, 7] = voxels[14, 7, 7] = 0
    voxels[10:12, 2:4, 2:4] = 11  # touches its like by a face
    voxels[15, 12, 12] = 11  # an island in the other
    voxels[21:23, 7:9, 7:9] = 13
    return voxels


def removed(labels, **wanted) -> tuple[int, int]:
    """Give the voxels that are gone, and the regions."""
    kept, regions = filter_labels(labels, 1.0, card_with(**wanted))
    return int(((labels > 0) & (kept == 0)).sum()), regions


def test_nothing_asked_is_nothing_done(labels):
    kept, regions = filter_labels(labels, 1.0, card_with())
    assert kept is labels
    assert regions == 0


def test_largest_region_of_all_labels_together(labels):
    assert removed(labels, largest_component=True) == (8, 1)


def test_core_of_all_labels_together_goes_without_what_hangs_on_by_a_bridge():
    """The bridge makes one region of all, which the largest component keeps whole."""
    x, y, z = np.ogrid[:60, :26, :26]
    voxels = np.where((x - 13) ** 2 + (y - 13) ** 2 + (z - 13) ** 2 < 144, 1, 0).astype(np.uint8)
    voxels[24:46, 12:14, 12:14], voxels[46:56, 9:17, 9:17] = 2, 2
    assert removed(voxels, largest_component=True) == (0, 0)
    kept, regions = filter_labels(voxels, 1.0, card_with(core_voxels=8, largest_component=True))
    assert regions == 0  # the bridge begins within reach of the core
    assert not kept[46:].any()
    assert (kept[:24] == voxels[:24]).mean() > 0.99


def test_largest_region_of_each_label(labels):
    assert removed(labels, largest_component_per_label=True) == (9, 2)


def test_class_of_both_sides_keeps_its_two_largest_regions():
    voxels = np.zeros((30, 8, 8), np.uint8)
    for low, size in ((2, 4), (12, 3), (22, 2)):
        voxels[low : low + size, 2 : 2 + size, 2 : 2 + size] = 8  # caudate: 11 and 50
    kept, regions = filter_labels(voxels, 1.0, card_with(largest_component_per_label=True))
    assert [bool(kept[n, 3, 3]) for n in (3, 13, 23)] == [True, True, False]
    assert regions == 1


@pytest.mark.parametrize(("voxel_mm3", "gone"), [(1.0, 8), (2.0, 0)])
def test_least_size_is_in_cubic_millimetres(labels, voxel_mm3, gone):
    kept, _ = filter_labels(labels, voxel_mm3, card_with(least_mm3=9))
    assert int((labels > 0).sum() - (kept > 0).sum()) == gone


def test_least_size_of_each_label_finds_islands_within_others(labels):
    assert removed(labels, least_mm3_per_label=2) == (1, 1)


def test_holes_of_a_label_are_filled_after_islands_are_gone(labels):
    kept, regions = filter_labels(labels, 1.0, card_with(least_mm3_per_label=2, fill_holes_per_label=True))
    assert kept[5, 7, 7] == 11
    assert kept[14, 7, 7] == 13
    assert kept[15, 12, 12] == 13
    assert regions == 1


def test_holes_of_all_labels_together_get_the_nearest(labels):
    labels[9:11, 6:9, 6:9] = 0  # a hole that both wall
    assert filter_labels(labels, 1.0, card_with(fill_holes_per_label=True))[0][9, 7, 7] == 0
    kept, _ = filter_labels(labels, 1.0, card_with(fill_holes=True))
    assert kept[9, 7, 7] == 11
    assert kept[10, 7, 7] == 13


def test_corner_joins_with_26_neighbours_and_not_with_6(labels):
    labels[:] = 0
    labels[2:6, 2:6, 2:6] = labels[6:8, 6:8, 6:8] = 11
    assert removed(labels, largest_component=True, connectivity=26) == (0, 0)
    assert removed(labels, largest_component=True, connectivity=6) == (8, 1)
