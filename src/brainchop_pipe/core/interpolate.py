"""Interpolation by SimpleITK: compiled, in several threads, with the same result for any number of them."""

from typing import Literal

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name that everybody gives it


def interpolated(
    voxels: np.ndarray,
    source_from_part: np.ndarray,
    part: tuple[slice, slice, slice],
    shape: tuple[int, int, int],
    way: Literal["linear", "nearest"],
) -> np.ndarray:
    """Interpolate at the position of each voxel of a part of a target; all others are 0.

    Parameters
    ----------
    voxels : real numbers, shape (I, J, K)
        Of the source, in C or Fortran order.
    source_from_part : shape (4, 4)
        Source voxels from voxels of the part.
    part : three slices of the target
    shape : three int
        Of the target.
    way : {"linear", "nearest"}

    Returns
    -------
    shape `shape`, in C order
        float32 for "linear", else dtype of `voxels` in native byte order; 0 beyond the
        edges of the source's outermost voxels. What lies beyond the part is never
        written: where that is much, it costs nothing.
    """
    # SimpleITK counts the axes of an array from the last one.
    is_fortran = voxels.flags.f_contiguous and not voxels.flags.c_contiguous
    image = sitk.GetImageFromArray(_known_to_sitk(voxels.T if is_fortran else voxels))
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(s.stop - s.start) for s in part[::-1]])
    resampler.SetTransform(_as_transform(source_from_part, reverse=not is_fortran))
    resampler.SetDefaultPixelValue(0)
    if way == "linear":
        resampler.SetInterpolator(sitk.sitkLinear)
        resampler.SetOutputPixelType(sitk.sitkFloat32)
    else:
        resampler.SetInterpolator(sitk.sitkNearestNeighbor)
    # A view does not keep its image.
    found = resampler.Execute(image)
    values = sitk.GetArrayViewFromImage(found)
    out = np.zeros(shape, values.dtype)
    out[part] = values
    return out


def _as_transform(source_from_part: np.ndarray, *, reverse: bool) -> sitk.AffineTransform:
    """Give a matrix with the part's axes, and the source's if `reverse`, counted from the last one."""
    matrix, offset = source_from_part[:3, :3][:, ::-1], source_from_part[:3, 3]
    if reverse:
        matrix, offset = matrix[::-1], offset[::-1]
    move = sitk.AffineTransform(3)
    move.SetMatrix(matrix.ravel().tolist())
    move.SetTranslation(offset.tolist())
    return move


def _known_to_sitk(voxels: np.ndarray) -> np.ndarray:
    """Give numbers in a type that SimpleITK has."""
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8)
    if voxels.dtype.kind == "f" and voxels.dtype.itemsize not in (4, 8):
        return voxels.astype(np.float64)
    return voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
