import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.quality import (
    Quality,
    border_share,
    flags,
    is_plausible_brain,
    label_volumes_mm3,
    looks_upside_down,
    mean_confidence,
)
from brainchop_pipe.errors import ShapeError

# 48 voxels of 5 mm: left, inferior, anterior, as the models' grid.
HEAD_GRID = Grid((48, 48, 48), np.array([[-5, 0, 0, 120], [0, 0, 5, -120], [0, -5, 0, 120], [0, 0, 0, 1]]))
NAMES = {0: "Background", 1: "White matter", 2: "Grey matter", 3: "CSF"}
GOOD = Quality(
    volumes_mm3={1: 500e3, 2: 700e3, 3: 300e3},
    intracranial_mm3=1500e3,
    intracranial_method="mask of mindgrab",
    components_removed=3,
    border_share=0.0,
    mean_confidence=0.95,
    upside_down=False,
)


def ball(center_mm: tuple[float, float, float], radii_mm: tuple[float, float, float]) -> np.ndarray:
    ijk = np.moveaxis(np.indices(HEAD_GRID.shape), 0, -1)
    xyz = ijk @ HEAD_GRID.affine[:3, :3].T + HEAD_GRID.affine[:3, 3]
    return (((xyz - center_mm) / radii_mm) ** 2).sum(axis=-1) <= 1


def made_head() -> tuple[np.ndarray, np.ndarray]:
    """Head and brain: a brain within a skull, a face in front and below, a neck."""
    brain = ball((0, 0, 30), (65, 80, 60))
    skull = ball((0, 0, 30), (75, 90, 70))
    face, neck = ball((0, 50, -40), (55, 40, 60)), ball((0, -10, -90), (45, 45, 60))
    return np.where(skull | face | neck, 150, 5).astype(np.uint8), brain


def test_volumes_count_voxels_of_each_label_but_background():
    labels = np.zeros((4, 5, 6), np.uint8)
    labels[0, 0, :3], labels[1, :2, 0] = 7, 2
    grid = Grid(labels.shape, np.diag([2, -1.5, 1, 1]))
    assert label_volumes_mm3(Volume(labels, grid)) == pytest.approx({2: 6, 7: 9})


def test_map_without_labels_has_no_volumes():
    grid = Grid((2, 2, 2), np.eye(4))
    assert label_volumes_mm3(Volume(np.zeros((2, 2, 2), np.uint16), grid)) == {}


def test_mask_within_the_field_of_view_has_no_surface_on_its_border():
    mask = np.zeros((5, 5, 5), bool)
    mask[1:4, 1:4, 1:4] = True
    assert border_share(mask, (1, 1, 1)) == 0


def test_full_field_of_view_has_all_of_its_surface_on_the_border():
    assert border_share(np.ones((3, 1, 2), bool), (1, 2, 3)) == 1


def test_empty_mask_has_no_surface():
    assert border_share(np.zeros((3, 3, 3), bool), (1, 1, 1)) == 0


def test_faces_are_weighted_by_their_area():
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 1, 1] = True
    # Faces of 2 x 4, 1 x 4 and 1 x 2 mm; one of the first lies on the border.
    assert border_share(mask, (1, 2, 4)) == pytest.approx(8 / (2 * (8 + 4 + 2)))


@settings(max_examples=30)
@given(arrays(bool, (3, 4, 5)), st.permutations([0, 1, 2]))
def test_border_share_does_not_depend_on_the_order_of_axes(mask, order):
    spacing = (0.5, 1.0, 3.0)
    turned = border_share(mask.transpose(order), tuple(spacing[axis] for axis in order))
    assert turned == pytest.approx(border_share(mask, spacing))
    assert 0 <= turned <= 1


def test_mask_of_two_axes_has_no_border_share():
    with pytest.raises(ShapeError, match="three axes are needed"):
        border_share(np.ones((3, 3), bool), (1, 1, 1))


def test_confidence_is_the_mean_over_the_foreground():
    confidence = np.array([[[0.5, 1.0, 0.1]]], np.float32)
    assert mean_confidence(confidence, np.array([[[3, 1, 0]]])) == pytest.approx(0.75)


def test_confidence_of_nothing_is_not_known():
    assert mean_confidence(np.ones((2, 2, 2), np.float32), np.zeros((2, 2, 2), np.uint8)) is None


def test_confidence_on_another_grid_is_refused():
    with pytest.raises(ShapeError, match="one grid is needed"):
        mean_confidence(np.ones((2, 2, 2), np.float32), np.zeros((2, 2, 3), np.uint8))


def test_upright_head_is_upright():
    head, brain = made_head()
    assert not looks_upside_down(Volume(head, HEAD_GRID), brain)


@pytest.mark.parametrize("axes", [(1,), (1, 2), (0, 1)], ids=["mirrored", "turned about x", "turned about y"])
def test_head_that_is_upside_down_is_found(axes):
    head, brain = (np.flip(array, axes) for array in made_head())
    assert looks_upside_down(Volume(head, HEAD_GRID), brain)


