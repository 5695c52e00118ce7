"""One lattice of voxels to another: linear for intensities and probabilities, votes for labels.

SimpleITK does the walk over the voxels (`interpolate.py`). What it does not know (an exact
border, tolerance for the rounding of headers, votes of labels) is added here.
"""

from itertools import product
from typing import Literal

import numpy as np

from brainchop_pipe.core.grid import Grid, Shape3, Volume, voxel_from_voxel
from brainchop_pipe.core.order import in_order

# Farthest, in voxels of the source, that a position may lie from a voxel's centre and
# still count as that centre. Headers hold float32: over 512 voxels they err by less.
_TOLERANCE_VOXELS = 1e-3
# What rounding leaves where there is no dependence, over the whole of an axis.
_NEGLIGIBLE_VOXELS = 1e-6

# The same for programs that know no tolerance: the rounding of float64.
EXACT_VOXELS = 1e-9

# Two votes nearer than this are a tie; float32 weights of eight corners err by less.
_VOTE_TOLERANCE = 1e-5

# Cells that are voted on at once: the arrays of a vote stay in the cache.
_CELLS_AT_ONCE = 1 << 15

# Up to so many voxels, slices for pictures, are looked up by numpy before SimpleITK would have begun.
_FEW_VOXELS = 1 << 17

# From a cell's corner with the lowest indices to each of its eight.
_CORNERS = tuple(product((0, 1), repeat=3))

Box = tuple[slice, slice, slice]


def resample_linear(
    source: Volume, target: Grid, edge_tolerance_voxels: float = _TOLERANCE_VOXELS
) -> np.ndarray:
    """Interpolate trilinearly onto another grid.

    Parameters
    ----------
    source : Volume
        Real numbers of any dtype, shape (I, J, K). NaN spreads to its neighbours.
    target : Grid
    edge_tolerance_voxels : float
        How far beyond the outermost voxel centres a position still counts as on them.

    Returns
    -------
    float32, shape `target.shape`
        0 beyond the outermost voxel centres of the source (not beyond their edges),
        as in FreeSurfer and in ``scipy.ndimage`` with ``mode="constant"``. Exact
        where voxel centres coincide and the two spacings are multiples of each other.
    """
    support = support_box(source.voxels)
    if support is None:
        return np.zeros(target.shape, np.float32)
    seen = source.voxels[support]
    matrix = _snapped(voxel_from_voxel(source.grid, target), target.shape)
    matrix[:3, 3] -= [s.start for s in support]
    out, reach = _walk(seen, matrix, target.shape, "linear")
    _clear_beyond(out[reach], _from(reach, matrix), seen.shape, edge_tolerance_voxels)
    return out


def resample_nearest(source: Volume, target: Grid) -> np.ndarray:
    """Take the value of the nearest voxel; 0 where that lies outside the source.

    Returns
    -------
    dtype of `source.voxels`, shape `target.shape`
        A position halfway between two voxels takes the one with the higher index.
    """
    matrix = voxel_from_voxel(source.grid, target)
    if np.prod(target.shape) <= _FEW_VOXELS:
        matrix[:3, 3] += _TOLERANCE_VOXELS
        return _looked_up(source.voxels, matrix, target.shape)
    # All that a part of a head, for example, sees of it.
    seen = _reach(voxel_from_voxel(target, source.grid), target.shape, source.grid.shape)
    matrix[:3, 3] += _TOLERANCE_VOXELS - np.array([s.start for s in seen])
    return _walk(source.voxels[seen], matrix, target.shape, "nearest")[0]


def resample_labels(source: Volume, target: Grid) -> np.ndarray:
    """Give each target voxel the label with the largest trilinear weight around it.

    The same as interpolating each label's indicator (one-hot) and taking the
    arg-max, without holding a volume per label.

    Parameters
    ----------
    source : Volume
        Labels, any integer dtype; 0 is background.
    target : Grid

    Returns
    -------
    dtype of `source.voxels`, shape `target.shape`
        The lowest label wins ties. 0 beyond the outermost voxel centres of the
        source. Exact where voxel centres coincide.
    """
    support = support_box(source.voxels)
    if support is None:
        return np.zeros(target.shape, source.voxels.dtype)
    labels = in_order(source.voxels[support], "C")
    matrix = voxel_from_voxel(source.grid, target)
    matrix[:3, 3] -= [s.start for s in support]
    cells = _Cells(labels)
    # The nearest neighbour of a position half a voxel further down is the corner of its cell.
    to_corner = matrix.copy()
    to_corner[:3, 3] += _TOLERANCE_VOXELS - 0.5
    out, _ = _walk(cells.codes, to_corner, target.shape, "nearest")
    contested = np.flatnonzero(out == cells.contested)
    flat = out.reshape(-1)
    for start in range(0, len(contested), _CELLS_AT_ONCE):
        some = contested[start : start + _CELLS_AT_ONCE]
        flat[some] = cells.vote(_positions(matrix, some, target.shape))
    return out.astype(labels.dtype, copy=False)


