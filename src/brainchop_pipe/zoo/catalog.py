"""The models that a name can mean: the cards that the package ships, and a user's own."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from brainchop_pipe.errors import UsageError
from brainchop_pipe.inference.card import ModelCard, read_card


@dataclass(frozen=True)
class Model:
    """A card, the folder that it stands in, and the name or path by which it was asked for."""

    card: ModelCard
    folder: Path
    asked_as: str


def shipped_models() -> dict[str, Model]:
    """Read the cards that the package ships, by name, in alphabetical order."""
    folder = Path(str(resources.files("brainchop_pipe.models")))
    cards = (read_card(path) for path in sorted(folder.glob("*.json")))
    return {card.name: Model(card, folder, card.name) for card in cards}


def find_model(name: str) -> Model:
    """Find a model by the name of a shipped card, or by the path of any card.

    Parameters
    ----------
    name : str
        A path where it ends in ``.json``.

    Raises
    ------
    UsageError
        No card has this name; the message lists those there are.
    """
    if name.endswith(".json"):
        path = Path(name)
        return Model(read_card(path), path.parent, name)
    models = shipped_models()
    if name not in models:
        raise UsageError(
            f"there is no model {name!r}; there are {', '.join(models)}, or the path of a card (.json)"
        )
    return models[name]


def absolute_names(names: Iterable[str]) -> tuple[str, ...]:
    """Make the paths of cards absolute: engines work in folders of their own."""
    return tuple(str(Path(name).resolve()) if name.endswith(".json") else name for name in names)


def find_models(names: tuple[str, ...]) -> tuple[Model, ...]:
    """Find several models, and refuse two that share a name or would write the same files."""
    models = tuple(find_model(name) for name in dict.fromkeys(names))
    for key in ("name", "bids_label"):
        values = [getattr(model.card, key) for model in models]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UsageError(f"two of the models have the {key} {twice!r}; give one of them another")
    return models
