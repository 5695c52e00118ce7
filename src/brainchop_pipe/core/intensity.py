"""Grey values: the scale to 8 bits of the conform, and the scalings that models were trained with."""

import numpy as np
import scipy

from brainchop_pipe.core.counts import count_values
from brainchop_pipe.core.order import in_order
from brainchop_pipe.core.resample import Box

_HISTOGRAM_BINS = 1000

# The search for the peak of white matter: bins between 0 and nearly the brightest voxel, their
# smoothing, and how high a peak must be against the highest.
_TOP_PERCENTILE = 99.5
_BEYOND_TOP = 1.1
_PEAK_BINS = 400
_PEAK_SMOOTHING_BINS = 6
_LOWEST_PEAK = 0.25

# Planes of an image that are looked up in a table at a time.
_PLANES = 4


def robust_range(voxels: np.ndarray, upper_fraction: float = 0.999) -> tuple[float, float]:
    """Give the range of grey values that the conform spreads over 0–255.

    Parameters
    ----------
    voxels : real numbers, any shape
        Finite.
    upper_fraction : float
        Share of the voxels that are not 0 which stays below the upper end.

    Returns
    -------
    low, high : float
        The minimum, and the lower edge of the histogram bin (1,000 between minimum
        and maximum) before the one in which the cumulative count reaches the
        fraction. `high` is the maximum where the bins cannot tell it from `low`.

    Notes
    -----
    Source: FreeSurfer's ``mri_convert --conform`` as FastSurfer 7c45785 has it; the
    bin *before* was found by comparing with FastSurfer's own output.
    """
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:
        return low, high
    counts, edges = np.histogram(voxels, bins=_HISTOGRAM_BINS, range=(low, high))
    beyond = int((1 - upper_fraction) * np.count_nonzero(voxels))
    reached = int(np.argmax(np.cumsum(counts) >= voxels.size - beyond))
    robust_high = float(edges[max(reached - 1, 0)])
    return (low, robust_high) if robust_high > low else (low, high)


