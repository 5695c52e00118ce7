"""How far scores are from what they should be."""

import torch
from brainchop_pipe.models.train.network import with_background
from brainchop_pipe.models.train.structures import TISSUES
from torch import Tensor
from torch.nn import functional

from brainchop_pipe.inference.segmenter import SPACING

_SMOOTH = 10.0


def shares(tissues: Tensor) -> Tensor:
    """Give the share of each tissue in cubes of 2×2×2 voxels.

    Parameters
    ----------
    tissues : uint8, shape (I, J, K)
        Each edge even.

    Returns
    -------
    float32, shape (tissues, I/2, J/2, K/2)
    """
    found = []
    for tissue in range(len(TISSUES)):
        inside = (tissues == tissue).to(torch.uint8)
        for axis in range(3):
            inside = _every_second(inside, axis, 0) + _every_second(inside, axis, 1)
        found.append(inside.float() / SPACING**3)
    return torch.stack(found)


def one_hot(tissues: Tensor) -> Tensor:
    """Give 1 for the tissue of each voxel and 0 for the others: float32, shape (tissues, I, J, K)."""
    return torch.stack([tissues == tissue for tissue in range(len(TISSUES))]).float()


def disagreement(scores: Tensor, wanted: Tensor) -> Tensor:
    """Give cross-entropy plus one minus the soft Dice, averaged over the tissues.

    Parameters
    ----------
    scores : shape (1, 3, I, J, K)
        Relative to background.
    wanted : float32, shape (4, I, J, K)
        Shares of the tissues.
    """
    logarithms = functional.log_softmax(with_background(scores.float()), dim=1)[0]
    entropy = -(wanted * logarithms).sum(dim=0).mean()
    found, target = logarithms[1:].exp().flatten(1), wanted[1:].flatten(1)
    overlap = 2 * (found * target).sum(dim=1) + _SMOOTH
    sizes = found.square().sum(dim=1) + target.square().sum(dim=1) + _SMOOTH
    return entropy + 1 - (overlap / sizes).mean()


def _every_second(values: Tensor, axis: int, first: int) -> Tensor:
    index = [slice(None)] * 3
    index[axis] = slice(first, None, 2)
    return values[tuple(index)]
