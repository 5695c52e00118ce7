"""Where training gets its heads: label maps, and a user's own images with labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from brainchop_pipe.models.train.envelope import whole_brain
from brainchop_pipe.models.train.making import Example, make_example, vary_pair
from brainchop_pipe.models.train.settings import Data, Making
from brainchop_pipe.models.train.structures import TISSUE_OF, structures_of
from torch import Tensor
from torch.utils.data import Dataset

from brainchop_pipe.core.conform import conform
from brainchop_pipe.core.grid import Volume, conformed_grid, is_conformed
from brainchop_pipe.core.resample import resample_nearest
from brainchop_pipe.errors import InputError, UsageError
from brainchop_pipe.images import read_image

# Numbers that keep the seeds of training, of looking at what was left out, and of evaluation apart.
TRAINING, CHECKING, EVALUATING = 0, 1, 3


@dataclass(frozen=True, eq=False)
class Pair:
    """A conformed image (float32, 0 to 255) and its tissues (uint8), same shape."""

    image: Tensor
    tissues: Tensor


@dataclass(frozen=True, eq=False)
class Heads:
    """What images can be made from.

    Parameters
    ----------
    maps : dict of str to Tensor
        Structures, uint8, conformed, by the name of the file.
    pairs : tuple of Pair
    """

    maps: dict[str, Tensor]
    pairs: tuple[Pair, ...]

    def on(self, device: str) -> "Heads":
        """Give the same heads in the memory of a device."""
        maps = {name: structures.to(device) for name, structures in self.maps.items()}
        return Heads(maps, tuple(Pair(p.image.to(device), p.tissues.to(device)) for p in self.pairs))


def read_heads(data: Data, folder: Path) -> tuple[Heads, Heads]:
    """Read what training sees, and what it never sees.

    Parameters
    ----------
    data : Data
    folder : Path
        Where relative paths start.

    Raises
    ------
    UsageError
        There is nothing to train on, nothing is left out, or a map to leave out is not there.
    InputError
        A label map has unknown numbers, or is no head.
    """
    places = [folder / pattern for pattern in data.label_maps]
    paths = [path for place in places for path in sorted(place.parent.glob(place.name))]
    absent = set(data.left_out) - {_name(path) for path in paths}
    if absent:
        raise UsageError(f"label maps to leave out are not there: {', '.join(sorted(absent))}")
    maps = {_name(path): read_label_map(path) for path in paths}
    seen = Heads({n: m for n, m in maps.items() if n not in data.left_out}, _read_pairs(data.pairs, folder))
    kept = Heads({n: maps[n] for n in data.left_out}, _read_pairs(data.left_out_pairs, folder))
    for heads, what in ((seen, "to train on"), (kept, "left out, to see how training goes")):
        if not heads.maps and not heads.pairs:
            raise UsageError(f"the configuration names no label maps or pairs {what}")
    return seen, kept


def read_label_map(path: Path) -> Tensor:
    """Read a label map as structures on the conformed lattice."""
    volume = read_image(path).volume
    labels = volume.voxels.astype(np.int32)
    if not is_conformed(volume.grid):
        labels = resample_nearest(Volume(labels, volume.grid), conformed_grid(volume.grid))
    return torch.from_numpy(whole_brain(structures_of(labels)))


def read_pair(image_path: Path, labels_path: Path) -> Pair:
    """Read an image and its labels: FreeSurfer's, or the tissues of this package's tissue maps.

    Raises
    ------
    InputError
        The labels have unknown numbers, or lie elsewhere.
    """
    image = conform(read_image(image_path).volume).volume
    given = read_image(labels_path).volume
    labels = resample_nearest(Volume(given.voxels.astype(np.int32), given.grid), image.grid)
    if not labels.any():
        raise InputError(f"{labels_path.name} has no label in the place of {image_path.name}")
    if labels.max() <= len(_TISSUE_MAP) - 1:
        tissues = _TISSUE_MAP[labels]
    else:
        tissues = TISSUE_OF[structures_of(labels)]
    return Pair(torch.from_numpy(image.voxels.astype(np.float32)), torch.from_numpy(tissues))


# Labels of `*_dseg.nii.gz`, 1 = GM, 2 = WM, 3 = CSF, as indices of TISSUES.
_TISSUE_MAP = np.array([0, 2, 1, 3], np.uint8)


class Examples(Dataset[Example]):
    """Images made one after the other; the number of an image and the seed decide what it is.

    Parameters
    ----------
    heads : Heads
    making : Making
    pair_share : float
    seed : tuple of int
    count : int
    first : int
        Number of the first, where training goes on.
    """

    def __init__(
        self,
        heads: Heads,
        making: Making,
        pair_share: float,
        seed: tuple[int, ...],
        count: int,
        first: int = 0,
    ) -> None:
        self._heads, self._making, self._pair_share = heads, making, pair_share
        self._seed, self._count, self._first = seed, count, first
        self._maps = list(heads.maps.values())

    def __len__(self) -> int:
        return self._count - self._first

    def __getitem__(self, index: int) -> Example:
        if index >= len(self):
            raise IndexError(index)
        seed = (*self._seed, self._first + index)
        rng = np.random.default_rng((*seed, 0))
        pairs = self._heads.pairs
        if pairs and (not self._maps or rng.random() < self._pair_share):
            pair = pairs[rng.integers(len(pairs))]
            return vary_pair(pair.image, pair.tissues, self._making, (*seed, 1))
        return make_example(self._maps[rng.integers(len(self._maps))], self._making, (*seed, 1))


def _read_pairs(pairs: tuple[tuple[str, str], ...], folder: Path) -> tuple[Pair, ...]:
    return tuple(read_pair(folder / image, folder / labels) for image, labels in pairs)


def _name(path: Path) -> str:
    return path.name.split(".")[0]
