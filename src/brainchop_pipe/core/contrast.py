"""Contrast of a T1-weighted brain: how bright its tissues are, how sharp their borders; how to change both.

Networks call a voxel by its grey level and by the sharpness of borders: where an image is a
little less sharp, or its grey matter brighter against white, thin white matter and sulci come
out larger or smaller. Grey levels are stretched between landmarks, as by Nyúl and Udupa 1999
(doi:10.1002/(SICI)1522-2594(199912)42:6<1072::AID-MRM11>3.0.CO;2-M); here these are the medians
of tissues that a network told apart. Images that are sharper than wanted are smoothed to the
same sharpness, as Friedman et al. 2008 (doi:10.1002/hbm.20440) do between scanners.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import scipy

from brainchop_pipe.core.resample import support_box
from brainchop_pipe.core.tissue import CSF, GM, WM

# The full smoothing, a standard deviation; what is wanted lies between the image and this.
_SMOOTHING_VOXELS = 0.7

# Fewer voxels of a tissue than this (1 mL) tell nothing of it.
_FEWEST_VOXELS = 1000

# Tissues whose levels lie nearer to each other, by white matter's, are no T1-weighted brain's.
_LEAST_DIFFERENCE = 0.05

# Dark fluid is brightened no more than this, by what white matter is: where it is nearly black, its
# level is noise.
_MOST_BRIGHTENED = 3.0


@dataclass(frozen=True)
class Contrast:
    """Grey levels of the tissues, and the sharpness of their borders.

    Parameters
    ----------
    csf, grey_matter, white_matter : float
        Medians; for white matter, of the voxels whose six neighbours are white matter too.
    sharpness : float
        Mean difference of neighbours on either side of a border by the difference of the
        two tissues, for white with grey matter and grey matter with CSF, the mean of both.
        1 for borders between voxels, without any partial volume.
    """

    csf: float
    grey_matter: float
    white_matter: float
    sharpness: float

    def towards(self, other: "Contrast", share: float) -> "Contrast":
        """Give what lies a share, 0 to 1, of the way to another one."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in self.__dataclass_fields__)
        return Contrast(**{name: (1 - share) * mine + share * its for name, mine, its in pairs})


@dataclass(frozen=True)
class TissueContrast:
    """The contrast of an image as it is, and when it is smoothed in full."""

    as_it_is: Contrast
    smooth: Contrast

    def smoothing_to(self, sharpness: float) -> float:
        """Give how far an image must be smoothed to be as sharp as that: 0, not at all, to 1.

        An image that is less sharp is left as it is: to sharpen it would amplify noise.
        """
        gain = self.as_it_is.sharpness - self.smooth.sharpness
        surplus = self.as_it_is.sharpness - sharpness
        return float(np.clip(surplus / gain, 0, 1)) if gain > 0 else 0.0


class Change(NamedTuple):
    """How far an image is smoothed (0 to 1), the contrast that it has then, and the one it is brought to."""

    share: float
    now: Contrast
    there: Contrast


def change_to(found: TissueContrast, wanted: Contrast) -> Change:
    """Give what `bring_to` does: the levels that are wanted are reached, but by nearly black fluid."""
    share = found.smoothing_to(wanted.sharpness)
    now = found.as_it_is.towards(found.smooth, share)
    brightest = _MOST_BRIGHTENED * now.csf * wanted.white_matter / now.white_matter
    return Change(share, now, replace(wanted, csf=min(wanted.csf, brightest)))


def measure_contrast(image: np.ndarray, inside: np.ndarray, tissues: np.ndarray) -> TissueContrast | None:
    """Measure the contrast of an evenly lit brain whose tissues are known.

    Parameters
    ----------
    image : float32, shape (I, J, K)
        0 or above.
    inside : bool, same shape
        The brain.
    tissues : integers, same shape
        1 = GM, 2 = WM, 3 = CSF; what is not inside does not count.

    Returns
    -------
    TissueContrast or None
        None where a tissue has less than 1000 voxels, or the levels do not rise from CSF
        over grey to white matter, so that this is no T1-weighted brain.
    """
    box = support_box(inside)
    if box is None:
        return None
    image, inside = image[box], inside[box]
    masks = [(tissues[box] == label) & inside for label in (CSF, GM, WM)]
    white = scipy.ndimage.binary_erosion(masks[2])
    places = (masks[0], masks[1], white)
    if min(map(np.count_nonzero, places)) < _FEWEST_VOXELS:
        return None
    found = [_contrast(voxels, masks, places) for voxels in (image, _smooth(image, inside))]
    return TissueContrast(*found) if all(map(_is_t1w, found)) else None


