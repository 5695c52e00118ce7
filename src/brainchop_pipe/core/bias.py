"""The receive field of the coil: what makes the same tissue bright here and dark there."""

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that everybody gives it

from brainchop_pipe.core.resample import support_box

# Voxels of the field's estimate: at 4 mm the field of a coil is still smooth, and the
# iterations cost seconds rather than minutes.
_SHRINK = 4
_ITERATIONS = (50, 50, 30, 20)

# Share of the brain that may be brighter than the top of the 8-bit scale.
_TOP_PERCENTILE = 99.9


def correct_bias(voxels: np.ndarray, mask: np.ndarray, threads: int = 1) -> np.ndarray:
    """Even out the bias field within a mask, and set the rest to 0.

    Parameters
    ----------
    voxels : uint8, shape (I, J, K)
        A conformed head.
    mask : bool, shape (I, J, K)
        The brain.
    threads : int
        Set for all of SimpleITK in this process. The same number gives the same
        bytes; another one other roundings.

    Returns
    -------
    uint8, shape (I, J, K)
        Scaled so that 99.9 % of the mask lie at 255 or below.

    Notes
    -----
    Source: N4 (Tustison et al. 2010, doi:10.1109/TMI.2010.2046908) of SimpleITK on
    every fourth voxel, with its defaults but for the iterations.
    """
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    box = support_box(mask)
    if box is None:
        return np.zeros_like(voxels)
    head, brain = voxels[box].astype(np.float32), mask[box]
    corrected = head / _bias_field(head, brain) * brain
    top = max(float(np.percentile(corrected[brain], _TOP_PERCENTILE)), 1.0)
    out = np.zeros_like(voxels)
    out[box] = np.rint(np.clip(corrected * (255 / top), 0, 255)).astype(np.uint8)
    return out


def _bias_field(head: np.ndarray, brain: np.ndarray) -> np.ndarray:
    """Estimate the multiplicative field on a coarse lattice, and give it for every voxel, float32."""
    image = sitk.GetImageFromArray(head)
    mask = sitk.GetImageFromArray(brain.astype(np.uint8))
    correction = sitk.N4BiasFieldCorrectionImageFilter()
    correction.SetMaximumNumberOfIterations(_ITERATIONS)
    correction.Execute(sitk.Shrink(image, [_SHRINK] * 3), sitk.Shrink(mask, [_SHRINK] * 3))
    log_field = sitk.GetArrayFromImage(correction.GetLogBiasFieldAsImage(image))
    return np.asarray(np.exp(log_field.astype(np.float32)))
