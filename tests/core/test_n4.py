"""N4 gives what SimpleITK's gives, and does not depend on what it should not."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name that everybody gives it
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from brainchop_pipe.core.n4 import evaluate, log_field_control_points

ITERATIONS = (20, 20, 15, 10)


def lit_brain(seed: int, shape: tuple[int, int, int], strength: float) -> tuple[np.ndarray, np.ndarray]:
    """A round brain of three tissues and some noise under a smooth light, as float32, and its mask."""
    rng = np.random.default_rng(seed)
    radius = np.sqrt(sum(np.linspace(-1, 1, n).reshape(s) ** 2 for n, s in zip(shape, AXES, strict=True)))
    folds = ndimage.gaussian_filter(rng.standard_normal(shape), 1.5)
    tissue = np.select([folds > 0.03, folds > -0.08], [110.0, 75.0], 25.0)
    light = ndimage.gaussian_filter(rng.standard_normal(shape), np.array(shape) / 4)
    light *= strength / np.abs(light).max()
    noisy = tissue * np.exp(light) + rng.normal(0, 3, shape)
    return noisy.clip(0).round().astype(np.float32), radius < 0.85


AXES = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))


def of_simpleitk(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations(ITERATIONS)
    image = sitk.GetImageFromArray(values)
    correction.Execute(image, sitk.GetImageFromArray(mask.astype(np.uint8)))
    return sitk.GetArrayFromImage(correction.GetLogBiasFieldAsImage(image))


@pytest.mark.parametrize(
    ("seed", "shape", "strength"), [(0, (30, 34, 28), 0.3), (1, (24, 40, 31), 0.8), (2, (33, 29, 12), 0.1)]
)
def test_field_is_that_of_simpleitk(seed, shape, strength):
    values, mask = lit_brain(seed, shape, strength)
    wanted = of_simpleitk(values, mask)
    found = evaluate(log_field_control_points(values, mask, ITERATIONS), shape)
    assert np.ptp(wanted[mask]) > strength / 5
    # SimpleITK computes in float32, and may end a level an iteration sooner or later.
    np.testing.assert_allclose(found[mask], wanted[mask], atol=2e-3)


def test_scale_of_the_image_is_no_part_of_the_field():
    values, mask = lit_brain(3, (24, 26, 28), 0.4)
    one, other = (log_field_control_points(v, mask, ITERATIONS) for v in (values, values.astype(float) * 3))
    np.testing.assert_allclose(one, other, atol=1e-3)


def test_what_lies_outside_of_the_mask_has_no_part_in_it():
    values, mask = lit_brain(4, (24, 26, 28), 0.4)
    points = log_field_control_points(values, mask, ITERATIONS)
    np.testing.assert_array_equal(points, log_field_control_points(values * mask, mask, ITERATIONS))


@given(st.integers(0, 2**32 - 1), st.tuples(*[st.integers(1, 9)] * 3))
def test_splines_go_through_a_plane(seed, shape):
    """Control points on a plane give that plane: at each position the weights add up to 1."""
    rng = np.random.default_rng(seed)
    slope = rng.uniform(-1, 1, 3)
    points = sum(s * (np.arange(7.0) - 1).reshape(a) for s, a in zip(slope, AXES, strict=True))
    plane = sum(s * np.linspace(0, 4, n).reshape(a) for s, n, a in zip(slope, shape, AXES, strict=True))
    np.testing.assert_allclose(evaluate(points, shape), plane, atol=1e-12)


@pytest.mark.parametrize("value", [0, 70])
def test_image_of_one_value_has_no_field(value):
    mask = np.ones((6, 5, 4), bool)
    assert not log_field_control_points(np.full(mask.shape, value, np.float32), mask, ITERATIONS).any()


def test_single_voxel_and_none_at_all():
    mask = np.zeros((1, 1, 1), bool)
    for inside in (False, True):
        mask[:] = inside
        assert not log_field_control_points(np.full((1, 1, 1), 9.0), mask, ITERATIONS).any()
