"""What a model gets to see: the whole head, or the brain alone, as it is or evenly lit."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from brainchop_pipe.core.bias import correct_bias, even_out_head
from brainchop_pipe.core.components import largest_component
from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.intensity import scale_by_level, white_matter_level
from brainchop_pipe.core.quality import border_share, is_plausible_brain, looks_upside_down
from brainchop_pipe.core.resample import Box, resample_linear, support_box
from brainchop_pipe.core.tiles import full_box
from brainchop_pipe.errors import InputError
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.card_input import Preparing
from brainchop_pipe.inference.predict import Prediction
from brainchop_pipe.inference.view import View, as_channels, crop_box, scaled, view_of
from brainchop_pipe.record import EVEN_HEAD, NOISE_CLEARED, BrainRecord, Clock

_BRAIN_ABOVE = 0.5

# Share of a mask's surface that lies on the border of the field of view: of a brain that was cut
# below the vertex a few per cent, of a mask that is none far more.
_IMPLAUSIBLE_BORDER_SHARE = 0.2

# Of a brain mask's probabilities only those near the brain are kept; beyond, they are 0.
_MARGIN_VOXELS = 4

_WHOLE = "saw the whole head as it is; look at the result"


@dataclass(frozen=True, eq=False)
class Brain:
    """A brain mask on the models' grid, and the image within it.

    Parameters
    ----------
    probability : Volume
        float32, 0 to 1.
    corrected : Volume
        float32: the conformed image within the mask, 0 outside, in its grey levels; the
        bias field is corrected where the record says so.
    record : BrainRecord
    """

    probability: Volume
    corrected: Volume
    record: BrainRecord

    @property
    def inside(self) -> np.ndarray:
        """Whether each voxel is brain."""
        return np.asarray(self.probability.voxels > _BRAIN_ABOVE)


class Shown(NamedTuple):
    """How that was prepared which a model saw, and what a user should know of it."""

    preparation: str = ""
    notes: tuple[str, ...] = ()


class Seen(NamedTuple):
    """What a model gets to see."""

    view: View
    shown: Shown = Shown()


def brain_of_prediction(
    conformed: Volume, mask: Prediction, shown: Shown, card: ModelCard, clock: Clock, *, correct: bool
) -> Brain:
    """Make a brain of what a mask model says.

    Parameters
    ----------
    conformed : Volume
    mask : Prediction
        With probabilities, on the grid of its model; all labels but the first are brain.
    shown : Shown
        What the mask model saw.
    card : ModelCard
        Of the mask model.
    clock : Clock
        Gets the time of the correction.
    correct : bool
        Correct the bias field within the mask, and look for white matter.
    """
    probability = mask.probability(*range(1, len(card.output.labels)))
    voxels = on_grid(probability, conformed.grid)
    if card.output.role == "tissue" and card.post_filter.largest_component:
        # Brain that is of no tissue for sure has no label, and was not filtered.
        inside = voxels > _BRAIN_ABOVE
        voxels[inside & ~largest_component(inside)] = 0
    return _brain(
        conformed,
        Volume(voxels, conformed.grid),
        clock,
        correct=correct,
        mask_model=card.name,
        mask_sha256=None,
        execution=mask.execution,
        field_of_view=mask.field_of_view.description,
        preparation=shown.preparation,
        removed_components=mask.removed_components,
    )


def brain_of_mask(conformed: Volume, mask: Volume, sha256: str, clock: Clock, *, correct: bool) -> Brain:
    """Make a brain of a mask that somebody gave; parameters as in `brain_of_prediction`.

    Parameters
    ----------
    mask : Volume
        On any grid in the image's world; above 0 is brain.
    sha256 : str
        Of its file.

    Raises
    ------
    InputError
        The mask is empty, or lies elsewhere.
    """
    inside = Volume((mask.voxels > 0).astype(np.float32), mask.grid)
    probability = Volume(resample_linear(inside, conformed.grid), conformed.grid)
    if not (probability.voxels > _BRAIN_ABOVE).any():
        raise InputError(
            "the mask that was given has no voxel in the image's place in the world; give one of this image, "
            "with its affine, in which brain is above 0"
        )
    return _brain(
        conformed,
        probability,
        clock,
        correct=correct,
        mask_model=None,
        mask_sha256=sha256,
        execution=None,
        field_of_view="",
        preparation="",
        removed_components=0,
    )


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
    grid, record = heads[0].grid, brain.record
    doubt = ""
    if not record.usable:
        doubt = "the brain mask looks wrong"
    elif way == "brain" and record.white_matter is None:
        doubt = "white matter makes no peak within the mask"
    if doubt:
        whole = view_of(heads, card, full_volume=full_volume)
        return Seen(whole, Shown(notes=(f"{card.name} {_WHOLE}: {doubt}.",)))
    inside = on_grid(Volume(brain.inside.astype(np.float32), brain.probability.grid), grid) > _BRAIN_ABOVE
    box = crop_box(inside.astype(np.uint8) * 255, card, full_volume=full_volume)
    if way == "mask" or record.white_matter is None:
        shown = [scaled(head.voxels * inside, card.input.intensity, box) for head in heads]
        return Seen(View(as_channels(shown), grid, box), Shown(f"{record.origin}, the rest set to 0"))
    level = record.white_matter / card.input.white_matter
    evenly_lit = scale_by_level(on_grid(brain.corrected, grid)[box], level)
    done = (
        f"{record.origin}, N4 bias correction within it, white matter (grey level "
        f"{record.white_matter:.1f} of the conformed image) scaled to {card.input.white_matter}"
    )
    return Seen(View(evenly_lit[np.newaxis], grid, box), Shown(done))


def _heads_evenly_lit(heads: tuple[Volume, ...], card: ModelCard, *, full_volume: bool) -> Seen:
    """Show whole heads with their bias fields corrected, and say whether noise was taken off."""
    even = [even_out_head(head) for head in heads]
    view = view_of(tuple(head.image for head in even), card, full_volume=full_volume)
    cleared = NOISE_CLEARED if any(head.is_cleared for head in even) else ""
    return Seen(view, Shown(EVEN_HEAD + cleared))


def _brain(conformed: Volume, probability: Volume, clock: Clock, *, correct: bool, **known: object) -> Brain:
    """Correct the image within a mask, and find its white matter."""
    inside = probability.voxels > _BRAIN_ABOVE
    doubts = _doubts(conformed, inside)
    level: float | None = None
    corrected = np.asarray(conformed.voxels * inside, np.float32)
    with clock.stage("prepare brain"):
        if correct and not doubts:
            corrected = correct_bias(conformed.voxels, inside)
            level = white_matter_level(corrected[inside])
    record = BrainRecord.model_validate(
        {
            **known,
            "corrected": correct and not doubts,
            "white_matter": level,
            "usable": not doubts,
            "volume_mm3": float(np.count_nonzero(inside) * conformed.grid.voxel_volume_mm3),
            "upside_down": looks_upside_down(conformed, inside),
            "seconds": clock.seconds,
            "notes": doubts,
        }
    )
    return Brain(probability, Volume(corrected, conformed.grid), record)


def _doubts(conformed: Volume, inside: np.ndarray) -> tuple[str, ...]:
    """Say why a mask cannot be that of a human brain; empty where it can."""
    volume = float(np.count_nonzero(inside) * conformed.grid.voxel_volume_mm3)
    share = border_share(inside[_scanned_box(conformed.voxels)], conformed.grid.spacing_mm)
    if not is_plausible_brain(volume):
        found = f"has {volume / 1000:.0f} mL"
    elif share > _IMPLAUSIBLE_BORDER_SHARE:
        found = f"has {share:.0%} of its surface on the border of the field of view"
    else:
        return ()
    return (f"The brain mask {found}, so no model was shown what lies within it alone; look at the mask.",)


def _scanned_box(voxels: np.ndarray) -> Box:
    """Give the box of what was scanned: beyond it a conformed image is 0."""
    box = support_box(voxels) or full_box(voxels.shape)
    i, j, k = (
        slice(s.start + (s.start > 0), s.stop - (s.stop < n)) for s, n in zip(box, voxels.shape, strict=True)
    )
    return i, j, k


def box_of_brain(probability: Volume) -> Box:
    """Give the box of the brain and what is near it; a single voxel where there is none."""
    box = support_box(probability.voxels > _BRAIN_ABOVE) or full_box((1, 1, 1))
    i, j, k = (
        slice(max(s.start - _MARGIN_VOXELS, 0), min(s.stop + _MARGIN_VOXELS, n))
        for s, n in zip(box, probability.grid.shape, strict=True)
    )
    return i, j, k


def on_grid(volume: Volume, grid: Grid) -> np.ndarray:
    """Give a volume's voxels on a grid: the very same ones where it is its own."""
    return volume.voxels if grid.matches(volume.grid) else resample_linear(volume, grid)
