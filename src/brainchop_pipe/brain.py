"""The brain in a head: its mask, and what lies within it evenly lit."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from brainchop_pipe.core.bias import correct_bias
from brainchop_pipe.core.components import largest_component
from brainchop_pipe.core.contrast import TissueContrast, measure_contrast
from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.intensity import white_matter_level
from brainchop_pipe.core.quality import border_share, is_plausible_brain, looks_upside_down
from brainchop_pipe.core.resample import Box, resample_linear, support_box
from brainchop_pipe.core.tiles import full_box
from brainchop_pipe.core.tissue import CSF, GM, WM
from brainchop_pipe.errors import InputError
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.predict import Prediction
from brainchop_pipe.record import BrainRecord, Clock, ModelRun

BRAIN_ABOVE = 0.5

# Share of a mask's surface that lies on the border of the field of view: of a brain that was cut
# below the vertex a few per cent, of a mask that is none far more.
_IMPLAUSIBLE_BORDER_SHARE = 0.2

# Of a brain mask's probabilities only those near the brain are kept; beyond, they are 0.
_MARGIN_VOXELS = 4


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
        return np.asarray(self.probability.voxels > BRAIN_ABOVE)


class Tissues(NamedTuple):
    """Which tissue each voxel is, and who says so.

    Parameters
    ----------
    labels : ndarray of uint8
        On the conformed grid; 1 = GM, 2 = WM, 3 = CSF.
    origin : str
        Whose labels they are, for people.
    run : ModelRun or None
        Of the model, where it ran for them alone.
    """

    labels: np.ndarray
    origin: str
    run: ModelRun | None = None


FindTissues = Callable[[], Tissues | None]


def tissues_of_prediction(prediction: Prediction, card: ModelCard) -> Tissues:
    """Give the tissues that a model told apart which tells all three, on the conformed grid."""
    output = card.output
    tissues = {GM: output.indices_of("GM"), WM: output.indices_of("WM"), CSF: output.indices_of("CSF")}
    table = np.zeros(len(output.labels), np.uint8)
    for label, indices in tissues.items():
        table[list(indices)] = label
    return Tissues(table[prediction.labels.voxels], f"labels of {card.name} {card.version}")


def run_of(prediction: Prediction, preparation: str, card: ModelCard) -> ModelRun:
    """Describe the run of a model that others build on."""
    return ModelRun(
        model=card.name,
        execution=prediction.execution,
        field_of_view=prediction.field_of_view.description,
        preparation=preparation,
    )


def brain_of_prediction(
    conformed: Volume,
    mask: Prediction,
    preparation: str,
    card: ModelCard,
    clock: Clock,
    *,
    correct: bool,
    find_tissues: FindTissues | None = None,
) -> Brain:
    """Make a brain of what a mask model says.

    Parameters
    ----------
    conformed : Volume
    mask : Prediction
        With probabilities, on the grid of its model; all labels but the first are brain.
    preparation : str
        What was done to the mask model's input before.
    card : ModelCard
        Of the mask model.
    clock : Clock
        Gets the time of the correction.
    correct : bool
        Correct the bias field within the mask, and look for white matter.
    find_tissues : callable or None
        Gives the tissues, for their contrast in the corrected image, or None where there are
        none; called only where they are needed. None: the contrast is not measured.
    """
    probability = mask.probability(*range(1, len(card.output.labels)))
    voxels = on_grid(probability, conformed.grid)
    if card.output.role == "tissue" and card.post_filter.largest_component:
        # Brain that is of no tissue for sure has no label, and was not filtered.
        inside = voxels > BRAIN_ABOVE
        voxels[inside & ~largest_component(inside)] = 0
    return _brain(
        conformed,
        Volume(voxels, conformed.grid),
        clock,
        correct=correct,
        find_tissues=find_tissues,
        mask_run=run_of(mask, preparation, card),
        mask_sha256=None,
        removed_components=mask.removed_components,
    )


def brain_of_mask(
    conformed: Volume,
    mask: Volume,
    sha256: str,
    clock: Clock,
    *,
    correct: bool,
    find_tissues: FindTissues | None,
) -> Brain:
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
    if not (probability.voxels > BRAIN_ABOVE).any():
        raise InputError(
            "the mask that was given has no voxel in the image's place in the world; give one of this image, "
            "with its affine, in which brain is above 0"
        )
    return _brain(
        conformed,
        probability,
        clock,
        correct=correct,
        find_tissues=find_tissues,
        mask_run=None,
        mask_sha256=sha256,
        removed_components=0,
    )


def _brain(
    conformed: Volume,
    probability: Volume,
    clock: Clock,
    *,
    correct: bool,
    find_tissues: FindTissues | None,
    **known: object,
) -> Brain:
    """Correct the image within a mask, find its white matter, and measure its contrast."""
    inside = probability.voxels > BRAIN_ABOVE
    doubts = _doubts(conformed, inside)
    level: float | None = None
    contrast: TissueContrast | None = None
    corrected = np.asarray(conformed.voxels * inside, np.float32)
    tissues = find_tissues() if find_tissues and correct and not doubts else None
    with clock.stage("prepare brain"):
        if correct and not doubts:
            corrected = correct_bias(conformed.voxels, inside)
            level = white_matter_level(corrected[inside])
            if tissues is not None:
                contrast = measure_contrast(corrected, inside, tissues.labels)
    record = BrainRecord.model_validate(
        {
            **known,
            "corrected": correct and not doubts,
            "white_matter": level,
            "contrast": contrast,
            "contrast_origin": tissues.origin if tissues and contrast else "",
            "contrast_run": tissues.run if tissues else None,
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
    box = support_box(probability.voxels > BRAIN_ABOVE) or full_box((1, 1, 1))
    i, j, k = (
        slice(max(s.start - _MARGIN_VOXELS, 0), min(s.stop + _MARGIN_VOXELS, n))
        for s, n in zip(box, probability.grid.shape, strict=True)
    )
    return i, j, k


def on_grid(volume: Volume, grid: Grid) -> np.ndarray:
    """Give a volume's voxels on a grid: the very same ones where it is its own."""
    return volume.voxels if grid.matches(volume.grid) else resample_linear(volume, grid)
