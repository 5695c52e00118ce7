"""The receive field of the coil: what makes the same tissue bright here and dark there."""

from typing import NamedTuple

import numpy as np

from brainchop_pipe.core.grid import Volume
from brainchop_pipe.core.head import find_head
from brainchop_pipe.core.intensity import robust_range, scale_to_uint8
from brainchop_pipe.core.n4 import evaluate, log_field_control_points
from brainchop_pipe.core.resample import support_box

# Distance between the points of the field's estimate: at 4 mm the field of a coil is still
# smooth.
_LATTICE_MM = 4.0

# Of a whole head, which has several times the voxels of a brain: its field was found as well, and
# in a third of the time.
_HEAD_LATTICE_MM = 8.0

_ITERATIONS = (50, 50, 30, 20)


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
        out[box] = head / _estimate(head, brain, [round(_LATTICE_MM)] * 3) * brain
    return out


class EvenHead(NamedTuple):
    """A head, evenly lit.

    Parameters
    ----------
    image : Volume
        For uint8: uint8, spread over 0 to 255 again as by conforming; else floating point,
        in the grey levels that it had.
    is_cleared : bool
        Whether noise stood out in the air, and was set to 0 there.
    """

    image: Volume
    is_cleared: bool


def even_out_head(image: Volume) -> EvenHead:
    """Even out the bias field of a whole head.

    Parameters
    ----------
    image : Volume
        Real numbers of any dtype; one without a value above 0 comes back as it is.
    """
    head = find_head(image.voxels, float(np.mean(image.grid.spacing_mm)))
    if head is None:
        return EvenHead(image, is_cleared=False)
    voxels = image.voxels if head.near is None else image.voxels * head.near
    even = voxels / bias_field(Volume(voxels, image.grid), head.bright, _HEAD_LATTICE_MM)
    if image.voxels.dtype == np.uint8:
        even = scale_to_uint8(even, *robust_range(even))
    return EvenHead(Volume(even, image.grid), is_cleared=head.near is not None)


def bias_field(image: Volume, mask: np.ndarray, lattice_mm: float = _LATTICE_MM) -> np.ndarray:
    """Estimate the multiplicative bias field of an image within a mask.

    Parameters
    ----------
    image : Volume
    mask : bool, shape (I, J, K)
        Brain, or head; an empty one gives a field of ones.
    lattice_mm : float
        Distance between the points that are looked at.

    Returns
    -------
    float32, shape (I, J, K), above 0
        Its geometric mean within the mask is 1. Outside of the mask's box it goes on
        with the values at its border, where nothing is known of it.
    """
    box = support_box(mask)
    if box is None:
        return np.ones(mask.shape, np.float32)
    steps = [max(1, round(lattice_mm / spacing)) for spacing in image.grid.spacing_mm]
    field = _estimate(image.voxels[box].astype(np.float32), mask[box], steps)
    around = [(s.start, n - s.stop) for s, n in zip(box, mask.shape, strict=True)]
    return np.pad(field, around, mode="edge")


def _estimate(head: np.ndarray, brain: np.ndarray, steps: list[int]) -> np.ndarray:
    """Estimate the field twice, the second time what the first left over; give it for every voxel, float32.

    One pass stops before it has flattened a steep field (made ones of ±40 % left ±7 %
    behind in three heads, two passes ±3 to ±5 %), and it sees one voxel in 64: the second
    sees those in the middle between them, so that less depends on which ones they are.
    `steps` are voxels from one of the lattice to the next.
    """
    # Room for a lattice that ends on voxels, and for its like half a step further on.
    around = [(f // 2, f - f // 2 + (1 - n - f) % f) for f, n in zip(steps, head.shape, strict=True)]
    dark, brain = np.pad(head, around), np.pad(brain, around)
    log_field = np.zeros(dark.shape, np.float32)
    for starts in ([0, 0, 0], [f // 2 for f in steps]):
        log_field += _one_pass(dark, log_field, brain, starts, steps)
    # Each pass moves the scale a little, which is no part of a field.
    log_field -= log_field[brain].mean(dtype=np.float64)
    i, j, k = (slice(low, n - high) for (low, high), n in zip(around, dark.shape, strict=True))
    return np.asarray(np.exp(log_field[i, j, k]))


def _one_pass(
    head: np.ndarray, log_field: np.ndarray, brain: np.ndarray, starts: list[int], steps: list[int]
) -> np.ndarray:
    """Estimate what a logarithmic field left over from every `steps`-th voxel, and give it for all."""
    lattice = tuple(
        slice(start, n - step + start + 1, step)
        for start, step, n in zip(starts, steps, head.shape, strict=True)
    )
    left_over = head[lattice] / np.exp(log_field[lattice])
    points = log_field_control_points(left_over, brain[lattice], _ITERATIONS)
    counts = brain[lattice].shape
    reach = [(count - 1) * step + 1 for count, step in zip(counts, steps, strict=True)]
    border = [(a, n - a - m) for a, n, m in zip(starts, head.shape, reach, strict=True)]
    return np.pad(evaluate(points, reach).astype(np.float32), border, mode="edge")
