"""How well two label maps agree."""

import numpy as np
from scipy import ndimage

from brainchop_pipe.errors import ShapeError


def dice(found: np.ndarray, reference: np.ndarray) -> float:
    """Give the Dice coefficient of two masks: twice the overlap by the sum of the sizes.

    Parameters
    ----------
    found, reference : bool, same shape

    Returns
    -------
    float, 0 to 1
        1 where both are empty.

    Raises
    ------
    ShapeError
        The shapes differ.
    """
    _check_shapes(found, reference)
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(found & reference)) / total if total else 1.0


def hausdorff_95(found: np.ndarray, reference: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Give the 95 % Hausdorff distance of two masks: how far their surfaces lie apart, but for outliers.

    Parameters
    ----------
    found, reference : bool, same shape, three axes
    spacing_mm : tuple of three floats

    Returns
    -------
    float, millimetres
        The larger one of the 95th percentiles of the distances from each surface's voxels
        to the other surface. 0 where both masks are empty, infinite where one is.

    Raises
    ------
    ShapeError
        The shapes differ.
    """
    _check_shapes(found, reference)
    either = found | reference
    if not either.any():
        return 0.0
    if not (found.any() and reference.any()):
        return np.inf
    box = ndimage.find_objects(either.astype(np.uint8))[0]
    surfaces = [_surface(mask[box]) for mask in (found, reference)]
    away = [ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces]
    directed = (away[1][surfaces[0]], away[0][surfaces[1]])
    return float(max(np.percentile(distances, 95) for distances in directed))


def _surface(mask: np.ndarray) -> np.ndarray:
    """Give the voxels of a mask that have a face in common with what is outside."""
    return np.asarray(mask & ~ndimage.binary_erosion(mask))


def _check_shapes(found: np.ndarray, reference: np.ndarray) -> None:
    if found.shape != reference.shape:
        raise ShapeError(f"masks have the shapes {found.shape} and {reference.shape}; one grid is needed")
