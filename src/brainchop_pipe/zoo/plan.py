"""Which models of a run work together: who makes the mask, who sees it, who owns the tissue maps."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast

from brainchop_pipe.errors import UsageError
from brainchop_pipe.inference.card import ModelCard, Tissue
from brainchop_pipe.inference.card_input import Preparing
from brainchop_pipe.zoo.catalog import Model, find_model, find_models

# Finds the brain for models that see it alone, where the run has no mask model of its own.
DEFAULT_MASK_MODEL = "brainchop_any"

# In place of the model that owns the tissue maps: none does, each model makes a label map.
NO_TISSUE_MODEL = "none"


@dataclass(frozen=True)
class Plan:
    """What is to be done for an image.

    Parameters
    ----------
    pair : tuple of Model
        Mask and tissue model that make the tissue maps together, which may be one and the
        same; empty if there are none.
    singles : tuple of Model
        The others, each of which makes a label map.
    mask_model : Model or None
        Which one finds the brain; None where nobody needs it.
    correct : bool
        Whether somebody is to see the brain evenly lit.
    with_brain : tuple of Model
        Those of `singles` that need what the mask model finds.
    contrast_model : Model or None
        Which one tells tissues apart, for their contrast in the evenly lit brain; None where
        nobody needs that.
    with_contrast : tuple of Model
        Those, of a pair and of `singles`, whose cards name a contrast to bring the brain to.
    """

    pair: tuple[Model, ...]
    singles: tuple[Model, ...]
    mask_model: Model | None
    correct: bool
    with_brain: tuple[Model, ...]
    contrast_model: Model | None = None
    with_contrast: tuple[Model, ...] = ()

    @property
    def makes_brain(self) -> tuple[Model, ...]:
        """The models that run for the brain, and for its contrast."""
        return tuple(model for model in (self.mask_model, self.contrast_model) if model is not None)

    @property
    def finds_brain_with_tissues(self) -> bool:
        """Whether one model finds brain and tissues, and nobody else needs the brain: it runs once."""
        return bool(self.pair) and self.pair[0] is self.pair[1] and not self.with_brain


def plan_names(
    names: Iterable[str], tissue_model: str | None, prepare: str, mask_model: str | None = None
) -> Plan:
    """Decide what is to be done for an image, as `plan_models` does, by the names of models.

    Raises
    ------
    UsageError
        A model is not there, or see `check_tissue_model` and `check_mask_model`.
    """
    models = find_models(tuple(names))
    if tissue_model != NO_TISSUE_MODEL:
        check_tissue_model(models, tissue_model)
    return plan_models(models, tissue_model, prepare, mask_model)


def plan_models(
    models: tuple[Model, ...], tissue_model: str | None, prepare: str, mask_model: str | None = None
) -> Plan:
    """Decide what is to be done for an image.

    Parameters
    ----------
    models : tuple of Model
        Those that may run on the image.
    tissue_model : str or None
        Name of the one that owns the tissue maps; None: the first that can;
        `NO_TISSUE_MODEL`: none. Without a mask model beside it there are no tissue maps.
    prepare : {"auto", "none", "head", "mask", "brain"}
    mask_model : str or None
        Which one finds the brain where no pair does; None: the first of `models` that
        can, else `DEFAULT_MASK_MODEL`.

    Raises
    ------
    UsageError
        See `check_mask_model`.
    """
    pair = _pair(models, tissue_model)
    singles = tuple(m for m in models if m not in pair)
    ways = {m.card.name: preparing_of(m.card, prepare, in_pair=m in pair) for m in (*pair, *singles)}
    if not pair and not any(map(needs_brain, ways.values())):
        return Plan(pair, singles, None, False, ())
    can = (m.asked_as for m in models if is_mask_model(m.card))
    finds_brain = pair[0] if pair else find_model(mask_model or next(can, DEFAULT_MASK_MODEL))
    check_mask_model(finds_brain.card)
    with_brain = tuple(
        m for m in singles if needs_brain(ways[m.card.name]) or m.card.name == finds_brain.card.name
    )
    with_contrast = tuple(
        m for m in (*pair, *singles) if m.card.input.contrast and ways[m.card.name] == "brain"
    )
    contrast_model = contrast_model_of(finds_brain) if with_contrast else None
    correct = "brain" in ways.values()
    return Plan(pair, singles, finds_brain, correct, with_brain, contrast_model, with_contrast)


def contrast_model_of(mask_model: Model) -> Model:
    """Choose the model that tells tissues apart, for their contrast: the mask model if it can."""
    return mask_model if tells_tissues(mask_model.card) else find_model(DEFAULT_MASK_MODEL)


def preparing_of(card: ModelCard, prepare: str, *, in_pair: bool = False) -> Preparing:
    """Give what a model is to see, in a run that overrides what its card asks for, or does not ("auto").

    A mask model that includes CSF always sees a whole head: it makes the mask. A model
    that is not used to white matter at 1 is shown the masked head where the brain is asked
    for.
    """
    given = card.input
    if is_mask_model(card):
        asked = given.prepare if prepare in ("auto", "mask", "brain") else cast(Preparing, prepare)
        return "none" if needs_brain(asked) else asked
    if prepare == "auto":
        return given.prepare if in_pair or given.prepare_alone is None else given.prepare_alone
    from_0_to_1 = given.intensity.method in ("quantile", "minmax") and given.dtype.startswith("float")
    takes_brain = given.prepare == "brain" or (from_0_to_1 and not given.contrasts)
    return "mask" if prepare == "brain" and not takes_brain else cast(Preparing, prepare)


def needs_brain(way: Preparing) -> bool:
    """Tell whether what a model is to see is made of a brain mask."""
    return way in ("mask", "brain")


def is_mask_model(card: ModelCard) -> bool:
    """Tell whether a model finds the brain with the CSF around it."""
    return card.output.finds_brain


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


def tells_tissues(card: ModelCard) -> bool:
    """Tell whether a model's labels are fit to measure the contrast of CSF, grey and white matter in.

    Not those on a grid of its own: the sharpness that is measured at borders depends on how
    finely these were drawn.
    """
    tissues: tuple[Tissue, ...] = ("CSF", "GM", "WM")
    return card.input.grid.is_conformed and all(map(card.output.indices_of, tissues))


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
    if not _pair(models, tissue_model):
        tissues = [m.card.name for m in models if m.card.output.role == "tissue"]
        raise UsageError(
            f"--tissue-model {tissue_model} cannot own the tissue maps: it must be one of the run's tissue "
            f"models ({', '.join(tissues) or 'there is none'}), and the run needs a mask model that "
            f"includes CSF, such as {DEFAULT_MASK_MODEL}"
        )


def _pair(models: tuple[Model, ...], tissue_model: str | None) -> tuple[Model, ...]:
    """Give the mask and the tissue model that make the tissue maps together; empty where there are none.

    A tissue model that finds the brain is both.
    """
    mask = next((m for m in models if is_mask_model(m.card)), None)
    tissue = next(
        (
            m
            for m in models
            if m.card.output.role == "tissue"
            and tissue_model in (None, m.card.name, m.card.bids_label, m.asked_as)
        ),
        None,
    )
    return () if mask is None or tissue is None else (mask, tissue)