def test_up_is_where_the_affine_says():
    head, brain = made_head()
    upward = Grid(HEAD_GRID.shape, np.diag([1, 1, -1, 1]) @ HEAD_GRID.affine)
    assert looks_upside_down(Volume(head, upward), brain)
    assert not looks_upside_down(Volume(head[:, ::-1], upward), brain[:, ::-1])


@pytest.mark.parametrize(("height_mm", "expected"), [(15, True), (5, False)])
@pytest.mark.parametrize("finer", [1, 2])
def test_ten_millimetres_above_the_brain_decide_at_any_voxel_size(height_mm, expected, finer):
    brain = ball((0, 0, 0), (40, 40, 40))
    head = brain | ball((80, 0, height_mm), (45, 45, 45))
    head, brain = (np.kron(array, np.ones((finer,) * 3)) for array in (head, brain))
    grid = Grid(head.shape, HEAD_GRID.affine @ np.diag([1 / finer] * 3 + [1]))
    assert looks_upside_down(Volume((150 * head).astype(np.uint8), grid), brain > 0) == expected


def test_bright_things_apart_from_the_head_do_not_count():
    head, brain = made_head()
    head[:, 34:] = 5
    head[:, :2] = 200
    assert not looks_upside_down(Volume(head, HEAD_GRID), brain)


def test_scalp_alone_does_not_tell():
    head, brain = made_head()
    head[:, 24:], brain[:, 24:] = 5, False
    assert not looks_upside_down(Volume(head, HEAD_GRID), brain)


@pytest.mark.parametrize(("lowest", "expected"), [(32, False), (34, True)])
def test_little_of_face_and_neck_is_enough_but_not_next_to_nothing(lowest, expected):
    head, brain = made_head()
    head[:, lowest:] = 5
    assert looks_upside_down(Volume(head[:, ::-1], HEAD_GRID), brain[:, ::-1]) == expected


@pytest.mark.parametrize("case", ["stripped", "bright air", "no brain", "nothing"])
def test_head_that_does_not_tell_is_taken_for_upright(case):
    head, brain = (np.flip(array, 1) for array in made_head())
    changed = {
        "stripped": (np.where(brain, head, 0), brain),
        "bright air": (np.where(ball((0, 0, -120), (1, 1, 1)), 0, 100), brain),
        "no brain": (head, np.zeros_like(brain)),
        "nothing": (np.zeros_like(head), np.zeros_like(brain)),
    }[case]
    assert not looks_upside_down(Volume(changed[0].astype(np.uint8), HEAD_GRID), changed[1])


def test_brain_on_another_grid_than_its_head_is_refused():
    head, brain = made_head()
    with pytest.raises(ShapeError, match="one grid is needed"):
        looks_upside_down(Volume(head, HEAD_GRID), brain[1:])


@pytest.mark.parametrize(("ml", "expected"), [(399, False), (400, True), (1500, True), (2501, False)])
def test_brain_of_a_human_has_a_plausible_volume(ml, expected):
    assert is_plausible_brain(ml * 1000.0) == expected


def test_fractions_are_of_the_intracranial_volume():
    assert GOOD.intracranial_fractions == pytest.approx({1: 1 / 3, 2: 7 / 15, 3: 0.2})


@pytest.mark.parametrize("volume", [None, 0.0])
def test_without_intracranial_volume_there_are_no_fractions(volume):
    assert replace(GOOD, intracranial_mm3=volume).intracranial_fractions == {}


def test_good_result_has_no_flags():
    assert flags(GOOD, NAMES) == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"upside_down": True}, "above the brain"),
        ({"intracranial_mm3": 399e3}, r"\(mask of mindgrab\) take 399 mL"),
        ({"intracranial_mm3": 2501e3}, "take 2501 mL; 1000 to 2000 mL are usual"),
        ({"volumes_mm3": {2: 1.0}}, r"2 of 3 classes have no voxel: White matter \(1\), CSF \(3\)"),
        ({"border_share": 0.034}, "3.4% of the brain's surface"),
        ({"mean_confidence": 0.51}, r"is 0\.51 \(0\.80 or more is usual\)"),
    ],
)
def test_what_looks_wrong_is_said_with_its_value_and_what_to_do(change, words):
    (flag,) = flags(replace(GOOD, **change), NAMES)
    assert re.search(words, flag)
    assert "look at the result" in flag
    assert flag.endswith(".")


@pytest.mark.parametrize(
    "change",
    [
        {"intracranial_mm3": 400e3},
        {"intracranial_mm3": 2500e3},
        {"intracranial_mm3": None},
        {"border_share": 0.01},
        {"mean_confidence": 0.8},
        {"mean_confidence": None},
    ],
)
def test_limits_themselves_and_what_is_not_known_are_no_flags(change):
    assert flags(replace(GOOD, **change), NAMES) == ()


def test_least_confidence_is_the_callers_choice():
    assert len(flags(replace(GOOD, mean_confidence=0.9), NAMES, least_confidence=0.92)) == 1


def test_everything_wrong_gives_every_flag():
    bad = Quality({}, 1e3, "mask of mindgrab", 9, 0.5, 0.1, True)
    assert len(flags(bad, NAMES)) == 5
