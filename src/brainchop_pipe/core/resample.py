"""One lattice of voxels to another: linear for intensities and probabilities, votes for labels."""

from itertools import product

import numpy as np
from scipy import ndimage

from brainchop_pipe.core.grid import Grid, Shape3, Volume, voxel_from_voxel

# Farthest, in voxels of the source, that a position may lie from a voxel's centre and
# still count as that centre. Headers hold float32: over 512 voxels they err by less.
_TOLERANCE_VOXELS = 1e-3

# The same for programs that know no tolerance: the rounding of float64.
EXACT_VOXELS = 1e-9

# Two votes nearer than this are a tie; float32 weights of eight corners err by less.
_VOTE_TOLERANCE = 1e-5

# Target voxels worked on at once by `resample_labels`; keeps its index arrays under 0.5 GB.
_SLAB_VOXELS = 4_000_000

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
        How far beyond the outermost voxel centres a position still counts as on
        them, where the axes of the two grids are parallel.

    Returns
    -------
    float32, shape `target.shape`
        0 beyond the outermost voxel centres of the source (not beyond their edges),
        as in FreeSurfer and in ``scipy.ndimage`` with ``mode="constant"``. Exact
        where voxel centres coincide.
    """
    matrix = voxel_from_voxel(source.grid, target)
    out = np.zeros(target.shape, np.float32)
    box = _reach(matrix, source.grid.shape, target.shape)
    if box is None:
        return out
    local = _matrix_from_corner(matrix, box)
    shape = _box_shape(box)
    if _is_axis_aligned(local, shape):
        out[box] = _interpolate_along_axes(source.voxels, local, shape, edge_tolerance_voxels)
    else:
        ndimage.affine_transform(
            source.voxels, local[:3, :3], local[:3, 3], shape, out[box], order=1, mode="constant"
        )
    return out


def resample_nearest(source: Volume, target: Grid) -> np.ndarray:
    """Take the value of the nearest voxel; 0 where that lies outside the source.

    Returns
    -------
    dtype of `source.voxels`, shape `target.shape`
        A position halfway between two voxels takes the one with the higher index.
    """
    matrix = voxel_from_voxel(source.grid, target)
    out = np.zeros(target.shape, source.voxels.dtype)
    for box in _slabs(_reach(matrix, source.grid.shape, target.shape, margin_voxels=0.5)):
        positions = _positions(_matrix_from_corner(matrix, box), _box_shape(box))
        nearest = [np.floor(p + 0.5 + _TOLERANCE_VOXELS).astype(np.intp) for p in positions]
        inside = _inside(nearest, source.grid.shape)
        clipped = [np.clip(p, 0, n - 1) for p, n in zip(nearest, source.grid.shape, strict=True)]
        out[box] = np.where(inside, source.voxels[tuple(clipped)], 0)
    return out


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
    out = np.zeros(target.shape, source.voxels.dtype)
    support = support_box(source.voxels)
    if support is None:
        return out
    labels = np.ascontiguousarray(source.voxels[support])
    matrix = voxel_from_voxel(source.grid, target)
    matrix[:3, 3] -= [s.start for s in support]
    uniform = _uniform_cells(labels)
    for box in _slabs(_reach(matrix, labels.shape, target.shape)):
        positions = _positions(_matrix_from_corner(matrix, box), _box_shape(box))
        out[box] = _vote(labels, uniform, positions)
    return out


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


def _reach(
    source_from_target: np.ndarray, source_shape: Shape3, target_shape: Shape3, margin_voxels: float = 0.0
) -> Box | None:
    """Box of target voxels that can lie within the source's outermost centres (plus a margin)."""
    corners = np.array(list(product(*[(-margin_voxels, n - 1 + margin_voxels) for n in source_shape])))
    inverse = np.linalg.inv(source_from_target)
    reached = corners @ inverse[:3, :3].T + inverse[:3, 3]
    # One target voxel more on each side makes up for rounding; it is checked again later.
    low = np.clip(np.floor(reached.min(axis=0)).astype(int) - 1, 0, target_shape)
    high = np.clip(np.ceil(reached.max(axis=0)).astype(int) + 2, 0, target_shape)
    if (low >= high).any():
        return None
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _slabs(box: Box | None) -> list[Box]:
    """Cut a box along its first axis into pieces of bounded size; no box, no pieces."""
    if box is None:
        return []
    _, j, k = _box_shape(box)
    step = max(1, _SLAB_VOXELS // (j * k))
    starts = range(box[0].start, box[0].stop, step)
    return [(slice(s, min(s + step, box[0].stop)), box[1], box[2]) for s in starts]


def _box_shape(box: Box) -> Shape3:
    i, j, k = (s.stop - s.start for s in box)
    return i, j, k


def _matrix_from_corner(source_from_target: np.ndarray, box: Box) -> np.ndarray:
    """Move a matrix's origin to the corner of a target box."""
    local = source_from_target.copy()
    local[:3, 3] += local[:3, :3] @ [s.start for s in box]
    return local


def _significant(matrix: np.ndarray, shape: Shape3) -> np.ndarray:
    """Which coefficients move a position by more than the tolerance over a shape, bool (3, 3)."""
    return np.asarray(np.abs(matrix[:3, :3]) * (np.array(shape) - 1).clip(1) > _TOLERANCE_VOXELS)


def _is_axis_aligned(matrix: np.ndarray, shape: Shape3) -> bool:
    significant = _significant(matrix, shape)
    return bool((significant.sum(axis=0) == 1).all() and (significant.sum(axis=1) == 1).all())


def _interpolate_along_axes(
    voxels: np.ndarray, source_from_target: np.ndarray, shape: Shape3, edge_tolerance_voxels: float
) -> np.ndarray:
    """Interpolate one axis after the other; the matrix pairs each target axis with one source axis."""
    source_axis = np.abs(source_from_target[:3, :3]).argmax(axis=0)
    result = voxels.transpose(source_axis)
    # What shrinks the volume most goes first.
    for axis in sorted(range(3), key=lambda a: shape[a] / result.shape[a]):
        step = source_from_target[source_axis[axis], axis]
        positions = step * np.arange(shape[axis]) + source_from_target[source_axis[axis], 3]
        result = _interpolate_axis(result, positions, axis, edge_tolerance_voxels)
    return result


def _interpolate_axis(
    voxels: np.ndarray, positions: np.ndarray, axis: int, edge_tolerance_voxels: float
) -> np.ndarray:
    count = voxels.shape[axis]
    low, fraction = _cell(positions)
    inside = (positions >= -edge_tolerance_voxels) & (positions <= count - 1 + edge_tolerance_voxels)
    below = np.take(voxels, low.clip(0, count - 1), axis).astype(np.float32, copy=False)
    if fraction.any():
        above = np.take(voxels, (low + 1).clip(0, count - 1), axis).astype(np.float32, copy=False)
        below += _along(fraction.astype(np.float32), axis) * (above - below)
    if not inside.all():
        below *= _along(inside.astype(np.float32), axis)
    return below


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    """View values as varying along one of three axes."""
    shape = [1, 1, 1]
    shape[axis] = -1
    return values.reshape(shape)


def _cell(positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split positions into a voxel index and the fraction of the way to the next, snapped to centres."""
    low = np.floor(positions + _TOLERANCE_VOXELS).astype(np.intp)
    fraction = positions - low
    return low, np.where(fraction <= _TOLERANCE_VOXELS, 0.0, fraction)


def _positions(source_from_target: np.ndarray, shape: Shape3) -> list[np.ndarray]:
    """Source positions of all voxels of a target box, one array an axis, each broadcast to its need.

    An array keeps length 1 along the target axes that it does not depend on, so that
    axis-aligned grids cost next to nothing.
    """
    indices = np.ogrid[tuple(slice(n) for n in shape)]
    significant = _significant(source_from_target, shape)
    positions = []
    for row, used in zip(source_from_target[:3], significant, strict=True):
        terms = [c * index for c, index, u in zip(row[:3], indices, used, strict=True) if u]
        positions.append(np.asarray(sum(terms, np.full((1, 1, 1), row[3]))))
    return positions


def _inside(indices: list[np.ndarray], shape: Shape3) -> np.ndarray:
    i, j, k = ((p >= 0) & (p < n) for p, n in zip(indices, shape, strict=True))
    return np.asarray(i & j & k)


def _uniform_cells(labels: np.ndarray) -> np.ndarray:
    """Which voxels hold the same label as all seven neighbours at higher indices, bool."""
    lowest, highest = labels, labels
    for axis in range(3):
        following = np.arange(1, labels.shape[axis] + 1).clip(max=labels.shape[axis] - 1)
        lowest = np.minimum(lowest, np.take(lowest, following, axis))
        highest = np.maximum(highest, np.take(highest, following, axis))
    return np.asarray(lowest == highest)


def _vote(labels: np.ndarray, uniform: np.ndarray, positions: list[np.ndarray]) -> np.ndarray:
    """Label with the largest weight at each position; only cells with several labels are voted on."""
    cells = [_cell(p) for p in positions]
    low = [c[0] for c in cells]
    inside = _inside(low, labels.shape)
    clipped = [p.clip(0, n - 1) for p, n in zip(low, labels.shape, strict=True)]
    flat = np.ravel_multi_index(tuple(np.broadcast_arrays(*clipped)), labels.shape)
    out = np.where(inside, labels.ravel()[flat], 0)
    contested = np.nonzero(inside & ~uniform.ravel()[flat])
    corner = [np.broadcast_to(p, inside.shape)[contested] for p in clipped]
    weight = [np.broadcast_to(c[1], inside.shape)[contested].astype(np.float32) for c in cells]
    out[contested] = _winner(labels, corner, weight)
    return out.astype(labels.dtype, copy=False)


def _winner(labels: np.ndarray, corner: list[np.ndarray], fraction: list[np.ndarray]) -> np.ndarray:
    """Label with the largest trilinear weight among the eight corners of each cell."""
    candidates, weights = [], []
    for steps in product((0, 1), repeat=3):
        index = [(c + s).clip(max=n - 1) for c, s, n in zip(corner, steps, labels.shape, strict=True)]
        candidates.append(labels[tuple(index)])
        factors = [f if s else 1 - f for f, s in zip(fraction, steps, strict=True)]
        weights.append(factors[0] * factors[1] * factors[2])
    best = candidates[0]
    best_votes = np.full(best.shape, -1.0, np.float32)
    for candidate in candidates:
        votes = sum(w * (other == candidate) for w, other in zip(weights, candidates, strict=True))
        wins = votes > best_votes + _VOTE_TOLERANCE
        wins |= (votes > best_votes - _VOTE_TOLERANCE) & (candidate < best)
        best = np.where(wins, candidate, best)
        best_votes = np.where(wins, votes, best_votes)
    return np.asarray(best)
