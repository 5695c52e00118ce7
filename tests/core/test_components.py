import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from brainchop_pipe.core.components import (
    count_removed,
    fill_holes,
    fill_holes_per_label,
    largest_component,
    largest_component_per_label,
    largest_core,
    without_small_components,
)
from brainchop_pipe.core.metrics import dice
from brainchop_pipe.errors import ShapeError

# Each example is a whole map, so that few of them show much.
few = settings(max_examples=25)

RANKS = {6: 1, 18: 2, 26: 3}
BACKGROUND = {6: 26, 18: 6, 26: 6}

connectivities = st.sampled_from(list(RANKS))
# Small numbers of voxels have many ties; few labels have regions of several voxels.
label_maps = arrays(np.uint8, (4, 5, 6), elements=st.integers(0, 3)) | arrays(
    np.uint16, (5, 5, 5), elements=st.sampled_from([0, 300, 700])
)
# Holes are rare in noise: here most voxels are foreground.
dense_maps = arrays(np.uint8, (5, 5, 6), elements=st.sampled_from([0, 1, 1, 1, 1, 2]))

FILTERS = [
    largest_component_per_label,
    lambda labels, connectivity: largest_component_per_label(labels, connectivity, paired=(1, 300)),
    lambda labels, connectivity: without_small_components(labels, 3, connectivity),
    lambda labels, connectivity: without_small_components(labels, 3, connectivity, per_label=True),
    fill_holes,
    fill_holes_per_label,
]
filters = st.sampled_from(FILTERS)


def regions_of(mask: np.ndarray, connectivity: int) -> list[np.ndarray]:
    """Oracle: each region as a mask, in scan order."""
    numbers, count = ndimage.label(mask, ndimage.generate_binary_structure(3, RANKS[connectivity]))
    return [numbers == number for number in range(1, count + 1)]


def regions_of_labels(labels: np.ndarray, connectivity: int) -> list[np.ndarray]:
    return [r for label in np.unique(labels) if label for r in regions_of(labels == label, connectivity)]


def enclosed(mask: np.ndarray, connectivity: int) -> np.ndarray:
    """Oracle: all that is not the mask and has no way to the border."""
    touching = ndimage.generate_binary_structure(3, RANKS[BACKGROUND[connectivity]])
    return ndimage.binary_fill_holes(mask, touching) & ~mask


def shell(label: int = 1, size: int = 7) -> np.ndarray:
    labels = np.zeros((size,) * 3, np.uint8)
    labels[1:-1, 1:-1, 1:-1] = label
    labels[2:-2, 2:-2, 2:-2] = 0
    return labels


@pytest.mark.parametrize(("connectivity", "rank"), [(6, 1), (18, 2), (26, 3)])
def test_largest_component_is_that_of_scipy(connectivity, rank):
    mask = np.random.default_rng(5).random((30, 31, 32)) < 0.2
    regions, count = ndimage.label(mask, ndimage.generate_binary_structure(3, rank))
    sizes = ndimage.sum_labels(mask, regions, np.arange(1, count + 1))
    assert (sizes == sizes.max()).sum() == 1
    np.testing.assert_array_equal(largest_component(mask, connectivity), regions == 1 + sizes.argmax())


@few
@given(label_maps, connectivities)
def test_first_region_in_scan_order_wins_a_tie(labels, connectivity):
    largest = max(regions_of(labels > 0, connectivity), key=np.count_nonzero, default=labels > 0)
    np.testing.assert_array_equal(largest_component(labels, connectivity), largest)


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


@few
@given(label_maps, connectivities)
def test_largest_region_of_each_label_is_that_of_a_loop_over_labels(labels, connectivity):
    expected = np.zeros_like(labels)
    for label in np.unique(labels[labels > 0]):
        expected[max(regions_of(labels == label, connectivity), key=np.count_nonzero)] = label
    np.testing.assert_array_equal(largest_component_per_label(labels, connectivity), expected)


def test_paired_label_keeps_left_and_right():
    labels = np.zeros((9, 3, 3), np.uint8)
    labels[0:3, 0], labels[5:7, 0], labels[8, 2, 2] = 4, 4, 4
    labels[0:2, 2, 0], labels[4, 2, 0] = 7, 7
    kept = largest_component_per_label(labels, paired=[4])
    assert (np.bincount(kept.ravel())[[4, 7]] == [15, 2]).all()
    assert kept[8, 2, 2] == 0


