"""The receive field of the coil: what makes the same tissue bright here and dark there."""

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that everybody gives it

from brainchop_pipe.core.grid import Volume
from brainchop_pipe.core.resample import support_box

# Distance between the points of the field's estimate: at 4 mm the field of a coil is still
# smooth, and the iterations cost seconds rather than minutes.
_LATTICE_MM = 4.0
_ITERATIONS = (50, 50, 30, 20)

# Each number of threads has its own roundings (one grey level here and there), so it is the
# same on all machines; those with fewer processors take the threads in turn.
_THREADS = 4


def correct_bias(voxels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Even out the bias field within a mask, and set the rest to 0.

    Parameters
    ----------
    voxels : uint8, shape (I, J, K)
        A conformed head.
    mask : bool, shape (I, J, K)
        The brain; an empty one gives an empty image.

    Returns
    -------
    float32, shape (I, J, K), 0 or above
        In grey levels of the image.
    """
    out = np.zeros(voxels.shape, np.float32)
    box = support_box(mask)
    if box is not None:
        head, brain = voxels[box].astype(np.float32), mask[box]
        out[box] = head / _estimate(head, brain, (1.0, 1.0, 1.0)) * brain
    return out


def bias_field(image: Volume, mask: np.ndarray) -> np.ndarray:
    """Estimate the multiplicative bias field of an image within a mask.

    Parameters
    ----------
    image : Volume
    mask : bool, shape (I, J, K)
        Brain; an empty one gives a field of ones.

    Returns
    -------
    float32, shape (I, J, K), above 0
        Around 1. Outside of the mask's box it goes on with the values at its border,
        where nothing is known of it.
    """
    box = support_box(mask)
    if box is None:
        return np.ones(mask.shape, np.float32)
    field = _estimate(image.voxels[box].astype(np.float32), mask[box], image.grid.spacing_mm)
    around = [(s.start, n - s.stop) for s, n in zip(box, mask.shape, strict=True)]
    return np.pad(field, around, mode="edge")


def _estimate(head: np.ndarray, brain: np.ndarray, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Estimate the field on a coarse lattice, and give it for every voxel, float32.

    Source: N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908) of SimpleITK with
    its defaults but for the iterations.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(_THREADS)
    image, mask = sitk.GetImageFromArray(head), sitk.GetImageFromArray(brain.astype(np.uint8))
    for each in (image, mask):
        # SimpleITK counts the axes of an array from the last one.
        each.SetSpacing(spacing_mm[::-1])
    shrink = [max(1, round(_LATTICE_MM / s)) for s in spacing_mm[::-1]]
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations(_ITERATIONS)
    correction.Execute(sitk.Shrink(image, shrink), sitk.Shrink(mask, shrink))
    log_field = sitk.GetArrayFromImage(correction.GetLogBiasFieldAsImage(image))
    return np.asarray(np.exp(log_field.astype(np.float32)))
