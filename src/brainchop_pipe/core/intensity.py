"""Grey values: the scale to 8 bits of the conform, and the scalings that models were trained with."""

import numpy as np

_HISTOGRAM_BINS = 1000


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
    voxels: np.ndarray, low: float = 0.02, high: float = 0.98, epsilon: float = 1e-3
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

    Returns
    -------
    float32, shape of `voxels`, 0 to 1

    Notes
    -----
    Source: brainchop's command line, PyPI 0.2.5.
    """
    bottom, top = _quantiles_of_uint8(voxels, (low, high))
    table = (np.arange(256) - bottom) / (top - bottom + epsilon)
    return np.asarray(table.clip(0, 1).astype(np.float32)[voxels])


def scale_by_range(voxels: np.ndarray) -> np.ndarray:
    """Map the lowest value to 0 and the highest to 1; a flat image becomes 0.

    Parameters
    ----------
    voxels : uint8, any shape

    Returns
    -------
    float32, shape of `voxels`, 0 to 1

    Notes
    -----
    Source: brainchop's web application, 4c87885.
    """
    low, high = int(voxels.min()), int(voxels.max())
    table = (np.arange(256) - low) / max(high - low, 1)
    return np.asarray(table.clip(0, 1).astype(np.float32)[voxels])


def _quantiles_of_uint8(voxels: np.ndarray, fractions: tuple[float, ...]) -> list[float]:
    """Give ``np.quantile`` (linear) from 256 counts instead of a sort of 16 million voxels."""
    ranks = np.cumsum(np.bincount(voxels.ravel(), minlength=256))
    values = []
    for fraction in fractions:
        position = fraction * (voxels.size - 1)
        below, above = (
            int(np.searchsorted(ranks, index, side="right"))
            for index in (np.floor(position), np.ceil(position))
        )
        values.append(below + (position - np.floor(position)) * (above - below))
    return values
