"""Which part of a volume a network needs to see, and in which pieces."""

from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np

from brainchop_pipe.core.components import largest_component
from brainchop_pipe.core.resample import Box

# Sampling for finding the head; its box is then exact to within this many voxels.
_STRIDE = 2

# Shortest edge of a tile's core: with smaller ones nearly all work is done in the halo.
_SMALLEST_CORE = 16


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


@dataclass(frozen=True)
class Tile:
    """A part of a volume that is worked on by itself.

    Parameters
    ----------
    core : tuple of three slices
        What the tile gives; the cores of all tiles fill the volume once.
    seen : tuple of three slices
        The core and the halo around it, as far as the volume goes.
    """

    core: Box
    seen: Box

    @property
    def inner(self) -> Box:
        """The core within what is seen."""
        i, j, k = (
            slice(core.start - seen.start, core.stop - seen.start)
            for core, seen in zip(self.core, self.seen, strict=True)
        )
        return i, j, k


def plan_tiles(shape: tuple[int, ...], halo: int, most_voxels: float) -> tuple[Tile, ...] | None:
    """Cut a volume into tiles with a halo, none of which sees more than a number of voxels.

    Parameters
    ----------
    shape : tuple of three ints
    halo : int
        Voxels on each side of a core that the result there depends on. At the volume's
        own border nothing is added, so that a network pads there as it would without
        tiles.
    most_voxels : float

    Returns
    -------
    tuple of Tile, or None
        Of all regular cuts the one with the fewest voxels seen in all. One tile where
        the volume fits as a whole; None where even the smallest tiles are too large.
    """
    cuts = [[_cut(size, pieces, halo) for pieces in range(1, size // _SMALLEST_CORE + 2)] for size in shape]
    lengths = [[[seen.stop - seen.start for _, seen in cut] for cut in along] for along in cuts]
    best, least = None, np.inf
    for choice in product(*(range(len(along)) for along in cuts)):
        along = [lengths[axis][index] for axis, index in enumerate(choice)]
        seen = float(np.prod([sum(each) for each in along]))
        if np.prod([max(each) for each in along]) <= most_voxels and seen < least:
            best, least = choice, seen
    if best is None:
        return None
    chosen = (cuts[axis][index] for axis, index in enumerate(best))
    return tuple(_tile(parts) for parts in product(*chosen))


def smallest_tile_voxels(shape: tuple[int, ...], halo: int) -> int:
    """Give the voxels that the smallest tiles of `plan_tiles` see, at most."""
    return int(np.prod([min(size, _SMALLEST_CORE + 2 * halo) for size in shape]))


def _cut(size: int, pieces: int, halo: int) -> list[tuple[slice, slice]]:
    """Cut an axis into pieces of nearly one length: cores, and what is seen of each."""
    edges = [round(piece * size / pieces) for piece in range(pieces + 1)]
    return [
        (slice(low, high), slice(max(low - halo, 0), min(high + halo, size))) for low, high in pairwise(edges)
    ]


def _tile(parts: tuple[tuple[slice, slice], ...]) -> Tile:
    (core_i, seen_i), (core_j, seen_j), (core_k, seen_k) = parts
    return Tile((core_i, core_j, core_k), (seen_i, seen_j, seen_k))
