"""Resampling against brute force: scipy for numbers, one-hot and arg-max for labels."""

from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from brainchop_pipe.core import resample as module
from brainchop_pipe.core.grid import Grid, Volume, voxel_from_voxel
from brainchop_pipe.core.resample import (
    resample_labels,
    resample_linear,
    resample_nearest,
    support_box,
)


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    x, y, z = np.deg2rad(angles)
    about_x = np.array([[1, 0, 0], [0, np.cos(x), -np.sin(x)], [0, np.sin(x), np.cos(x)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(z), -np.sin(z), 0], [np.sin(z), np.cos(z), 0], [0, 0, 1]])
    return about_x @ about_y @ about_z


def grid(shape, spacing, angles=(0, 0, 0), origin=(0, 0, 0)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = rotation(angles) * spacing
    affine[:3, 3] = origin
    return Grid(shape, affine)


grids = st.builds(
    grid,
    st.tuples(*[st.integers(4, 14)] * 3),
    st.tuples(*[st.floats(0.4, 3)] * 3),
    st.tuples(*[st.sampled_from([0.0, 90.0, 180.0, 7.3, -31.0])] * 3),
    st.tuples(*[st.floats(-4, 4)] * 3),
)


def brute_force(source: Volume, target: Grid) -> np.ndarray:
    matrix = voxel_from_voxel(source.grid, target)
    return ndimage.affine_transform(
        source.voxels.astype(np.float64), matrix[:3, :3], matrix[:3, 3], target.shape, order=1
    )


def distance_to_border(source: Grid, target: Grid) -> np.ndarray:
    """How far each target voxel is, in source voxels, from the surface where values become 0."""
    ijk = np.stack(np.meshgrid(*[np.arange(n) for n in target.shape], indexing="ij"), axis=-1)
    matrix = voxel_from_voxel(source, target)
    position = ijk @ matrix[:3, :3].T + matrix[:3, 3]
    last = np.array(source.shape) - 1
    return np.minimum(np.abs(position), np.abs(position - last)).min(axis=-1)


@settings(max_examples=80)
@given(source=grids, target=grids, seed=st.integers(0, 99))
def test_linear_agrees_with_scipy_for_any_pair_of_grids(source, target, seed):
    voxels = np.random.default_rng(seed).normal(size=source.shape).astype(np.float32)
    found = resample_linear(Volume(voxels, source), target)
    # On the border itself rounding decides; ours counts a thousandth of a voxel as inside.
    clear = distance_to_border(source, target) > 5e-3
    expected = brute_force(Volume(voxels, source), target)
    # Positions within a thousandth of a voxel of a centre are snapped to it.
    np.testing.assert_allclose(found[clear], expected[clear], atol=2e-2)


@settings(max_examples=80)
@given(source=grids, target=grids, seed=st.integers(0, 99))
def test_labels_are_the_argmax_of_interpolated_indicators(source, target, seed):
    labels = np.random.default_rng(seed).integers(0, 4, source.shape).astype(np.uint8)
    found = resample_labels(Volume(labels, source), target)
    indicators = np.stack([brute_force(Volume(labels == n, source), target) for n in range(4)])
    ordered = np.sort(indicators, axis=0)
    # Near a tie, or on the border, rounding decides.
    clear = (ordered[-1] - ordered[-2] > 2e-2) & (distance_to_border(source, target) > 5e-3)
    np.testing.assert_array_equal(found[clear], indicators.argmax(axis=0)[clear])


def test_lowest_label_wins_a_tie():
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1], labels[2] = 3, 2
    between = Grid((1, 4, 4), np.array([[1, 0, 0, 1.5], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    assert (resample_labels(Volume(labels, Grid((4, 4, 4), np.eye(4))), between) == 2).all()


@pytest.mark.parametrize("resample", [resample_linear, resample_labels, resample_nearest])
def test_coinciding_lattices_give_exact_values_up_to_the_border(resample):
    labels = np.random.default_rng(1).integers(0, 9, (6, 7, 8)).astype(np.uint8)
    source = Volume(labels, Grid(labels.shape, np.eye(4)))
    # The header of a file rounds to float32; so does this target's origin.
    flipped = np.diag([-1.0, 1, 1, 1])
    flipped[:3, 3] = (5 + 4e-6, -4e-6, 0)
    np.testing.assert_array_equal(resample(source, Grid(labels.shape, flipped)), labels[::-1])


@pytest.mark.parametrize("resample", [resample_linear, resample_labels, resample_nearest])
def test_grids_that_do_not_meet_give_zeros(resample):
    source = Volume(np.ones((4, 4, 4), np.uint8), Grid((4, 4, 4), np.eye(4)))
    away = np.eye(4)
    away[:3, 3] = 50
    assert not resample(source, Grid((4, 4, 4), away)).any()


def test_labels_of_an_empty_volume_are_empty():
    source = Volume(np.zeros((4, 4, 4), np.uint8), Grid((4, 4, 4), np.eye(4)))
    assert not resample_labels(source, source.grid).any()
    assert support_box(source.voxels) is None


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, np.bool_, np.dtype(">f4"), np.dtype(">i2")])
def test_any_type_of_real_numbers_is_interpolated(dtype):
    source = Volume((np.arange(60).reshape(3, 4, 5) % 7 > 2).astype(dtype), Grid((3, 4, 5), np.eye(4)))
    target = Grid((5, 7, 9), np.diag([0.5, 0.5, 0.5, 1]))
    np.testing.assert_allclose(resample_linear(source, target), brute_force(source, target), atol=1e-6)


# Few voxels are looked up in another way than many.
ways = pytest.mark.parametrize("few", [0, 1 << 30])


@ways
@settings(max_examples=80)
@given(source=grids, target=grids)
def test_nearest_agrees_with_a_search_for_any_pair_of_grids(few, source, target):
    voxels = np.arange(1, np.prod(source.shape) + 1, dtype=np.int32).reshape(source.shape)
    with patch.object(module, "_FEW_VOXELS", few):
        found = resample_nearest(Volume(voxels, source), target)
    matrix = voxel_from_voxel(source, target)
    position = np.stack(np.indices(target.shape), axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
    nearest = np.rint(position).astype(int)
    last = np.array(source.shape) - 1
    inside = ((nearest >= 0) & (nearest <= last)).all(axis=-1)
    expected = np.where(inside, voxels[tuple(np.moveaxis(nearest.clip(0, last), -1, 0))], 0)
    # Halfway between two voxels rounding decides.
    clear = (np.abs(position - np.floor(position) - 0.5) > 5e-3).all(axis=-1)
    np.testing.assert_array_equal(found[clear], expected[clear])


@pytest.mark.parametrize("axes", [[0, 1, 2], [2, 0, 1], [1, 0, 2]])
def test_axes_that_follow_one_another_are_looked_up_one_by_one(axes, monkeypatch):
    """To the same end as voxels one by one; the target begins before the source and ends within it."""
    source = Volume(np.arange(6 * 7 * 8, dtype=np.int16).reshape(6, 7, 8), Grid((6, 7, 8), np.eye(4)))
    affine = np.eye(4)
    affine[:3, :3] = np.diag([0.7, -1, 1.6])[:, axes] + 1e-12
    affine[:3, 3] = [-1.3, 5.2, -2.1]
    target = Grid((5, 9, 4), affine)
    found = resample_nearest(source, target)
    monkeypatch.setattr(module, "_NEGLIGIBLE_VOXELS", -1)
    assert np.array_equal(found, resample_nearest(source, target))
    assert 0 < (found > 0).sum() < found.size


@ways
def test_nearest_takes_the_closest_voxel(few, monkeypatch):
    monkeypatch.setattr(module, "_FEW_VOXELS", few)
    source = Volume(np.arange(4, dtype=np.uint8).reshape(4, 1, 1) + 1, Grid((4, 1, 1), np.eye(4)))
    target = Grid((10, 1, 1), np.diag([0.5, 1, 1, 1]))
    found = resample_nearest(source, target).ravel()
    assert found.tolist() == [1, 2, 2, 3, 3, 4, 4, 0, 0, 0]
