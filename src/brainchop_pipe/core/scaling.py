"""Scalings of grey values that models were trained with, for any real numbers."""

import numpy as np


def scale_by_foreground_quantiles(voxels: np.ndarray, low: float, high: float, epsilon: float) -> np.ndarray:
    """Map two quantiles of the voxels that are not 0 to 0 and 1, and clip.

    Parameters
    ----------
    voxels : real numbers, any shape
    low, high : float, 0 to 1
    epsilon : float
        Added to the difference of the quantiles, so that a flat image becomes 0.

    Returns
    -------
    float32, shape of `voxels`, 0 to 1
        0 where all are 0.
    """
    foreground = voxels[voxels != 0]
    if not foreground.size:
        return np.zeros(voxels.shape, np.float32)
    bottom, top = np.quantile(foreground, (low, high))
    return scale_by_window(voxels, float(bottom), float(top + epsilon))


def scale_by_window(voxels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map `low` to 0 and `high`, which is above it, to 1, and clip; float32."""
    scaled = (voxels.astype(np.float32) - np.float32(low)) / np.float32(high - low)
    return np.asarray(scaled.clip(0, 1))


def scale_by_deviation(voxels: np.ndarray, *, foreground_only: bool) -> np.ndarray:
    """Subtract the mean and divide by the standard deviation.

    Parameters
    ----------
    voxels : real numbers, any shape
    foreground_only : bool
        Count the voxels that are not 0 alone; the others stay 0.

    Returns
    -------
    float32, shape of `voxels`
        0 for a flat image.
    """
    counted = voxels != 0 if foreground_only else np.ones(voxels.shape, bool)
    values = voxels[counted].astype(np.float64)
    scaled = np.zeros(voxels.shape, np.float32)
    if values.size and values.std() > 0:
        scaled[counted] = (values - values.mean()) / values.std()
    return scaled
