"""Which part of a volume a network needs to see."""

import numpy as np

from brainchop_pipe.core.components import largest_component
from brainchop_pipe.core.resample import Box

# Sampling for finding the head; its box is then exact to within this many voxels.
_STRIDE = 2


def head_box(voxels: np.ndarray, threshold: int, margin_voxels: int) -> Box:
    """Give the box around a head in a conformed volume.

    Parameters
    ----------
    voxels : uint8, shape (I, J, K)
    threshold : int, 0 to 255
        Grey levels above it are foreground; the largest connected part is the head,
        so that noise and ghosts in the air do not count.
    margin_voxels : int
        Added on each side as far as the volume goes.

    Returns
    -------
    tuple of three slices
        The whole volume where nothing is above the threshold.
    """
    head = largest_component(voxels[::_STRIDE, ::_STRIDE, ::_STRIDE] > threshold)
    if not head.any():
        return full_box(voxels.shape)
    box = []
    for axis, count in enumerate(voxels.shape):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(head.any(axis=others)) * _STRIDE
        low = max(int(hit[0]) - _STRIDE - margin_voxels, 0)
        high = min(int(hit[-1]) + _STRIDE + margin_voxels + 1, count)
        box.append(slice(low, high))
    return box[0], box[1], box[2]


def full_box(shape: tuple[int, ...]) -> Box:
    """Give the box that is the whole volume."""
    i, j, k = (slice(0, n) for n in shape)
    return i, j, k