@few
@given(label_maps, connectivities, st.integers(-1, 12), st.booleans())
def test_regions_of_the_least_size_stay_and_smaller_ones_go(labels, connectivity, least, per_label):
    regions = regions_of_labels(labels, connectivity) if per_label else regions_of(labels > 0, connectivity)
    large = np.zeros(labels.shape, bool)
    for region in regions:
        large |= region & (np.count_nonzero(region) >= least)
    kept = without_small_components(labels, least, connectivity, per_label=per_label)
    np.testing.assert_array_equal(kept, labels * large)


@few
@given(dense_maps, connectivities)
def test_holes_are_those_of_scipy_and_foreground_stays(labels, connectivity):
    filled = fill_holes(labels, connectivity)
    holes = enclosed(labels > 0, connectivity)
    np.testing.assert_array_equal(filled > 0, (labels > 0) | holes)
    np.testing.assert_array_equal(filled[~holes], labels[~holes])


@few
@given(st.integers(3, 9), st.data())
def test_hole_gets_the_nearest_label_and_the_lowest_on_a_tie(size, data):
    labels = data.draw(arrays(np.uint8, (size + 2, 6, 7), elements=st.integers(1, 4)))
    labels[1:-1, 1:-1, 1:-2] = 0
    labels[size // 2, 2, 3] = 3
    filled = fill_holes(labels)
    foreground = np.argwhere(labels)
    for hole in np.argwhere(labels == 0):
        squares = ((foreground - hole) ** 2).sum(axis=1)
        nearest = foreground[squares == squares.min()]
        assert filled[tuple(hole)] == labels[tuple(nearest.T)].min()


@few
@given(dense_maps, connectivities)
def test_hole_of_one_label_is_one_where_all_that_is_enclosed_is_background(labels, connectivity):
    expected = labels.copy()
    for label in (1, 2):
        for hole in regions_of(enclosed(labels == label, connectivity), BACKGROUND[connectivity]):
            if not labels[hole].any():
                expected[hole] = label
    np.testing.assert_array_equal(fill_holes_per_label(labels, connectivity), expected)


def test_hole_with_another_label_in_it_stays():
    labels = shell()
    labels[3, 3, 3] = 2
    np.testing.assert_array_equal(fill_holes_per_label(labels), labels)
    assert (np.bincount(fill_holes(labels).ravel())[1:] == [124, 1]).all()


@pytest.mark.parametrize(("connectivity", "label"), [(6, 0), (18, 1), (26, 1)])
def test_label_at_a_corner_of_a_hole_counts_where_background_goes_round_corners(connectivity, label):
    labels = np.ones((5, 5, 5), np.uint8)
    labels[2, 2, 2], labels[3, 3, 3] = 0, 2
    assert fill_holes_per_label(labels, connectivity)[2, 2, 2] == label


@pytest.mark.parametrize("fill", [fill_holes, fill_holes_per_label])
@pytest.mark.parametrize(("connectivity", "filled"), [(6, False), (18, True), (26, True)])
def test_wall_that_touches_by_edges_only_encloses_unless_faces_are_needed(fill, connectivity, filled):
    labels = np.zeros((5, 5, 5), np.uint8)
    labels[ndimage.generate_binary_structure(3, 1).nonzero()] = 1
    labels[1, 1, 1] = 0
    assert bool(fill(labels, connectivity)[1, 1, 1]) == filled


@pytest.mark.parametrize("fill", [fill_holes, fill_holes_per_label])
def test_background_with_a_way_to_the_border_is_no_hole(fill):
    labels = shell()[1:-1, 1:-1, 1:-1]
    labels[2, 2, 0] = 0
    np.testing.assert_array_equal(fill(labels), labels)


@few
@given(label_maps | dense_maps, connectivities, filters)
def test_filter_applied_twice_is_that_applied_once(labels, connectivity, apply):
    once = apply(labels, connectivity)
    np.testing.assert_array_equal(apply(once, connectivity), once)


@few
@given(label_maps | dense_maps, connectivities, filters)
def test_order_in_memory_changes_nothing(labels, connectivity, apply):
    before = labels.copy()
    found = apply(np.asfortranarray(labels), connectivity)
    assert found.dtype == labels.dtype
    np.testing.assert_array_equal(found, apply(labels, connectivity))
    np.testing.assert_array_equal(labels, before)


@few
@given(label_maps, connectivities, st.sampled_from([FILTERS[0], *FILTERS[2:4], FILTERS[5]]))
def test_names_of_labels_do_not_matter(labels, connectivity, apply):
    old = np.array([0, 1, 2, 3, 300, 700])
    new = np.array([0, 9, 4, 7, 2, 3], np.uint8)
    renamed = new[np.searchsorted(old, labels)]
    expected = new[np.searchsorted(old, apply(labels, connectivity))]
    np.testing.assert_array_equal(apply(renamed, connectivity), expected)


@pytest.mark.parametrize("apply", FILTERS)
def test_mask_stays_a_mask(apply):
    filtered = apply(shell() > 0, 26)
    assert filtered.dtype == bool
    assert filtered.sum() in (98, 125)


@pytest.mark.parametrize("apply", FILTERS)
def test_empty_map_stays_empty(apply):
    assert not apply(np.zeros((3, 4, 5), np.uint8), 26).any()


@few
@given(label_maps, connectivities, filters)
def test_removed_regions_are_those_of_which_nothing_is_left(labels, connectivity, apply):
    filtered = apply(labels, connectivity)
    regions = regions_of_labels(labels, connectivity)
    gone = sum(not (filtered[region] == labels[region]).any() for region in regions)
    assert count_removed(labels, filtered, connectivity) == gone


def test_island_that_was_removed_and_filled_with_its_surroundings_is_counted():
    labels = shell()
    labels[2:-2, 2:-2, 2:-2] = 1
    labels[3, 3, 3] = 2
    filled = fill_holes(without_small_components(labels, 2, per_label=True))
    assert filled[3, 3, 3] == 1
    assert count_removed(labels, filled) == 1


@pytest.mark.parametrize(
    "apply", [largest_component, *FILTERS, lambda labels, c: count_removed(labels, labels, c)]
)
def test_map_of_two_axes_is_refused(apply):
    with pytest.raises(ShapeError, match="three axes are needed"):
        apply(np.ones((3, 3), np.uint8), 26)


def test_maps_of_two_grids_are_not_compared():
    with pytest.raises(ShapeError, match="one grid is needed"):
        count_removed(np.ones((3, 3, 3), np.uint8), np.ones((3, 3, 4), np.uint8))


def test_voxels_apart_in_one_row_are_two_components():
    """cc3d's way for booleans, with 26 neighbours, failed on it."""
    row = np.array([[[1, 0, 1]]], np.uint8)
    assert without_small_components(row, 2, 26).sum() == 0
    np.testing.assert_array_equal(without_small_components(row, 1, 26), row)


def ball(shape: tuple[int, int, int], center: tuple[int, int, int], radius: float) -> np.ndarray:
    ijk = np.ogrid[tuple(slice(n) for n in shape)]
    return sum((x - c) ** 2 for x, c in zip(ijk, center, strict=True)) < radius**2


def test_core_is_found_among_more_noise():
    """Noise touches the brain, and is one region with it that has more voxels."""
    brain = ball((91, 80, 73), (45, 40, 36), 22)
    sponge = np.random.default_rng(0).random(brain.shape) < 0.3
    mask = brain | sponge
    assert (mask & ~brain).sum() > brain.sum()
    kept = largest_core(mask, 4)
    assert (kept & brain).sum() == brain.sum()
    assert (kept & ~brain).sum() < 0.35 * brain.sum()


def test_what_hangs_on_the_core_by_a_thin_bridge_goes():
    brain, tongue = ball((90, 60, 60), (30, 30, 30), 20), ball((90, 60, 60), (70, 30, 30), 8)
    mask = brain | tongue
    mask[45:65, 28:32, 28:32] = True
    kept = largest_core(mask.astype(np.uint8) * 3, 8)
    assert not (kept & tongue).any()
    assert dice(kept, brain) > 0.98


@pytest.mark.parametrize("shape", [(7, 8, 9), (1, 1, 1), (3, 40, 40)])
def test_mask_that_is_nowhere_thick_stays(shape):
    mask = np.ones(shape, np.uint8)
    np.testing.assert_array_equal(largest_core(mask, 8), mask > 0)
    assert not largest_core(mask * 0, 8).any()


@few
@given(label_maps, st.sampled_from([2, 4, 8]))
def test_core_is_a_part_of_the_mask(labels, voxels):
    kept = largest_core(labels, voxels)
    assert not kept[labels == 0].any()
    assert kept.any() == (labels > 0).any()
