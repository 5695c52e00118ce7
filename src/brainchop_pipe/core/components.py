"""Connected components of label maps: largest ones, small ones, holes."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import cc3d
import numpy as np
import scipy

from brainchop_pipe.core.counts import count_values
from brainchop_pipe.core.order import in_order
from brainchop_pipe.core.resample import Box
from brainchop_pipe.errors import ShapeError

Connectivity = Literal[6, 18, 26]

# Neighbours that background has, where foreground has those of the key: a closed wall of
# foreground then lets no background through.
_BACKGROUND_CONNECTIVITY: dict[int, Connectivity] = {6: 26, 18: 6, 26: 6}

# The nearest label is searched by squared distance first, label second, in one integer.
_PER_SQUARE = 1 << 32
_FAR = 1 << 62


@dataclass(frozen=True, eq=False)
class _Regions:
    """Connected regions of a label map, numbered from 1 in scan order; 0 is background.

    Parameters
    ----------
    box : tuple of three slices
        Around the foreground; there is no region outside of it.
    labels : shape of the box
        The label map within the box.
    numbers : unsigned integer, shape of the box
        Of the region that a voxel belongs to.
    sizes : int64, shape (regions + 1,)
        Voxels of each region; 0 for the background.
    """

    box: Box
    labels: np.ndarray
    numbers: np.ndarray
    sizes: np.ndarray


@dataclass(frozen=True, eq=False)
class _Hole:
    """Background that foreground encloses.

    Parameters
    ----------
    box : tuple of three slices
        Around the hole, one voxel wider on each side.
    inside : bool, shape of the box
    wall : dtype of the label map, shape (N,)
        Labels of the hole's neighbours.
    """

    box: Box
    inside: np.ndarray
    wall: np.ndarray

    @property
    def has_one_label_around(self) -> bool:
        """Whether all neighbours have the same label."""
        return bool(self.wall.min() == self.wall.max())


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
    regions = _regions(mask, connectivity, per_label=False)
    kept = np.zeros_like(mask, dtype=bool)
    kept[regions.box] = regions.numbers == regions.sizes.argmax()
    return kept


def largest_core(mask: np.ndarray, voxels: int) -> np.ndarray:
    """Keep the largest region of a mask that stays where its surface is taken off, and what is near it.

    Noise that a network takes for brain is spongy, and may have more voxels than the
    brain; what hangs on the brain by a thin bridge goes as well.

    Parameters
    ----------
    mask : bool or integer, shape (I, J, K)
        Every value that is not 0 belongs to the mask.
    voxels : int
        How deep the surface is taken off, even. It is worked out on a lattice of every
        second voxel.

    Returns
    -------
    bool, shape (I, J, K)
        All of the mask where nothing of it is so thick.

    Raises
    ------
    ShapeError
        `mask` is not three-dimensional.
    """
    box = _foreground_box(mask)
    inside = mask[box] != 0
    near = _near_core(_halved(np.pad(inside, [(0, n % 2) for n in inside.shape])), voxels // 2)
    doubled = near.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)
    kept = np.zeros(mask.shape, bool)
    kept[box] = inside & doubled[tuple(slice(0, n) for n in inside.shape)]
    return kept


def _near_core(mask: np.ndarray, depth: int) -> np.ndarray:
    """Give what is near the largest region under the surface; everything if there is none."""
    # The box is tight: what lies beyond it is background.
    margin = depth + 1
    core = largest_component(scipy.ndimage.binary_erosion(np.pad(mask, margin), iterations=depth))
    if not core.any():
        return np.ones_like(mask)
    # By faces inwards, by corners outwards, so that what is round comes back whole.
    grown = scipy.ndimage.binary_dilation(core, np.ones((3, 3, 3), bool), iterations=margin)
    return np.asarray(grown[(slice(margin, -margin),) * 3])


def _halved(mask: np.ndarray) -> np.ndarray:
    """Give whether most of eight voxels are in a mask whose sizes are even."""
    i, j, k = (n // 2 for n in mask.shape)
    return np.asarray(mask.reshape(i, 2, j, 2, k, 2).sum(axis=(1, 3, 5), dtype=np.uint8) > 4)


def largest_component_per_label(
    labels: np.ndarray, connectivity: Connectivity = 26, *, paired: Collection[int] = ()
) -> np.ndarray:
    """Keep the largest connected region of each label.

    Parameters
    ----------
    labels : bool or unsigned integer, shape (I, J, K)
        0 is background.
    connectivity : {6, 18, 26}
        Neighbours that touch: by a face, an edge, or a corner.
    paired : collection of int
        Labels that stand for a left and a right structure that do not touch, such as
        both hippocampi: their two largest regions stay. Where the two do touch, the
        second one is a stray part, and stays too.

    Returns
    -------
    dtype and shape of `labels`
        0 where a smaller region of the same label was. Size is the voxel count; the
        first in scan order (k fastest) wins a tie. No label vanishes.

    Raises
    ------
    ShapeError
        `labels` is not three-dimensional.
    """
    regions = _regions(labels, connectivity, per_label=True)
    owner = np.zeros(len(regions.sizes), labels.dtype)
    owner[regions.numbers] = regions.labels
    ordered = np.lexsort((-regions.sizes, owner))
    _, first, region = np.unique(owner[ordered], return_index=True, return_inverse=True)
    rank = np.arange(len(ordered)) - first[region]
    kept = np.empty(len(regions.sizes), bool)
    kept[ordered] = rank < np.where(np.isin(owner[ordered], list(paired)), 2, 1)
    return _with_regions(labels, regions, kept)


def without_small_components(
    labels: np.ndarray, least_voxels: int, connectivity: Connectivity = 26, *, per_label: bool = False
) -> np.ndarray:
    """Remove connected regions below a size.

    Parameters
    ----------
    labels : bool or unsigned integer, shape (I, J, K)
        0 is background.
    least_voxels : int
        A region of this size stays. With 1 or less nothing is removed.
    connectivity : {6, 18, 26}
        Neighbours that touch: by a face, an edge, or a corner.
    per_label : bool
        False: touching labels are one region. True: a region has one label, so that a
        small one goes even where it lies within another label, and leaves a hole.

    Returns
    -------
    dtype and shape of `labels`
        0 where a small region was; empty where all regions are small.

    Raises
    ------
    ShapeError
        `labels` is not three-dimensional.
    """
    regions = _regions(labels, connectivity, per_label=per_label)
    return _with_regions(labels, regions, regions.sizes >= least_voxels)


def fill_holes(labels: np.ndarray, connectivity: Connectivity = 26) -> np.ndarray:
    """Give background that is wholly enclosed by foreground the label nearest to it.

    Parameters
    ----------
    labels : bool or unsigned integer, shape (I, J, K)
        0 is background, all else foreground.
    connectivity : {6, 18, 26}
        Neighbours of foreground. Those of background are the complement: 6 for 26 and
        18, 26 for 6.

    Returns
    -------
    dtype and shape of `labels`
        Filled; what was foreground is not changed. Nearest is the smallest distance
        between voxel centres, counted in voxels; the lowest label wins a tie.
        Background with a way to the border of the volume is no hole.

    Raises
    ------
    ShapeError
        `labels` is not three-dimensional.
    """
    filled = labels.copy(order="K")
    for hole in _holes(labels, connectivity):
        one = hole.has_one_label_around
        found = hole.wall[0] if one else _nearest_labels(labels[hole.box], hole.inside)
        filled[hole.box][hole.inside] = found
    return filled


def fill_holes_per_label(labels: np.ndarray, connectivity: Connectivity = 26) -> np.ndarray:
    """Give background that is wholly enclosed by one label this label.

    Parameters
    ----------
    labels : bool or unsigned integer, shape (I, J, K)
        0 is background.
    connectivity : {6, 18, 26}
        Neighbours of a label. Those of what is not the label are the complement: 6 for
        26 and 18, 26 for 6.

    Returns
    -------
    dtype and shape of `labels`
        Filled; what was foreground is not changed. A hole that another label lies in,
        or is part of the wall of, stays as it is: whose it is, is not known. So does
        background with a way to the border of the volume.

    Raises
    ------
    ShapeError
        `labels` is not three-dimensional.
    """
    filled = labels.copy(order="K")
    for hole in _holes(labels, connectivity):
        if hole.has_one_label_around:
            filled[hole.box][hole.inside] = hole.wall[0]
    return filled


def count_removed(before: np.ndarray, after: np.ndarray, connectivity: Connectivity = 26) -> int:
    """Count the regions of a label map that a chain of filters removed.

    Parameters
    ----------
    before, after : bool or unsigned integer, shape (I, J, K)
        The map before the first filter and after the last. 0 is background.
    connectivity : {6, 18, 26}
        Neighbours that touch: by a face, an edge, or a corner.

    Returns
    -------
    int
        Regions of one label in `before` of which no voxel has this label in `after`.
        Filled holes do not count.

    Raises
    ------
    ShapeError
        `before` is not three-dimensional, or the shapes differ.
    """
    if before.shape != after.shape:
        raise ShapeError(f"label maps have the shapes {before.shape} and {after.shape}; one grid is needed")
    regions = _regions(before, connectivity, per_label=True)
    kept = np.zeros(len(regions.sizes), bool)
    kept[regions.numbers[regions.labels == after[regions.box]]] = True
    return int(np.count_nonzero(~kept[1:]))


def _regions(labels: np.ndarray, connectivity: Connectivity, *, per_label: bool) -> _Regions:
    """Find the regions of each label, or of all labels together."""
    box = _foreground_box(labels)
    # In C order whatever the order in memory: the numbers follow it, and ties follow the numbers.
    inside = in_order(labels[box], "C")
    numbers = _numbered(inside if per_label else inside != 0, connectivity)
    sizes = count_values(numbers)
    sizes[0] = 0
    return _Regions(box, inside, numbers, sizes)


def _with_regions(labels: np.ndarray, regions: _Regions, kept: np.ndarray) -> np.ndarray:
    """Give a label map with the regions that are kept, by number; 0 elsewhere."""
    left = np.zeros_like(labels)
    left[regions.box] = regions.labels * kept[regions.numbers]
    return left


def _numbered(inside: np.ndarray, connectivity: Connectivity) -> np.ndarray:
    # What cc3d has for booleans runs out of numbers on some small volumes, [[[1, 0, 1]]] for one (4.1.1).
    voxels = inside.view(np.uint8) if inside.dtype == bool else inside
    numbers = cc3d.connected_components(voxels, connectivity=connectivity, out_dtype=np.uint32)
    # Older ones of cc3d give an empty array one axis.
    return np.asarray(numbers).reshape(inside.shape)


def _foreground_box(labels: np.ndarray) -> Box:
    """Give the box around all that is not 0; one without voxels where there is nothing."""
    if labels.ndim != 3:
        raise ShapeError(f"mask has shape {labels.shape}; three axes are needed")
    box = []
    for others in ((1, 2), (0, 2), (0, 1)):
        hit = np.flatnonzero(labels.any(axis=others))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0))
    return box[0], box[1], box[2]


def _holes(labels: np.ndarray, connectivity: Connectivity) -> Iterator[_Hole]:
    """Find the regions of background without a way to the border of the volume."""
    outer = _foreground_box(labels)
    background = _BACKGROUND_CONNECTIVITY[connectivity]
    numbers = _numbered(labels[outer] == 0, background)
    if not numbers.size:
        return
    touching = scipy.ndimage.generate_binary_structure(3, 1 if background == 6 else 3)
    for number, found in enumerate(scipy.ndimage.find_objects(numbers), start=1):
        # Beyond the box of the foreground all is background, or the volume ends.
        if any(s.start == 0 or s.stop == n for s, n in zip(found, numbers.shape, strict=True)):
            continue
        i, j, k = (slice(s.start - 1, s.stop + 1) for s in found)
        inside = numbers[i, j, k] == number
        i, j, k = (slice(o.start + s.start, o.start + s.stop) for o, s in zip(outer, (i, j, k), strict=True))
        wall = labels[i, j, k][scipy.ndimage.binary_dilation(inside, touching) & ~inside]
        yield _Hole((i, j, k), inside, wall)


def _nearest_labels(labels: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """Give the label nearest to each voxel of a hole, the lowest on a tie.

    Exact: squared distances add up over the axes, so the least of them is found one
    axis after the other, and the label rides along in the low bits.
    """
    reach = int(scipy.ndimage.distance_transform_edt(hole).max())
    nearest = np.where(labels != 0, labels.astype(np.int64), _FAR)
    for axis in range(3):
        lines = np.moveaxis(nearest, axis, 0)
        best = lines.copy()
        for step in range(1, reach + 1):
            cost = step * step * _PER_SQUARE
            np.minimum(best[step:], lines[:-step] + cost, out=best[step:])
            np.minimum(best[:-step], lines[step:] + cost, out=best[:-step])
        nearest = np.moveaxis(best, 0, axis)
    return np.asarray(nearest[hole] % _PER_SQUARE)