def support_box(voxels: np.ndarray) -> Box | None:
    """Give the box of voxels that are not 0, grown by one voxel where there is room; None if all are."""
    box = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        hit = np.flatnonzero(voxels.any(axis=others))
        if hit.size == 0:
            return None
        box.append(slice(max(hit[0] - 1, 0), min(hit[-1] + 2, voxels.shape[axis])))
    return box[0], box[1], box[2]


class _Cells:
    """The cells of a label map: eight voxels each, between which positions lie.

    Parameters
    ----------
    labels : integers, shape (I, J, K)
        In C order.
    """

    def __init__(self, labels: np.ndarray) -> None:
        self._labels = labels
        lowest, highest = labels, labels
        for axis in range(3):
            lowest = np.minimum(lowest, _following(lowest, axis))
            highest = np.maximum(highest, _following(highest, axis))
        one_more = int(labels.max()) + 1
        #: What stands in `codes` for a cell with several labels.
        self.contested = one_more
        #: The label that all eight voxels have, at the one with the lowest indices.
        self.codes = np.where(lowest == highest, labels, one_more).astype(
            np.promote_types(labels.dtype, np.min_scalar_type(one_more)), copy=False
        )

    def vote(self, positions: np.ndarray) -> np.ndarray:
        """Give the label with the largest weight at positions, float64 (3, N); 0 beyond the last centres."""
        corner, fraction = _cell(positions)
        last = np.array(self._labels.shape)[:, np.newaxis] - 1
        inside = ((positions >= -_TOLERANCE_VOXELS) & (positions <= last + _TOLERANCE_VOXELS)).all(axis=0)
        steps = [np.minimum(axis + 1, n) - axis for axis, n in zip(corner, last, strict=True)]
        strides = [s // self._labels.itemsize for s in self._labels.strides]
        first = sum(axis * stride for axis, stride in zip(corner, strides, strict=True))
        flat = self._labels.reshape(-1)
        ways = [(np.zeros_like(step), step * stride) for step, stride in zip(steps, strides, strict=True)]
        candidates = [flat[first + ways[0][i] + ways[1][j] + ways[2][k]] for i, j, k in _CORNERS]
        sides = [(1 - f, f) for f in fraction.astype(np.float32)]
        weights = [sides[0][i] * sides[1][j] * sides[2][k] for i, j, k in _CORNERS]
        return np.where(inside, _winner(candidates, weights), 0)


def _winner(candidates: list[np.ndarray], weights: list[np.ndarray]) -> np.ndarray:
    """Give the label with the largest sum of weights among eight; most cells have two."""
    lowest = np.asarray(np.minimum.reduce(candidates))
    highest = np.asarray(np.maximum.reduce(candidates))
    votes = sum(w * (c == highest) for c, w in zip(candidates, weights, strict=True))
    best = np.asarray(np.where(votes > (1 + _VOTE_TOLERANCE) / 2, highest, lowest))
    several = np.flatnonzero(np.any([(c != lowest) & (c != highest) for c in candidates], axis=0))
    best[several] = _winner_of_several([c[several] for c in candidates], [w[several] for w in weights])
    return best


def _winner_of_several(candidates: list[np.ndarray], weights: list[np.ndarray]) -> np.ndarray:
    best = candidates[0]
    best_votes = np.full(best.shape, -1.0, np.float32)
    for candidate in candidates:
        votes = sum(w * (other == candidate) for w, other in zip(weights, candidates, strict=True))
        wins = votes > best_votes + _VOTE_TOLERANCE
        wins |= (votes > best_votes - _VOTE_TOLERANCE) & (candidate < best)
        best = np.where(wins, candidate, best)
        best_votes = np.where(wins, votes, best_votes)
    return best


def _following(values: np.ndarray, axis: int) -> np.ndarray:
    """Give each voxel's next along an axis; the last one's is itself."""
    count = values.shape[axis]
    return np.take(values, np.arange(1, count + 1).clip(max=count - 1), axis)


def _cell(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into a voxel index and the fraction of the way to the next, snapped to centres."""
    low = np.floor(positions + _TOLERANCE_VOXELS)
    fraction = positions - low
    return low.astype(np.intp), np.where(fraction <= _TOLERANCE_VOXELS, 0.0, fraction)


def _positions(source_from_target: np.ndarray, flat: np.ndarray, shape: Shape3) -> np.ndarray:
    """Give the source positions of target voxels, by their numbers in C order: float64 (3, N)."""
    indices = np.array(np.unravel_index(flat, shape)).astype(np.float64)
    return np.asarray(source_from_target[:3, :3] @ indices + source_from_target[:3, 3:])


def _snapped(source_from_target: np.ndarray, shape: Shape3) -> np.ndarray:
    """Take off what rounding has left on whole numbers, so that centres that coincide do so exactly."""
    snapped = source_from_target.copy()
    whole = np.rint(snapped)
    reach = np.array([*shape, 1])
    near = np.abs(snapped - whole) * np.maximum(reach, 1) <= _TOLERANCE_VOXELS
    # A position is whole where all that it is the sum of is.
    rows = near[:3].all(axis=1)
    snapped[:3][rows] = whole[:3][rows]
    return snapped


def _walk(
    voxels: np.ndarray,
    source_from_target: np.ndarray,
    shape: Shape3,
    way: Literal["linear", "nearest"],
) -> tuple[np.ndarray, Box]:
    """Interpolate at the position of each target voxel; 0 beyond the edges of the outermost voxels.

    Returns
    -------
    shape `shape`, in C order
        float32 for "linear", else dtype of `voxels`.
    Box
        Outside of which all of it lies beyond.
    """
    # Its library takes a tenth of a second to import, which who only plans a run need not spend.
    from brainchop_pipe.core.interpolate import interpolated

    reach = _reach(source_from_target, voxels.shape, shape)
    return interpolated(voxels, _from(reach, source_from_target), reach, shape, way), reach


def _looked_up(voxels: np.ndarray, source_from_target: np.ndarray, shape: Shape3) -> np.ndarray:
    """Give the nearest voxel's value at the position of each target voxel; 0 beyond the voxels' edges."""
    depends = np.abs(source_from_target[:3, :3]) * shape > _NEGLIGIBLE_VOXELS
    if (depends.sum(axis=0) == 1).all() and (depends.sum(axis=1) == 1).all():
        return _looked_up_along_axes(voxels, source_from_target, shape, depends.argmax(axis=0))
    positions = _positions(source_from_target, np.arange(np.prod(shape)), shape)
    indices = np.floor(positions + 0.5).astype(np.intp)
    inside = ((indices >= 0) & (indices < np.array(voxels.shape)[:, np.newaxis])).all(axis=0)
    out = np.zeros(inside.size, voxels.dtype.newbyteorder("="))
    out[inside] = voxels[tuple(indices[:, inside])]
    return out.reshape(shape)


def _looked_up_along_axes(
    voxels: np.ndarray, source_from_target: np.ndarray, shape: Shape3, source_axes: np.ndarray
) -> np.ndarray:
    """Do the same where each target axis follows one of the source: look up each axis by itself."""
    inside, indices = [], []
    for count, target_axis, axis in zip(shape, range(3), source_axes, strict=True):
        along = source_from_target[axis, target_axis] * np.arange(count) + source_from_target[axis, 3]
        nearest = np.floor(along + 0.5).astype(np.intp)
        inside.append(np.flatnonzero((nearest >= 0) & (nearest < voxels.shape[axis])))
        indices.append(nearest[inside[-1]])
    out = np.zeros(shape, voxels.dtype.newbyteorder("="))
    out[np.ix_(*inside)] = voxels.transpose(source_axes)[np.ix_(*indices)]
    return out


def _reach(source_from_target: np.ndarray, source_shape: tuple[int, ...], shape: Shape3) -> Box:
    """Give the box of target voxels outside of which all lie beyond the source; at least one voxel."""
    # A voxel more than the half one that counts, for all roundings.
    corners = np.array([*product(*((-1, n) for n in source_shape))], float)
    matrix = np.linalg.inv(source_from_target)
    positions = corners @ matrix[:3, :3].T + matrix[:3, 3]
    low = np.floor(positions.min(axis=0)).clip(0, np.array(shape) - 1).astype(int)
    high = np.ceil(positions.max(axis=0)).clip(low, np.array(shape) - 1).astype(int) + 1
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _from(box: Box, source_from_target: np.ndarray) -> np.ndarray:
    """Give source positions from the indices of a box of the target."""
    moved = source_from_target.copy()
    moved[:3, 3] += source_from_target[:3, :3] @ [s.start for s in box]
    return moved


def _clear_beyond(
    out: np.ndarray, source_from_target: np.ndarray, source_shape: Shape3, tolerance: float
) -> None:
    """Set to 0 what lies beyond the outermost centres of the source, by rows along the last axis."""
    i, j = np.ogrid[: out.shape[0], : out.shape[1]]
    count = out.shape[2]
    first = np.zeros(out.shape[:2])
    last = np.full(out.shape[:2], count - 1.0)
    for row, n in zip(source_from_target[:3], source_shape, strict=True):
        start = row[0] * i + row[1] * j + row[3]
        low, high = -tolerance - start, n - 1 + tolerance - start
        if abs(row[2]) * count <= tolerance:
            last = np.where((low > 0) | (high < 0), -1.0, last)
            continue
        ends = np.sort([low / row[2], high / row[2]], axis=0)
        first, last = np.maximum(first, np.ceil(ends[0])), np.minimum(last, np.floor(ends[1]))
    cut = (first > 0) | (last < count - 1)
    k = np.arange(count)
    out[cut] *= (k >= first[cut][:, np.newaxis]) & (k <= last[cut][:, np.newaxis])
