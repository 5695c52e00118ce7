"""The steps from a head to its brain, for arrays in memory: by a mask model, or a mask that was given."""

from dataclasses import replace
from functools import partial

from brainchop_pipe.brain import (
    Brain,
    FindTissues,
    Tissues,
    brain_of_mask,
    brain_of_prediction,
    run_of,
    tissues_of_prediction,
)
from brainchop_pipe.core.grid import Volume
from brainchop_pipe.errors import InputError
from brainchop_pipe.record import Clock
from brainchop_pipe.settings import Processing
from brainchop_pipe.steps import ReadyModel, load_model, on_models_grid, run_model
from brainchop_pipe.zoo.catalog import Model
from brainchop_pipe.zoo.plan import check_mask_model


def find_brain(
    conformed: Volume,
    mask_model: ReadyModel,
    processing: Processing,
    *,
    correct: bool,
    contrast_model: Model | None = None,
) -> Brain:
    """Find the brain with a mask model, and even it out.

    Parameters
    ----------
    conformed : Volume
        See `conform`.
    mask_model : ReadyModel
    processing : Processing
    correct : bool
        See `brain_of_prediction`.
    contrast_model : Model or None
        Tells tissues apart, for their contrast in the corrected image: see `contrast_model_of`.
        None: the contrast is not measured.

    Raises
    ------
    InputError
        The mask model finds nothing at all.
    UsageError
        It is no mask model that includes CSF.
    """
    check_mask_model(mask_model.card)
    clock = Clock()
    card = mask_model.card
    wanted = card.input.grid
    head = conformed if wanted.is_conformed else on_models_grid(wanted, conformed, conformed)
    mask, shown = run_model((head,), mask_model, processing, None, clock, with_probabilities=True)
    if contrast_model is not None and contrast_model.card == card:
        find_tissues: FindTissues | None = partial(tissues_of_prediction, mask, card)
    else:
        find_tissues = _finder(contrast_model, conformed, processing, clock)
    return brain_of_prediction(
        conformed, mask, shown.preparation, card, clock, correct=correct, find_tissues=find_tissues
    )


def take_brain(
    conformed: Volume,
    mask: Volume,
    sha256: str,
    processing: Processing,
    *,
    correct: bool,
    contrast_model: Model | None = None,
) -> Brain:
    """Take a mask that somebody gave for the brain, and even that out; else as `find_brain`.

    Parameters
    ----------
    mask, sha256
        See `brain_of_mask`.
    """
    clock = Clock()
    find_tissues = _finder(contrast_model, conformed, processing, clock)
    return brain_of_mask(conformed, mask, sha256, clock, correct=correct, find_tissues=find_tissues)


def _finder(
    contrast_model: Model | None, conformed: Volume, processing: Processing, clock: Clock
) -> FindTissues | None:
    """Give what runs a model to tell tissues apart; None for no model."""
    if contrast_model is None:
        return None
    return partial(_find_tissues, contrast_model, conformed, processing, clock)


def _find_tissues(
    contrast_model: Model, conformed: Volume, processing: Processing, clock: Clock
) -> Tissues | None:
    """Tell tissues apart for their contrast; None where nothing is found."""
    ready = load_model(contrast_model.asked_as)
    usual = replace(processing, prepare="auto", full_volume=False)
    try:
        found, shown = run_model((conformed,), ready, usual, None, clock)
    except InputError:
        return None
    tissues = tissues_of_prediction(found, ready.card)
    return tissues._replace(run=run_of(found, shown.preparation, ready.card))