def scale_to_uint8(voxels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to 0 and `high` to 255, clip, and round to nearest even.

    A voxel that is exactly 0 stays 0, as in FreeSurfer: it is taken for "outside of
    the field of view", also where the image has negative values.

    Returns
    -------
    uint8, shape of `voxels`
    """
    scale = 255.0 / (high - low) if high > low else 0.0
    scaled = (voxels - np.float32(low)) * np.float32(scale)
    np.rint(np.clip(scaled, 0, 255, out=scaled), out=scaled)
    scaled[voxels == 0] = 0
    return scaled.astype(np.uint8)


def scale_by_quantiles(
    voxels: np.ndarray, low: float = 0.02, high: float = 0.98, epsilon: float = 1e-3, box: Box | None = None
) -> np.ndarray:
    """Map two quantiles of all voxels to 0 and 1, and clip.

    Parameters
    ----------
    voxels : uint8, any shape
        The whole conformed volume: the air around the head counts.
    low, high : float, 0 to 1
        Quantiles, interpolated linearly between neighbouring values.
    epsilon : float
        Added to the difference of the quantiles, in grey levels, so that a flat
        image becomes 0.
    box : tuple of three slices or None
        The part of `voxels` that is to be scaled; None: all.

    Returns
    -------
    float32, shape of `voxels` or `box`, 0 to 1

    Notes
    -----
    Source: brainchop's command line, PyPI 0.2.5.
    """
    bottom, top = _quantiles_of_uint8(voxels, (low, high))
    table = (np.arange(256) - bottom) / (top - bottom + epsilon)
    return _looked_up(table, voxels, box)


def scale_by_range(voxels: np.ndarray, box: Box | None = None) -> np.ndarray:
    """Map the lowest value to 0 and the highest to 1; a flat image becomes 0.

    Parameters
    ----------
    voxels : uint8, any shape
    box : tuple of three slices or None
        The part of `voxels` that is to be scaled; None: all.

    Returns
    -------
    float32, shape of `voxels` or `box`, 0 to 1

    Notes
    -----
    Source: brainchop's web application, 4c87885.
    """
    low, high = int(voxels.min()), int(voxels.max())
    table = (np.arange(256) - low) / max(high - low, 1)
    return _looked_up(table, voxels, box)


def white_matter_level(brain: np.ndarray) -> float | None:
    """Find the grey level of white matter in an evenly lit T1-weighted brain, without labels.

    Parameters
    ----------
    brain : real numbers, shape (N,)
        The voxels within a brain mask, bias field corrected.

    Returns
    -------
    float or None
        The brightest peak of the smoothed histogram, between its bins; None where
        there is no such peak in its upper half, so that this is no T1-weighted brain
        or the mask is wrong.

    Notes
    -----
    Found on six T1-weighted heads (0.5 mm to 4.8 mm slices, one of them oblique):
    grey and white matter make a peak each, or white matter alone does. On the head
    with FreeSurfer labels the peak lies 1 % above the median of white matter.
    """
    top = float(np.percentile(brain, _TOP_PERCENTILE)) if brain.size else 0.0
    if top <= 0:
        return None
    # Beyond the top there is room for the far side of a peak there.
    counts, edges = np.histogram(brain, bins=_PEAK_BINS, range=(0, _BEYOND_TOP * top))
    heights = scipy.ndimage.gaussian_filter1d(
        counts.astype(np.float64), _PEAK_SMOOTHING_BINS, mode="constant"
    )
    inner = heights[1:-1]
    is_peak = (inner > heights[:-2]) & (inner >= heights[2:]) & (inner >= _LOWEST_PEAK * heights.max())
    if not is_peak.any():
        return None
    level = float((_summit(heights, int(np.flatnonzero(is_peak)[-1]) + 1) + 0.5) * edges[1])
    return level if level >= np.median(brain) else None


def scale_by_level(voxels: np.ndarray, level: float) -> np.ndarray:
    """Map 0 to 0 and a grey level to 1, and clip.

    Parameters
    ----------
    voxels : real numbers, any shape
    level : float, above 0

    Returns
    -------
    float32, shape of `voxels`, 0 to 1
    """
    return np.asarray((voxels * np.float32(1 / level)).clip(0, 1), np.float32)


def _summit(heights: np.ndarray, peak: int) -> float:
    """Give the top of the parabola through a peak and its two neighbours, in bins."""
    before, top, after = heights[peak - 1 : peak + 2]
    # Below 0, or 0 in the middle of a flat top, where the numerator is 0 too.
    bend = min(before - 2 * top + after, -np.finfo(np.float64).tiny)
    return float(peak + 0.5 * (before - after) / bend)


def _looked_up(table: np.ndarray, voxels: np.ndarray, box: Box | None) -> np.ndarray:
    """Give what a table has for each grey value of a part of an image, clipped to 0 to 1."""
    part = in_order(voxels if box is None else voxels[box], "C")
    table = table.clip(0, 1).astype(np.float32)
    found = np.empty(part.shape, np.float32)
    # All at once would become int64 first, eight times their memory.
    for start in range(0, len(part), _PLANES):
        np.take(table, part[start : start + _PLANES], out=found[start : start + _PLANES], mode="clip")
    return found


def _quantiles_of_uint8(voxels: np.ndarray, fractions: tuple[float, ...]) -> list[float]:
    """Give ``np.quantile`` (linear) from 256 counts instead of a sort of 16 million voxels."""
    ranks = np.cumsum(count_values(voxels))
    values = []
    for fraction in fractions:
        position = fraction * (voxels.size - 1)
        below, above = (
            int(np.searchsorted(ranks, index, side="right"))
            for index in (np.floor(position), np.ceil(position))
        )
        values.append(below + (position - np.floor(position)) * (above - below))
    return values
