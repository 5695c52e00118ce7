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
    padding = [p for n in reversed(image.shape) for p in (0, -n % MULTIPLE)]
    whole = torch.nn.functional.pad(image, padding)[None, None]
    network.eval()
    with torch.inference_mode():
        labels = with_background(network.refined(*network(whole)))[0].argmax(dim=0)
    network.train()
    i, j, k = image.shape
    return labels[:i, :j, :k].to(torch.uint8)


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
    names = {name for row in rows for name in row}
    means = {n: statistics.fmean(row[n] for row in rows if n in row) for n in sorted(names)}
    return {n: round(v, 4) for n, v in means.items()} | {"worst mask": round(min(r["mask"] for r in rows), 4)}
