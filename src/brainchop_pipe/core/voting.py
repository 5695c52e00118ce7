"""Sub-volumes of a volume that vote on the label of each voxel."""

from collections.abc import Iterator

import numpy as np

from brainchop_pipe.core.grid import Shape3
from brainchop_pipe.core.resample import Box


def sub_volume_boxes(shape: Shape3, piece: Shape3, count: int, sd_share: float, seed: int) -> Iterator[Box]:
    """Give the places of sub-volumes: a grid that covers the volume, then random ones around its centre.

    Parameters
    ----------
    shape, piece : (int, int, int)
        Of the volume, and of each sub-volume; `piece` is nowhere larger.
    count : int
        How many in all. The grid comes first and whole, even where it has more.
    sd_share : float
        Standard deviation of the random centres along each axis, as a share of its length.
    seed : int

    Yields
    ------
    tuple of three slices
        Within the volume; the same ones for the same arguments. Where the grid's last
        piece would stick out it is moved back.

    Notes
    -----
    Source: sub-volume inference of Catalyst.Neuro (Fani et al. 2022, arXiv:2206.05344): a
    grid without overlap, then centres drawn from a normal distribution in the middle of
    the volume.
    """
    starts = [
        [min(low, size - edge) for low in range(0, size, edge)]
        for size, edge in zip(shape, piece, strict=True)
    ]
    corners = np.stack(np.meshgrid(*starts, indexing="ij"), axis=-1).reshape(-1, 3)
    sizes, edges = np.array(shape), np.array(piece)
    places = np.random.default_rng(seed).normal(
        sizes / 2, sd_share * sizes, size=(max(count - len(corners), 0), 3)
    )
    random = np.clip(np.rint(places - edges / 2), 0, sizes - edges).astype(int)
    for low in np.concatenate([corners, random]):
        i, j, k = (slice(int(a), int(a + n)) for a, n in zip(low, edges, strict=True))
        yield i, j, k


class Votes:
    """Counts of the labels that sub-volumes give each voxel.

    Parameters
    ----------
    shape : (int, int, int)
    labels : int
        How many there are, 0 included.
    """

    def __init__(self, shape: Shape3, labels: int) -> None:
        self._counts = np.zeros((labels, *shape), np.uint16)

    def add(self, box: Box, labels: np.ndarray) -> None:
        """Count one vote for each voxel of a box; `labels` has the box's shape."""
        counts = self._counts[(slice(None), *box)]
        for label in np.unique(labels):
            counts[label] += labels == label

    def result(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give labels, the winner's share of the votes, and the share of each label.

        Returns
        -------
        labels : int64, the volume's shape
            The lowest label wins ties.
        confidence : float32, same shape, 0 to 1
        shares : float32, shape (labels, I, J, K)
            0 where nobody voted.
        """
        shares = self._counts / np.maximum(self._counts.sum(axis=0, dtype=np.float32), 1)
        return self._counts.argmax(axis=0), shares.max(axis=0), shares
