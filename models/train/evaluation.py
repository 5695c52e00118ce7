"""How right a network is on images that training never saw."""

import statistics
from collections.abc import Iterable

import torch
from brainchop_pipe.models.train.making import MULTIPLE, Example
from brainchop_pipe.models.train.network import Segmenter, with_background
from brainchop_pipe.models.train.structures import TISSUES
from torch import Tensor

from brainchop_pipe.core.metrics import dice


def segment(network: Segmenter, image: Tensor) -> Tensor:
    """Give the most probable tissue of each voxel.

    Parameters
    ----------
    network : Segmenter
    image : float32, shape (I, J, K), 0 to 1

    Returns
    -------
    uint8, same shape
    """
    return most_probable(scores_of(network, image))


def scores_of(network: Segmenter, image: Tensor) -> Tensor:
    """Give the scores of each tissue, float32, shape (tissues - 1, I, J, K); the background's is 0."""
    padding = [p for n in reversed(image.shape) for p in (0, -n % MULTIPLE)]
    whole = torch.nn.functional.pad(image, padding)[None, None]
    network.eval()
    with torch.inference_mode():
        scores = network.refined(*network(whole))[0]
    network.train()
    i, j, k = image.shape
    return scores[:, :i, :j, :k]


def most_probable(scores: Tensor) -> Tensor:
    """Give the number of the tissue with the largest score, uint8; see `scores_of`."""
    return with_background(scores[None])[0].argmax(dim=0).to(torch.uint8)


def agreement(found: Tensor, wanted: Tensor) -> dict[str, float]:
    """Give the Dice of the mask and of each tissue that is there."""
    first, second = found.numpy(), wanted.numpy()
    scores = {"mask": dice(first > 0, second > 0)}
    for tissue, name in enumerate(TISSUES):
        if tissue and (second == tissue).any():
            scores[name] = dice(first == tissue, second == tissue)
    return scores


def evaluate(network: Segmenter, examples: Iterable[Example]) -> dict[str, float]:
    """Give means over images, and the worst mask."""
    device = next(network.parameters()).device
    rows = [agreement(segment(network, e.image.to(device)).cpu(), e.tissues) for e in examples]
    return means(rows) | {"worst mask": round(min(r["mask"] for r in rows), 4)}


def means(rows: list[dict[str, float]]) -> dict[str, float]:
    """Give the mean of each figure over the rows that have it, to four digits."""
    names = sorted({name for row in rows for name in row})
    return {n: round(statistics.fmean(row[n] for row in rows if n in row), 4) for n in names}
