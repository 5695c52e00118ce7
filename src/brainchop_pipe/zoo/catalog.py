"""The models that a name can mean: the cards that the package ships, and a user's own."""

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from brainchop_pipe.errors import UsageError
from brainchop_pipe.inference.card import ModelCard, read_card

# In place of the model that owns the tissue maps: none does, each model makes a label map.
NO_TISSUE_MODEL = "none"


@dataclass(frozen=True)
class Model:
    """A card and the folder that it stands in."""

    card: ModelCard
    folder: Path


def shipped_models() -> dict[str, Model]:
    """Read the cards that the package ships, by name, in alphabetical order."""
    folder = Path(str(resources.files("brainchop_pipe.models")))
    models = (Model(read_card(path), folder) for path in sorted(folder.glob("*.json")))
    return {model.card.name: model for model in models}


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
        return Model(read_card(path), path.parent)
    models = shipped_models()
    if name not in models:
        raise UsageError(
            f"there is no model {name!r}; there are {', '.join(models)}, or the path of a card (.json)"
        )
    return models[name]


def group_models(models: tuple[Model, ...], tissue_model: str | None) -> tuple[tuple[Model, ...], ...]:
    """Decide which models make the tissue maps together, and which stand for themselves.

    Parameters
    ----------
    models : tuple of Model
    tissue_model : str or None
        Name of the one that owns the tissue maps; None: the first that can.

    Returns
    -------
    tuple of tuples of Model
        First the pair of mask and tissue model, where there is one, then the others alone.
    """
    mask = next((m for m in models if m.card.output.role == "mask" and m.card.output.includes_csf), None)
    tissue = next(
        (
            m
            for m in models
            if m.card.output.role == "tissue" and tissue_model in (None, m.card.name, m.card.bids_label)
        ),
        None,
    )
    if mask is None or tissue is None:
        return tuple((m,) for m in models)
    return ((mask, tissue), *((m,) for m in models if m not in (mask, tissue)))


def check_tissue_model(models: tuple[Model, ...], tissue_model: str | None) -> None:
    """Refuse an owner of the tissue maps that cannot be one.

    Raises
    ------
    UsageError
        The model is not among those of the run, is no tissue model, or has no mask
        model beside it.
    """
    if tissue_model is None:
        return
    if not any(len(group) == 2 for group in group_models(models, tissue_model)):
        tissues = [m.card.name for m in models if m.card.output.role == "tissue"]
        raise UsageError(
            f"--tissue-model {tissue_model} cannot own the tissue maps: it must be one of the run's tissue "
            f"models ({', '.join(tissues) or 'there is none'}), and the run needs a mask model that "
            "includes CSF, such as mindgrab"
        )


def group_names(names: Iterable[str], tissue_model: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Group models as `group_models` does, by the names that they were asked for with.

    Returns
    -------
    (tuple of str, tuple of str)
        The pair of mask and tissue model, empty if there is none, and the others.

    Raises
    ------
    UsageError
        See `check_tissue_model`.
    """
    unique = tuple(dict.fromkeys(names))
    if tissue_model in unique:
        tissue_model = find_model(str(tissue_model)).card.name
    models = find_models(unique)
    if tissue_model != NO_TISSUE_MODEL:
        check_tissue_model(models, tissue_model)
    groups = group_models(models, tissue_model)
    by_card = {m.card.name: name for m, name in zip(models, unique, strict=True)}
    named = [tuple(by_card[m.card.name] for m in group) for group in groups]
    pair = named[0] if named and len(named[0]) == 2 else ()
    return pair, tuple(group[0] for group in named if len(group) == 1)


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
