"""Which part of an image is head, and which is air, by grey values alone."""

from typing import NamedTuple

import numpy as np
import scipy

from brainchop_pipe.core.components import largest_component
from brainchop_pipe.core.counts import count_values

# Of the level that nearly all that is not black stays below, head is above the first share at least,
# and above the second for sure.
_HEAD_ABOVE = 0.15
_SURELY_ABOVE = 0.3
_BLACK_BELOW = 0.02

# Noise in the air has one level most often, and hardly ever so many times that.
_ABOVE_NOISE = 2.5

# Between bright parts of a head at most twice as far apart lies head, be it ever so dark.
_REACH_MM = 8.0

# What is near a head is found on a lattice of every second voxel.
_STEP = 2
_LEVELS = 256


class Head(NamedTuple):
    """What of an image is head.

    Parameters
    ----------
    bright : bool, shape (I, J, K)
        Head that is brighter than the air.
    near : bool, shape (I, J, K), or None
        All that may be head. None where the air is dark: nothing has to be told from noise.
    """

    bright: np.ndarray
    near: np.ndarray | None


def find_head(voxels: np.ndarray, spacing_mm: float) -> Head | None:
    """Tell a head from the air around it.

    Parameters
    ----------
    voxels : real numbers, shape (I, J, K)
    spacing_mm : float
        Of neighbouring voxels, on the average of the axes.

    Returns
    -------
    Head or None
        None where no voxel is above 0.

    Notes
    -----
    Where noise stands out, single voxels of it are as bright as tissue, so that `bright`
    is opened by a cube of three voxels, and only the largest part of `near` counts.
    """
    largest = float(voxels.max())
    if largest <= 0:
        return None
    top = float(np.percentile(voxels[voxels > _BLACK_BELOW * largest], 99))
    least = _HEAD_ABOVE * top
    noise = _ABOVE_NOISE * _usual_level(voxels, largest)
    if noise > least:
        bright = _opened(voxels > min(noise, _SURELY_ABOVE * top))
        near = _near(bright, spacing_mm)
        # The level that most voxels have may as well be that of a tissue.
        if _is_noise(voxels[~near & (voxels > 0)], least):
            return Head(bright & near, near)
    return Head(voxels > least, None)


def _usual_level(voxels: np.ndarray, largest: float) -> float:
    """Give the level that most voxels above 0 have."""
    if voxels.dtype == np.uint8:
        return float(count_values(voxels)[1:].argmax() + 1)
    width = largest / (_LEVELS - 1)
    levels = (voxels[voxels > 0] / width).astype(np.uint8)
    return float(count_values(levels).argmax() * width)


def _is_noise(air: np.ndarray, least: float) -> bool:
    """Tell whether what lies around a head is noise that may be taken for it, and no tissue that was missed.

    Noise of a magnitude has a tenth of its values below 0.39 of their median (Rayleigh),
    and fewer where it was interpolated; the borders of a tissue have more.
    """
    if not air.size:
        return False
    low, usual = np.percentile(air, (10, 50))
    return bool(_ABOVE_NOISE * usual > least and low > usual / 3)


def _opened(mask: np.ndarray) -> np.ndarray:
    """Leave what cubes of three voxels fill."""
    return _with_neighbours(_with_neighbours(mask, np.logical_and), np.logical_or)


def _with_neighbours(mask: np.ndarray, combine: np.ufunc) -> np.ndarray:
    """Combine each voxel with those in the cube around it; scipy's own takes ten times as long."""
    for axis in range(3):
        after = mask.copy()
        first, last = (_along(axis, part) for part in (slice(None, -1), slice(1, None)))
        combine(after[last], mask[first], out=after[last])
        combine(after[first], mask[last], out=after[first])
        mask = after
    return mask


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    """Give a part along an axis, whole along the others."""
    return tuple(part if other == axis else slice(None) for other in range(3))


def _near(bright: np.ndarray, spacing_mm: float) -> np.ndarray:
    """Give the largest part of what is near bright voxels, or enclosed by that in a plane."""
    coarse = np.pad(bright, [(0, n % _STEP) for n in bright.shape])
    for axis in range(3):
        first, second = (_along(axis, slice(start, None, _STEP)) for start in range(_STEP))
        coarse = coarse[first] | coarse[second]
    steps = max(1, round(_REACH_MM / (_STEP * spacing_mm)))
    near = largest_component(_enclosed(scipy.ndimage.binary_dilation(coarse, iterations=steps)))
    for axis in range(3):
        near = near.repeat(_STEP, axis=axis)
    i, j, k = bright.shape
    return np.asarray(near[:i, :j, :k])


def _enclosed(mask: np.ndarray) -> np.ndarray:
    """Add what a mask encloses in a plane along any two axes.

    A brain that is as dark as the air is open in space where the field of view cuts the
    head, but not in the planes along the cut.
    """
    filled = mask.copy()
    for axis in range(3):
        neighbours = scipy.ndimage.generate_binary_structure(3, 1)
        neighbours[_along(axis, slice(None, None, 2))] = False
        holes, count = scipy.ndimage.label(~mask, neighbours)
        is_open = np.zeros(count + 1, bool)
        for other in {0, 1, 2} - {axis}:
            for border in (slice(None, 1), slice(-1, None)):
                is_open[holes[_along(other, border)]] = True
        filled |= ~is_open[holes]
    return filled
