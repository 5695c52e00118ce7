import numpy as np
import pytest

from brainchop_pipe.core.grid import Grid, Volume, conformed_grid, grid_around
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.numbering import number_labels, output_labels, scheme_of
from brainchop_pipe.zoo.catalog import shipped_models

SHIPPED = {name: model.card for name, model in shipped_models().items()}


@pytest.fixture
def bilateral() -> ModelCard:
    """Cortex and white matter of both sides, and a brain stem."""
    card = SHIPPED["subcortical"]
    wanted = [card.output.labels[i].model_copy(update={"index": n}) for n, i in enumerate((0, 1, 2, 13))]
    return card.model_copy(update={"output": card.output.model_copy(update={"labels": tuple(wanted)})})


@pytest.fixture
def labels() -> Volume:
    """A brain in LIA order: white matter in cortex, and a stem in the middle of its lower end."""
    grid = grid_around(np.zeros(3), (60, 60, 60), (3, 3, 3), "LIA")
    ijk = np.stack(np.meshgrid(*[np.linspace(-1, 1, 60)] * 3, indexing="ij"))
    radius = np.sqrt((ijk**2 * np.array([1.3, 1.1, 1]).reshape(3, 1, 1, 1)).sum(axis=0))
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[radius < 0.8] = 2
    voxels[radius < 0.5] = 1
    voxels[27:33, 40:56, 25:35] = 3
    return Volume(voxels, grid)


def test_classes_of_both_sides_become_left_and_right(labels, bilateral):
    numbered = number_labels(labels, bilateral, "freesurfer")
    x = (
        np.indices(labels.grid.shape).reshape(3, -1).T @ labels.grid.affine[:3, :3].T
        + labels.grid.affine[:3, 3]
    )
    x = x[:, 0].reshape(labels.grid.shape)
    found = numbered.labels.voxels
    assert set(np.unique(found)) == {0, 2, 41, 3, 42, 16}
    for left, right in ((2, 41), (3, 42)):
        assert x[found == left].max() <= 3
        assert x[found == right].min() >= -3
    np.testing.assert_array_equal(found == 16, labels.voxels == 3)
    assert "mirrors itself" in numbered.sides
    assert numbered.notes == ()


def test_brain_whose_sides_are_unlike_is_noted(labels, bilateral):
    blocks = np.random.default_rng(0).integers(1, 4, (10, 10, 10), np.uint8)
    unlike = blocks.repeat(6, 0).repeat(6, 1).repeat(6, 2) * (labels.voxels > 0)
    (note,) = number_labels(Volume(unlike, labels.grid), bilateral, "freesurfer").notes
    assert "left and right may be mixed up" in note


def test_compact_numbers_are_the_models(labels, bilateral):
    assert number_labels(labels, bilateral, "compact").labels is labels
    assert output_labels(bilateral, "compact") == bilateral.output.labels


def test_labels_have_freesurfers_names_and_numbers(bilateral):
    table = {label.index: label.name for label in output_labels(bilateral, "freesurfer")}
    assert table == {
        0: "Background",
        2: "Left-Cerebral-White-Matter",
        3: "Left-Cerebral-Cortex",
        16: "Brain-Stem",
        41: "Right-Cerebral-White-Matter",
        42: "Right-Cerebral-Cortex",
    }
    assert list(table) == sorted(table)


def test_parcels_bear_their_side_where_freesurfer_has_it():
    names = {label.index: label.name for label in output_labels(SHIPPED["parcellation"], "freesurfer")}
    assert names[1035] == "ctx-lh-insula"
    assert names[2035] == "ctx-rh-insula"
    assert len(names) == 1 + 2 * 49 - 3  # brain stem, CSF and corpus callosum stay whole


@pytest.mark.parametrize("name", ["mindgrab", "tissue"])
def test_model_without_indices_keeps_its_numbers(name, labels):
    assert scheme_of(SHIPPED[name], "freesurfer") == "compact"
    assert number_labels(labels, SHIPPED[name], "freesurfer").labels is labels


def test_lateral_model_is_only_renumbered():
    card = SHIPPED["dkatlas"]
    voxels = np.zeros((4, 4, 4), np.uint8)
    voxels[0, 0, 0], voxels[3, 3, 3] = 1, 103
    numbered = number_labels(Volume(voxels, Grid((4, 4, 4), np.eye(4))), card, "freesurfer")
    assert sorted(np.unique(numbered.labels.voxels)) == [0, 255, 1001]
    assert numbered.sides == ""


@pytest.mark.parametrize("name", ["subcortical", "subcortical_fast", "parcellation", "dkatlas"])
def test_no_two_labels_share_an_index(name):
    indices = [label.index for label in output_labels(SHIPPED[name], "freesurfer")]
    assert len(indices) == len(set(indices))


def test_grid_of_the_conform_is_no_special_case(bilateral):
    grid = conformed_grid(Grid((10, 10, 10), np.eye(4)))
    empty = Volume(np.zeros(grid.shape, np.uint8), grid)
    assert not number_labels(empty, bilateral, "freesurfer").labels.voxels.any()
