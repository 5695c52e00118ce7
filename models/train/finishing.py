"""From what training has come to, to the network that is exported."""

from collections.abc import Iterable

import torch
from brainchop_pipe.models.train.evaluation import agreement, means, most_probable, scores_of
from brainchop_pipe.models.train.fitting import begun_with
from brainchop_pipe.models.train.making import Example
from brainchop_pipe.models.train.network import Segmenter
from brainchop_pipe.models.train.settings import Settings
from brainchop_pipe.models.train.structures import TISSUES
from torch import Tensor

from brainchop_pipe.errors import UsageError

# Tissues; the first has no score, so that theirs are one place further to the front.
_WHITE, _GREY = 1, 2
_OFFSETS = (-0.4, -0.2, 0.0, 0.2, 0.4, 0.6)


def finished(weights: dict[str, Tensor], settings: Settings) -> Segmenter:
    """Give the network that is exported.

    Parameters
    ----------
    weights : dict of Tensor
        Averaged, as `load_average` gives them.
    settings : Settings
        With `start_share` of `finishing` the weights lie between those that training
        began with and those that it came to. Source: Wortsman et al. 2022,
        arXiv:2109.01903, who found such networks better on other images than both.

    Raises
    ------
    UsageError
        There is no start to take a share of; see `begun_with`.
    """
    network, share = Segmenter(settings.network), settings.finishing.start_share
    if share and not settings.fitting.start:
        raise UsageError(
            f"finishing.start_share is {share}, but the training began with no model; name it as "
            "fitting.start, or leave start_share out"
        )
    network.load_state_dict(weights)
    if share:
        start = begun_with(settings.fitting.start, Segmenter(settings.network)).state_dict()
        between = {name: torch.lerp(value, start[name], share) for name, value in weights.items()}
        network.load_state_dict(between)
    with torch.no_grad():
        network.fine.bias[_WHITE - 1] += settings.finishing.white_offset
    return network


def calibration(network: Segmenter, examples: Iterable[Example]) -> list[dict[str, float]]:
    """Tell what a number added to white matter's score does, on images that training never saw.

    Returns
    -------
    list of dict
        For each offset: Dice of the mask and the tissues, means over images, and the volumes
        of white and grey matter in all of them, as shares of the wanted ones.
    """
    rows: dict[float, list[dict[str, float]]] = {offset: [] for offset in _OFFSETS}
    found, wanted = torch.zeros(len(_OFFSETS), len(TISSUES)), torch.zeros(len(TISSUES))
    for example in examples:
        scores = scores_of(network, example.image)
        wanted += _counts(example.tissues)
        for number, (offset, agreements) in enumerate(rows.items()):
            moved = scores.clone()
            moved[_WHITE - 1] += offset
            labels = most_probable(moved)
            agreements.append(agreement(labels, example.tissues))
            found[number] += _counts(labels)
    shares = found / wanted.clamp(min=1)
    return [
        {"white_offset": offset, **means(agreements)}
        | {f"{TISSUES[t]} volume": round(float(share[t]), 4) for t in (_WHITE, _GREY)}
        for (offset, agreements), share in zip(rows.items(), shares, strict=True)
    ]


def _counts(tissues: Tensor) -> Tensor:
    return torch.bincount(tissues.flatten().int(), minlength=len(TISSUES)).float()
