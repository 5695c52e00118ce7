"""An image onto the models' grid, and what the models say back onto the image's."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from brainchop_pipe.core.components import largest_component
from brainchop_pipe.core.grid import CONFORMED_SIZE, Grid, Volume, conformed_grid, is_conformed
from brainchop_pipe.core.intensity import robust_range, scale_to_uint8
from brainchop_pipe.core.resample import (
    EXACT_VOXELS,
    resample_labels,
    resample_linear,
    resample_nearest,
)
from brainchop_pipe.errors import InputError

LabelInterpolation = Literal["linear", "nearest"]

# Cerebellum and brain stem end within this distance below the vertex (about 150 mm in an
# adult); what lies lower is face and neck, which may be cut.
_BRAIN_HEIGHT_MM = 170.0

# Skin and skull are thicker than this: a box that cuts less keeps its centre.
_SCALP_MM = 4.0

# Where the field of view is too large for the box, the head is looked for on a lattice of
# about this spacing, above this share of the bright end of the histogram.
_SEARCH_SPACING_MM = 3.0
_HEAD_THRESHOLD = 0.12

_SIDES = (("left", "right"), ("posterior", "anterior"), ("inferior", "superior"))


@dataclass(frozen=True, eq=False)
class Conformed:
    """A conformed image, and what a user should know of how it came about.

    Parameters
    ----------
    volume : Volume
        uint8, 256³ voxels of 1 mm, axes left, inferior, anterior.
    notes : tuple of str
        Whole sentences; empty where nothing is remarkable.
    """

    volume: Volume
    notes: tuple[str, ...] = ()


def conform(image: Volume) -> Conformed:
    """Bring a head onto 256³ voxels of 1 mm in LIA order, scaled robustly to 8 bits.

    Parameters
    ----------
    image : Volume
        Real, finite numbers of any dtype; at least two different values.

    Returns
    -------
    Conformed
        An image that is uint8, 256³, 1 mm and LIA already comes back untouched. The
        box keeps the image's centre; where that would cut the head of a larger field
        of view it is shifted by whole millimetres, and what is cut is noted.

    Raises
    ------
    InputError
        Nothing is left after scaling: all voxels of the box have one value.

    Notes
    -----
    Source: FreeSurfer's ``mri_convert --conform`` as FastSurfer 7c45785 has it
    (trilinear on raw values, then 0–99.9 % to 0–255, rounded to nearest); the shift
    is ours.
    """
    if is_conformed(image.grid) and image.voxels.dtype == np.uint8:
        return Conformed(image)
    shift, notes = _fit_box(image)
    target = conformed_grid(image.grid, shift)
    voxels = resample_linear(image, target, EXACT_VOXELS)
    if image.voxels.dtype == np.uint8:
        scaled = np.rint(voxels, out=voxels).astype(np.uint8)
    else:
        scaled = scale_to_uint8(voxels, *robust_range(image.voxels))
    if scaled.min() == scaled.max():
        raise InputError(
            f"every voxel is {scaled.flat[0]} after scaling to 8 bits, so there is nothing to see; "
            "look for a few extreme values that hide the rest"
        )
    return Conformed(Volume(scaled, target), notes)


def conform_to(image: Volume, target: Grid, *, raw: bool = False) -> Volume:
    """Bring an image onto the grid of a model that does not take the conformed one.

    Parameters
    ----------
    image : Volume
        Real, finite numbers of any dtype.
    target : Grid
    raw : bool
        Keep the grey values as they are, float32; else they are scaled robustly to 8 bits.

    Returns
    -------
    Volume
        Trilinear, 0 beyond the image; coarser grids are not smoothed first, as in `conform`.
    """
    voxels = resample_linear(image, target, EXACT_VOXELS)
    return Volume(voxels if raw else scale_to_uint8(voxels, *robust_range(image.voxels)), target)


def restore_labels(labels: Volume, target: Grid, interpolation: LabelInterpolation = "linear") -> np.ndarray:
    """Bring a label map from the models' grid onto an image's.

    Parameters
    ----------
    labels : Volume
        Any integer dtype; 0 is background.
    target : Grid
    interpolation : {"linear", "nearest"}
        ``"linear"``: the label whose interpolated indicator (one-hot) is largest.

    Returns
    -------
    dtype of `labels`, shape `target.shape`
        0 outside the models' box. Exact where voxel centres coincide.
    """
    if interpolation == "nearest":
        return resample_nearest(labels, target)
    return resample_labels(labels, target)


def restore_probability(probability: Volume, target: Grid) -> np.ndarray:
    """Bring a probability from the models' grid onto an image's, linearly.

    Returns
    -------
    float32, shape `target.shape`, 0 to 1
        0 outside the models' box.
    """
    # Convex combinations: what is from 0 to 1 stays so.
    return resample_linear(probability, target)


def _fit_box(image: Volume) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Choose the shift (x, y, z in mm) that keeps the head in the box, and say what is cut."""
    extent = image.grid.extent_mm
    # Half a voxel of tolerance: 256 voxels of 1.0000001 mm are no larger field of view.
    if (extent <= CONFORMED_SIZE + 0.5).all():
        return (0, 0, 0), ()
    head_low, head_high = _head_bounds_mm(image)
    box_low, box_high = conformed_grid(image.grid).world_bounds_mm
    needed_low = head_low.copy()
    needed_low[2] = max(head_low[2], head_high[2] - _BRAIN_HEIGHT_MM)
    x, y, z = (
        _shift_along_axis(needed_low[axis], head_high[axis], box_low[axis], box_high[axis])
        for axis in range(3)
    )
    shift = (x, y, z)
    cut = _describe_cut(head_low, head_high, box_low + shift, box_high + shift)
    if shift == (0, 0, 0) and not cut:
        return shift, ()
    size = " x ".join(f"{e:.0f}" for e in extent)
    moved = f"; the box was moved by {shift} mm (x, y, z) to keep the head" if any(shift) else ""
    lost = f"; outside of it, and so without labels: {cut}" if cut else ""
    return shift, (f"The field of view of {size} mm exceeds the models' box of 256 mm{moved}{lost}.",)


