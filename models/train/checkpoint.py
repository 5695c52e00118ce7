"""A training's state in one file that holds no code: weights, their average, the optimiser, the history."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from brainchop_pipe.models.train.settings import Settings
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from brainchop_pipe.errors import MissingInputError, UsageError
from brainchop_pipe.storage import write_whole

NAME = "checkpoint.safetensors"


@dataclass
class Progress:
    """How far a training is.

    Parameters
    ----------
    step : int
        Steps done.
    seconds : float
        Time they took, over all pieces of the training.
    history : list of dict
        A line for each look at the images left out.
    """

    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


class Average:
    """Running average of a network's weights."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self.weights = {name: value.detach().clone() for name, value in network.state_dict().items()}

    def update(self, network: nn.Module, step: int) -> None:
        """Take in the weights after a step; early ones count for less."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in network.state_dict().items():
                self.weights[name].lerp_(value, share)


def save_checkpoint(
    folder: Path,
    settings: Settings,
    network: nn.Module,
    average: Average,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Write all that is needed to go on; a run killed meanwhile leaves the file before."""
    tensors = {f"network/{k}": v for k, v in network.state_dict().items()}
    tensors |= {f"average/{k}": v for k, v in average.weights.items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{k}": torch.as_tensor(v) for k, v in state.items()}
    texts = {
        "progress": json.dumps(vars(progress)),
        "settings": settings.model_dump_json(),
    }
    write_whole(folder / NAME, save({k: v.cpu().contiguous() for k, v in tensors.items()}, texts))


def load_checkpoint(
    folder: Path, network: nn.Module, average: Average, optimizer: torch.optim.Optimizer
) -> Progress:
    """Put a training back to where it was; nothing changes where there is no checkpoint.

    Raises
    ------
    UsageError
        The checkpoint is of another network.
    """
    if not (folder / NAME).exists():
        return Progress()
    tensors, texts = _read(folder)
    try:
        network.load_state_dict(_below(tensors, "network/"))
    except RuntimeError as error:
        raise UsageError(
            f"{folder / NAME} is of another network than the configuration describes; use another folder: "
            f"{error}"
        ) from error
    for name, value in _below(tensors, "average/").items():
        average.weights[name].copy_(value)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in _below(tensors, "optimizer/").items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return Progress(**json.loads(texts["progress"]))


def load_average(folder: Path) -> tuple[dict[str, Tensor], Settings, Progress]:
    """Give what a training has come to: averaged weights, its settings, and how far it is.

    Raises
    ------
    MissingInputError
        There is no checkpoint.
    """
    if not (folder / NAME).exists():
        raise MissingInputError(f"there is no checkpoint in {folder}; train first")
    tensors, texts = _read(folder)
    settings = Settings.model_validate_json(texts["settings"])
    return _below(tensors, "average/"), settings, Progress(**json.loads(texts["progress"]))


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    with safe_open(folder / NAME, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
