"""What a model gets to see: the whole head, or the brain alone, as it is or evenly lit."""

from typing import NamedTuple

import numpy as np

from brainchop_pipe.brain import BRAIN_ABOVE, Brain, on_grid
from brainchop_pipe.core.bias import even_out_head
from brainchop_pipe.core.contrast import Contrast, TissueContrast, bring_to, change_to
from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.intensity import scale_by_level
from brainchop_pipe.core.resample import Box
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.card_input import Preparing
from brainchop_pipe.inference.view import View, as_channels, crop_box, scaled, view_of
from brainchop_pipe.record import EVEN_HEAD, NOISE_CLEARED, TISSUES_BROUGHT, BrainRecord

_WHOLE = "saw the whole head as it is; look at the result"

_WHITE_MATTER_ALONE = (
    "saw a brain of which white matter alone was brought to its level, since its three tissues could not be "
    "told apart, or do not get brighter from CSF over grey to white matter; its volumes depend more on the "
    "image's contrast and sharpness so."
)


class Shown(NamedTuple):
    """How that was prepared which a model saw, and what a user should know of it."""

    preparation: str = ""
    notes: tuple[str, ...] = ()


class Seen(NamedTuple):
    """What a model gets to see."""

    view: View
    shown: Shown = Shown()


def what_model_sees(
    heads: tuple[Volume, ...], card: ModelCard, way: Preparing, brain: Brain | None, *, full_volume: bool
) -> Seen:
    """Give what a model gets to see.

    Parameters
    ----------
    heads : tuple of Volume
        One a channel, on the model's grid.
    card : ModelCard
    way : {"none", "head", "mask", "brain"}
        See `Input.prepare` of a card.
    brain : Brain or None
        Needed for "mask" and "brain".
    full_volume : bool
        No crop.

    Returns
    -------
    Seen
        The whole head, with a note, where the mask looks wrong, or white matter cannot
        be found.
    """
    if way == "head":
        return _heads_evenly_lit(heads, card, full_volume=full_volume)
    if way == "none" or brain is None:
        return Seen(view_of(heads, card, full_volume=full_volume))
    grid = heads[0].grid
    doubt = _doubt(brain.record, card, way)
    if doubt:
        whole = view_of(heads, card, full_volume=full_volume)
        return Seen(whole, Shown(notes=(f"{card.name} {_WHOLE}: {doubt}.",)))
    inside = on_grid(Volume(brain.inside.astype(np.float32), brain.probability.grid), grid) > BRAIN_ABOVE
    box = crop_box(inside.astype(np.uint8) * 255, card, full_volume=full_volume)
    if way == "mask":
        shown = [scaled(head.voxels * inside, card.input.intensity, box) for head in heads]
        return Seen(View(as_channels(shown), grid, box), Shown(f"{brain.record.origin}, the rest set to 0"))
    even, shown_as = _brain_evenly_lit(brain, card, grid, box)
    return Seen(View(even[np.newaxis], grid, box), shown_as)


def _doubt(record: BrainRecord, card: ModelCard, way: Preparing) -> str:
    """Say why a model must not be shown the brain alone; empty where it may."""
    if not record.usable:
        return "the brain mask looks wrong"
    knows_levels = record.contrast is not None and card.input.contrast is not None
    if way == "brain" and record.white_matter is None and not knows_levels:
        return "white matter makes no peak within the mask"
    return ""


def _brain_evenly_lit(brain: Brain, card: ModelCard, grid: Grid, box: Box) -> tuple[np.ndarray, Shown]:
    """Bring a brain to the contrast that a model is used to, or to its level of white matter alone.

    The image is that of a box of the model's grid.
    """
    record, wanted = brain.record, card.input.wanted_contrast
    done = f"{record.origin}, N4 bias correction within it"
    found = record.contrast
    if wanted is not None and found is not None:
        # On the grid on which the sharpness was measured.
        even = Volume(bring_to(brain.corrected.voxels, brain.inside, found, wanted), brain.corrected.grid)
        return on_grid(even, grid)[box], Shown(f"{done}, {_contrast_brought(record, found, wanted)}")
    level = record.white_matter or 1.0
    done += (
        f", white matter (grey level {level:.1f} of the conformed image) scaled to {card.input.white_matter}"
    )
    scaled_brain = scale_by_level(on_grid(brain.corrected, grid)[box], level / card.input.white_matter)
    notes = () if wanted is None else (f"{card.name} {_WHITE_MATTER_ALONE}",)
    return scaled_brain, Shown(done, notes)


def _contrast_brought(record: BrainRecord, found: TissueContrast, wanted: Contrast) -> str:
    """Say for people how a contrast was brought to another."""
    share, now, there = change_to(found, wanted)
    smoothed = (
        f"smoothed from sharpness {found.as_it_is.sharpness:.2f} to {now.sharpness:.2f}, " if share else ""
    )
    return (
        f"{smoothed}{TISSUES_BROUGHT} (grey levels {now.csf:.1f}, {now.grey_matter:.1f} and "
        f"{now.white_matter:.1f} of the conformed image; {record.contrast_origin}) brought to "
        f"{there.csf:.2g}, {there.grey_matter} and {there.white_matter}"
    )


def _heads_evenly_lit(heads: tuple[Volume, ...], card: ModelCard, *, full_volume: bool) -> Seen:
    """Show whole heads with their bias fields corrected, and say whether noise was taken off."""
    even = [even_out_head(head) for head in heads]
    view = view_of(tuple(head.image for head in even), card, full_volume=full_volume)
    cleared = NOISE_CLEARED if any(head.is_cleared for head in even) else ""
    return Seen(view, Shown(EVEN_HEAD + cleared))