def bring_to(image: np.ndarray, inside: np.ndarray, found: TissueContrast, wanted: Contrast) -> np.ndarray:
    """Bring the grey levels and the sharpness of a brain to those that are wanted.

    Parameters
    ----------
    image, inside
        As for `measure_contrast`.
    found : TissueContrast
        Of this image.
    wanted : Contrast
        Its levels rise, and are above 0.

    Returns
    -------
    float32, shape of `image`, 0 to 1
        0 outside of the brain. Levels between those of the tissues are stretched or
        pressed evenly; 0 stays 0. CSF may come out darker, see `change_to`.
    """
    out = np.zeros(image.shape, np.float32)
    box = support_box(inside)
    if box is None:
        return out
    share, now, there = change_to(found, wanted)
    voxels = image[box]
    if share > 0:
        voxels = (1 - share) * voxels + share * _smooth(voxels, inside[box])
    levels = np.interp(voxels, _landmarks(now), _landmarks(there))
    out[box] = levels.clip(0, 1) * inside[box]
    return out


def _landmarks(contrast: Contrast) -> list[float]:
    """Give the levels of nothing, the tissues, and as far beyond white matter as any voxel may be."""
    grey, white = contrast.grey_matter, contrast.white_matter
    # Positions must rise; black fluid stays black.
    return [
        0.0,
        max(contrast.csf, float(np.finfo(np.float32).tiny)),
        grey,
        white,
        white + 100 * (white - grey),
    ]


def _contrast(image: np.ndarray, masks: list[np.ndarray], places: tuple[np.ndarray, ...]) -> Contrast:
    """Measure levels at places, and the sharpness where masks touch: each is of CSF, GM, WM."""
    csf, grey, white = (float(np.median(image[place])) for place in places)
    with np.errstate(divide="ignore", invalid="ignore"):
        borders = [
            _mean_step(image, masks[2], masks[1]) / np.float64(white - grey),
            _mean_step(image, masks[1], masks[0]) / np.float64(grey - csf),
        ]
    return Contrast(csf, grey, white, float(np.mean(borders)))


def _is_t1w(contrast: Contrast) -> bool:
    """Tell whether levels rise as in T1-weighted images, and tissues touch, so that there is a sharpness."""
    least, grey = _LEAST_DIFFERENCE * contrast.white_matter, contrast.grey_matter
    rises = contrast.csf + least < grey and grey + least < contrast.white_matter
    return rises and bool(np.isfinite(contrast.sharpness))


def _mean_step(image: np.ndarray, bright: np.ndarray, dark: np.ndarray) -> float:
    """Give the mean difference of neighbours, one in each mask; NaN where they do not touch."""
    total, count = 0.0, 0
    for axis in range(image.ndim):
        voxels, one, other = (np.moveaxis(a, axis, 0) for a in (image, bright, dark))
        steps = voxels[1:] - voxels[:-1]
        up, down = one[1:] & other[:-1], one[:-1] & other[1:]
        total += float(steps[up].sum(dtype=np.float64) - steps[down].sum(dtype=np.float64))
        count += int(np.count_nonzero(up)) + int(np.count_nonzero(down))
    return total / count if count else float("nan")


def _smooth(image: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Smooth a brain in full: only what is inside has a say, so that its rim does not darken."""
    weights = scipy.ndimage.gaussian_filter(inside.astype(np.float32), _SMOOTHING_VOXELS)
    smooth = scipy.ndimage.gaussian_filter(image * inside, _SMOOTHING_VOXELS)
    return np.asarray(np.divide(smooth, weights, out=np.zeros_like(smooth), where=inside))
