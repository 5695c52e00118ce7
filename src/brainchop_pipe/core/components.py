"""Connected components of label maps."""

from typing import Literal

import cc3d
import numpy as np

from brainchop_pipe.errors import ShapeError

Connectivity = Literal[6, 18, 26]


def largest_component(mask: np.ndarray, connectivity: Connectivity = 26) -> np.ndarray:
    """Keep the largest connected region of a mask.

    Parameters
    ----------
    mask : bool or integer, shape (I, J, K)
        Every value that is not 0 belongs to the mask; touching labels are one region.
    connectivity : {6, 18, 26}
        Neighbours that touch: by a face, an edge, or a corner.

    Returns
    -------
    bool, shape (I, J, K)
        Largest region by voxel count; the first in scan order (k fastest) on a tie.
        An empty mask stays empty.

    Raises
    ------
    ShapeError
        `mask` is not three-dimensional.
    """
    if mask.ndim != 3:
        raise ShapeError(f"mask has shape {mask.shape}; three axes are needed")
    regions = cc3d.connected_components(mask != 0, connectivity=connectivity, binary_image=True)
    sizes = np.bincount(regions.ravel(order="K"))
    if len(sizes) < 2:
        return np.zeros(mask.shape, bool)
    return np.asarray(regions == 1 + np.argmax(sizes[1:]))
