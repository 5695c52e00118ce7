"""What of a label map is to be called brain: label maps of heads are less tidy than brain masks."""

import numpy as np
from brainchop_pipe.models.train.structures import FLUID, INDEX, TISSUE_OF
from scipy import ndimage

from brainchop_pipe.core.components import largest_component
from brainchop_pipe.errors import InputError

# Fluid this far below the lowest voxel of brain stem and cerebellum is still within the skull.
_BELOW_BRAIN_MM = 2

# Fluid further than this from any other tissue is none, but bone, veins and dura that share its number.
_FLUID_REACH_MM = 6.0
# Thinner sheets of it are taken away, narrower gaps (falx, tentorium) are filled.
_THIN_MM = 2.0
_GAP_MM = 4.0
# The surface is smooth enough to be found at 2 mm.
_STEP = 2


def whole_brain(structures: np.ndarray) -> np.ndarray:
    """Tidy a label map, so that what has a tissue is a brain with the fluid around it, in one piece.

    Parameters
    ----------
    structures : uint8, shape (I, J, K)
        Conformed; 1 mm.

    Raises
    ------
    InputError
        No voxel has a tissue.
    """
    tidy = without_spine(one_brain(structures))
    inside = envelope(TISSUE_OF[tidy])
    tissue = TISSUE_OF[tidy]
    tidy[(tissue == FLUID) & ~inside] = INDEX["fluid around the cord"]
    tidy[(tissue == 0) & inside] = INDEX["dura"]
    return tidy


def envelope(tissue: np.ndarray) -> np.ndarray:
    """Give a smooth surface around the brain and the fluid near it.

    Parameters
    ----------
    tissue : uint8, shape (I, J, K)
        Indices of `TISSUES`; 1 mm.

    Returns
    -------
    bool, same shape
        Grey and white matter may stick out by a voxel.
    """
    coarse = tissue[::_STEP, ::_STEP, ::_STEP]
    matter = (coarse > 0) & (coarse != FLUID)
    near = _within(matter, _FLUID_REACH_MM) & (coarse > 0)
    thick = _within(~_within(~near, _THIN_MM), _THIN_MM) | matter
    closed = ~_within(~_within(thick, _GAP_MM), _GAP_MM)
    whole = ndimage.binary_fill_holes(closed | thick)
    places = [np.arange(n) / _STEP for n in tissue.shape]
    smooth = whole.astype(np.float32)
    for axis, along in enumerate(places):
        low = np.minimum(along.astype(int), smooth.shape[axis] - 1)
        high = np.minimum(low + 1, smooth.shape[axis] - 1)
        share = (along - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        smooth = smooth.take(low, axis) * (1 - share) + smooth.take(high, axis) * share
    return np.asarray(smooth > 0.5)


def _within(mask: np.ndarray, distance_mm: float) -> np.ndarray:
    """Grow a mask by a distance."""
    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) * _STEP <= distance_mm)


def one_brain(structures: np.ndarray) -> np.ndarray:
    """Make air of stray specks: what has a tissue, and is not connected with the brain.

    Raises
    ------
    InputError
        No voxel has a tissue.
    """
    brain = TISSUE_OF[structures] > 0
    if not brain.any():
        raise InputError("a label map has no grey or white matter; give labels of a head")
    return np.where(brain & ~largest_component(brain), np.uint8(0), structures)


def without_spine(structures: np.ndarray) -> np.ndarray:
    """Take the fluid around the spinal cord out of the brain: masks end at the skull's base.

    Parameters
    ----------
    structures : uint8, shape (I, J, K)
        Conformed, so that the second axis leads down.
    """
    stem = np.isin(structures, [INDEX["brain stem"], INDEX["cerebellar cortex"]])
    rows = np.flatnonzero(stem.any(axis=(0, 2)))
    if not len(rows):
        return structures
    below = np.arange(structures.shape[1])[None, :, None] > rows[-1] + _BELOW_BRAIN_MM
    fluid = structures == INDEX["fluid around the brain"]
    return np.where(fluid & below, np.uint8(INDEX["fluid around the cord"]), structures)
