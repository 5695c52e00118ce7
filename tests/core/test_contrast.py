from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from brainchop_pipe.core.contrast import Contrast, TissueContrast, bring_to, measure_contrast
from brainchop_pipe.core.tissue import CSF, GM, WM

SIZE = 48
LEVELS = {CSF: 40.0, GM: 75.0, WM: 110.0}
WANTED = Contrast(csf=0.4, grey_matter=0.7, white_matter=1.0, sharpness=0.5)
RADIUS = np.sqrt(((np.indices((SIZE,) * 3) - (SIZE - 1) / 2) ** 2).sum(axis=0))
INSIDE = RADIUS < 22
TISSUES = np.select([RADIUS < 12, RADIUS < 17, RADIUS < 22], [WM, GM, CSF], 0).astype(np.uint8)


def brain(levels=LEVELS, blur=0.4, noise=0.5):
    """Make shells of white matter, grey matter and CSF, blurred as a scanner does."""
    image = np.select([t == TISSUES for t in levels], list(levels.values()), levels[CSF])
    image = ndimage.gaussian_filter(image.astype(np.float32), blur)
    image += np.random.default_rng(1).normal(0, noise, image.shape)
    return (image.clip(0) * INSIDE).astype(np.float32)


def brought(image, wanted=WANTED):
    return bring_to(image, INSIDE, measure_contrast(image, INSIDE, TISSUES), wanted)


def test_levels_are_those_of_the_tissues():
    found = measure_contrast(brain(), INSIDE, TISSUES).as_it_is
    np.testing.assert_allclose([found.csf, found.grey_matter, found.white_matter], [40, 75, 110], rtol=0.02)


def test_borders_between_voxels_have_the_sharpness_one_and_blur_takes_it():
    found = [measure_contrast(brain(blur=b, noise=0), INSIDE, TISSUES) for b in (0, 0.5, 0.8, 1.2)]
    sharpness = [contrast.as_it_is.sharpness for contrast in found]
    assert sharpness[0] == pytest.approx(1, abs=1e-6)
    assert sharpness == sorted(sharpness, reverse=True)
    assert all(contrast.smooth.sharpness < contrast.as_it_is.sharpness for contrast in found)


def test_noise_hardly_changes_the_sharpness():
    quiet, loud = (measure_contrast(brain(noise=n), INSIDE, TISSUES).as_it_is for n in (0, 6))
    assert loud.sharpness == pytest.approx(quiet.sharpness, rel=0.02)


def test_brain_is_brought_to_levels_and_sharpness():
    found = measure_contrast(brought(brain(noise=0)), INSIDE, TISSUES).as_it_is
    np.testing.assert_allclose(
        [found.csf, found.grey_matter, found.white_matter, found.sharpness], [0.4, 0.7, 1, 0.5], rtol=0.03
    )


@given(st.floats(0.2, 5), st.floats(0.15, 0.45), st.floats(0.6, 0.85))
def test_gain_and_contrast_of_a_scanner_do_not_matter(gain, csf, grey):
    other = brain({CSF: 110 * csf * gain, GM: 110 * grey * gain, WM: 110 * gain}, noise=0)
    expected = brought(brain(noise=0))
    # Partial volumes come between the tissues' levels, and are stretched like them.
    assert np.abs(brought(other) - expected)[INSIDE].mean() < 0.01


def test_sharper_image_comes_out_like_a_less_sharp_one():
    images = [brain(blur=b, noise=0) for b in (0.4, 0.55)]
    before = np.abs(images[0] - images[1])[INSIDE].mean() / 110
    sharp, less = (brought(image) for image in images)
    assert np.abs(sharp - less)[INSIDE].mean() < before / 3


def test_image_that_is_less_sharp_than_wanted_is_not_sharpened():
    image = brain(blur=1.0)
    found = measure_contrast(image, INSIDE, TISSUES)
    assert found.as_it_is.sharpness < 0.5
    assert found.smoothing_to(0.5) == 0
    now = found.as_it_is
    xs = [0, now.csf, now.grey_matter, now.white_matter, 10 * now.white_matter]
    slope = 0.3 / (now.white_matter - now.grey_matter)
    ys = [0, 0.4, 0.7, 1, 1 + slope * 9 * now.white_matter]
    expected = np.interp(image, xs, ys).clip(0, 1) * INSIDE
    np.testing.assert_allclose(brought(image), expected, atol=1e-5)


def test_smoothing_ends_at_its_most_and_needs_a_gain():
    sharp = Contrast(40, 75, 110, 0.6)
    found = TissueContrast(sharp, replace(sharp, sharpness=0.3))
    assert [found.smoothing_to(s) for s in (0.7, 0.6, 0.45, 0.3, 0.1)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert TissueContrast(sharp, sharp).smoothing_to(0.1) == 0


def test_what_is_brought_lies_from_0_to_1_and_is_0_outside():
    found = brought(brain(noise=8))
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, 1)
    assert not found[~INSIDE].any()


def test_rim_of_the_brain_is_not_darkened_by_what_lies_outside():
    flat = np.full(INSIDE.shape, 75, np.float32) * INSIDE
    found = measure_contrast(brain(), INSIDE, TISSUES)
    assert np.ptp(bring_to(flat, INSIDE, found, replace(WANTED, sharpness=0.01))[INSIDE]) < 1e-5


def test_fluid_that_is_nearly_black_is_not_brightened_to_its_level():
    """A grey level more or less, of noise, must not decide what the network sees."""
    black, dark = (brain({**LEVELS, CSF: csf}, noise=0) for csf in (0.0, 1.0))
    fluid = (TISSUES == CSF) & (RADIUS > 19)
    assert np.median(brought(black)[fluid]) < 0.01
    assert np.median(brought(dark)[fluid]) < 0.05


@pytest.mark.parametrize(
    "levels",
    [{CSF: 110.0, GM: 75.0, WM: 40.0}, {CSF: 40.0, GM: 110.0, WM: 75.0}, {CSF: 40.0, GM: 108.0, WM: 110.0}],
    ids=["T2w", "grey is brightest", "no contrast"],
)
def test_other_contrasts_than_t1w_have_none(levels):
    assert measure_contrast(brain(levels), INSIDE, TISSUES) is None


def test_brain_without_one_of_the_tissues_has_no_contrast():
    assert measure_contrast(brain(), INSIDE, np.where(TISSUES == CSF, 0, TISSUES)) is None
    assert measure_contrast(brain(), INSIDE & False, TISSUES) is None
    assert not bring_to(brain(), INSIDE & False, TissueContrast(WANTED, WANTED), WANTED).any()


def test_tissues_that_do_not_touch_have_no_sharpness():
    apart = TISSUES.copy()
    apart[(RADIUS > 11) & (RADIUS < 13)] = 0
    assert measure_contrast(brain(), INSIDE, apart) is None