def _shift_along_axis(head_low: float, head_high: float, box_low: float, box_high: float) -> int:
    """Fewest whole millimetres that bring the head into the box; the upper end has precedence."""
    if head_high > box_high + _SCALP_MM:
        return int(np.ceil(head_high - box_high))
    if head_low < box_low - _SCALP_MM:
        return -int(np.ceil(min(box_low - head_low, box_high - head_high)))
    return 0


def _head_bounds_mm(image: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest world position of the head, the largest bright region, to within a sample."""
    stride = [max(1, round(_SEARCH_SPACING_MM / s)) for s in image.grid.spacing_mm]
    sample = image.voxels[:: stride[0], :: stride[1], :: stride[2]]
    dark, bright = np.percentile(sample, (1, 99))
    head = np.argwhere(largest_component(sample > dark + _HEAD_THRESHOLD * (bright - dark)))
    if head.size == 0:
        return image.grid.world_bounds_mm
    xyz = (head * stride) @ image.grid.affine[:3, :3].T + image.grid.affine[:3, 3]
    return xyz.min(axis=0), xyz.max(axis=0)


def _describe_cut(
    head_low: np.ndarray, head_high: np.ndarray, box_low: np.ndarray, box_high: np.ndarray
) -> str:
    """Name the sides at which the head leaves the box, and by how much."""
    parts = []
    for axis, (low_side, high_side) in enumerate(_SIDES):
        for side, excess in (
            (low_side, box_low[axis] - head_low[axis]),
            (high_side, head_high[axis] - box_high[axis]),
        ):
            if excess > 0.5:
                parts.append(f"{excess:.0f} mm of bright tissue at the {side} end")
    return ", ".join(parts)
