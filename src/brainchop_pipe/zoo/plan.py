"""Which models of a run work together: who makes the mask, who sees it, who owns the tissue maps."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from brainchop_pipe.errors import UsageError
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.card_input import Preparing
from brainchop_pipe.zoo.catalog import Model, find_model, find_models

# Finds the brain for models that see it alone, where the run has no mask model of its own.
DEFAULT_MASK_MODEL = "mindgrab"

# In place of the model that owns the tissue maps: none does, each model makes a label map.
NO_TISSUE_MODEL = "none"


@dataclass(frozen=True)
class Plan:
    """What is to be done for an image; models by the names that they were asked for with.

    Parameters
    ----------
    pair : tuple of str
        Mask and tissue model that make the tissue maps together; empty if there are none.
    singles : tuple of str
        The others, each of which makes a label map.
    mask_model : str or None
        Which one finds the brain; None where nobody needs it.
    correct : bool
        Whether somebody is to see the brain evenly lit.
    with_brain : tuple of str
        Those of `singles` that need what the mask model finds.
    """

    pair: tuple[str, ...]
    singles: tuple[str, ...]
    mask_model: str | None
    correct: bool
    with_brain: tuple[str, ...]


def plan_models(
    names: Iterable[str], tissue_model: str | None, prepare: str, mask_model: str | None = None
) -> Plan:
    """Decide what is to be done for an image.

    Parameters
    ----------
    names : iterable of str
        Names of shipped cards, or paths of cards.
    tissue_model : str or None
        Name of the one that owns the tissue maps; None: the first that can;
        `NO_TISSUE_MODEL`: none.
    prepare : {"auto", "none", "mask", "brain"}
    mask_model : str or None
        Which one finds the brain where no pair does; None: the first of `names` that can,
        else `DEFAULT_MASK_MODEL`.

    Raises
    ------
    UsageError
        See `check_tissue_model`.
    """
    names = tuple(names)
    pair, singles = group_names(names, tissue_model)
    cards = {name: find_model(name).card for name in (*pair, *singles)}
    ways = {name: preparing_of(card, prepare, in_pair=name in pair) for name, card in cards.items()}
    if not pair and set(ways.values()) <= {"none"}:
        return Plan(pair, singles, None, False, ())
    can = (name for name in names if name in cards and is_mask_model(cards[name]))
    mask_model = pair[0] if pair else mask_model or next(can, DEFAULT_MASK_MODEL)
    check_mask_model(find_model(mask_model).card)
    with_brain = tuple(name for name in singles if ways[name] != "none" or name == mask_model)
    return Plan(pair, singles, mask_model, "brain" in ways.values(), with_brain)


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
    mask = next((m for m in models if is_mask_model(m.card)), None)
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


def preparing_of(card: ModelCard, prepare: str, *, in_pair: bool = False) -> Preparing:
    """Give what a model is to see, in a run that overrides what its card asks for, or does not ("auto").

    A mask model that includes CSF always sees the whole head: it makes the mask. A model
    that is not used to white matter at 1 is shown the masked head where the brain is asked
    for.
    """
    if is_mask_model(card):
        return "none"
    given = card.input
    if prepare == "auto":
        return given.prepare if in_pair or given.prepare_alone is None else given.prepare_alone
    from_0_to_1 = given.intensity.method in ("quantile", "minmax") and given.dtype.startswith("float")
    takes_brain = given.prepare == "brain" or (from_0_to_1 and not given.contrasts)
    return "mask" if prepare == "brain" and not takes_brain else cast(Preparing, prepare)


def is_mask_model(card: ModelCard) -> bool:
    """Tell whether a model finds the brain with the CSF around it."""
    return card.output.role == "mask" and card.output.includes_csf


def check_mask_model(card: ModelCard) -> None:
    """Refuse a model that does not find the brain with its CSF as the one that does.

    Raises
    ------
    UsageError
    """
    if not is_mask_model(card):
        raise UsageError(
            f"model {card.name!r} cannot find the brain for others: one that includes CSF is needed, "
            f"such as {DEFAULT_MASK_MODEL}"
        )


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
