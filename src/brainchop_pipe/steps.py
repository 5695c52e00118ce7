"""The steps from an image to its maps, for arrays in memory; `file_steps` has them file to file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from brainchop_pipe.core.bias import correct_bias
from brainchop_pipe.core.conform import Conformed, conform, restore_labels, restore_probability
from brainchop_pipe.core.grid import Grid, Volume, canonical_grid
from brainchop_pipe.core.intensity import scale_by_level, white_matter_level
from brainchop_pipe.core.tissue import TissueMaps, csf_probability, tissue_maps
from brainchop_pipe.errors import InputError
from brainchop_pipe.headers import AffineChoice
from brainchop_pipe.images import Image, read_image
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.predict import Prediction, post_filter, predict
from brainchop_pipe.record import Clock, StepRecord, peak_memory_mb, utc_now
from brainchop_pipe.settings import Orientation, Processing
from brainchop_pipe.zoo.catalog import Model

# Share of grey and white matter in the mask. In adults CSF takes 15 to 35 %, in severe
# atrophy nearly half; below the first figure the tissue model did not see the brain.
_FAILED_TISSUE_SHARE = 0.4
_LOW_TISSUE_SHARE = 0.6

_WHOLE = "the whole head as it is; look at the result"


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image that is ready for any number of models."""

    image: Image
    conformed: Conformed

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the image and of its way onto the models' grid."""
        return self.image.notes + self.conformed.notes


@dataclass(frozen=True)
class ReadyModel:
    """A model and its ONNX file."""

    model: Model
    content: bytes

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.model.card


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Maps on the output's grid, and how they came about.

    Parameters
    ----------
    grid : Grid
    maps : dict
        Arrays of the grid's shape: "labels"; or "mask", "dseg" (uint8), "GM", "WM",
        "CSF" (float32, 0 to 1).
    record : StepRecord
        Without what is known of the input.
    """

    grid: Grid
    maps: dict[str, np.ndarray]
    record: StepRecord


@dataclass(frozen=True, eq=False)
class Brain:
    """A brain without its head, evenly lit, in a scale of its own.

    Parameters
    ----------
    mask : Volume
        uint8: 255 within the brain, else 0.
    scaled : float32, shape of the mask, 0 to 1
        0 outside of the mask.
    white_matter : float
        Its grey level in the conformed image, after the bias correction.
    """

    mask: Volume
    scaled: np.ndarray
    white_matter: float


def output_grid(grid: Grid, orientation: Orientation) -> Grid:
    """Give the grid that an image's outputs lie on: its voxels, RAS+ or in the file's order."""
    return canonical_grid(grid) if orientation == "ras" else grid


def prepare(path: Path, prefer_affine: AffineChoice | None = None) -> Prepared:
    """Read an image and conform it, once for all models."""
    image = read_image(path, prefer_affine)
    try:
        return Prepared(image, conform(image.volume))
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


def segment_labels(conformed: Volume, grid: Grid, ready: ReadyModel, processing: Processing) -> Segmentation:
    """Run one model, and bring its label map onto the output's grid.

    Parameters
    ----------
    conformed : Volume
        See `conform`.
    grid : Grid
        The output's.
    ready : ReadyModel
    processing : Processing

    Raises
    ------
    InputError
        The model finds nothing at all.
    """
    clock = Clock()
    name = ready.card.name
    with clock.stage(f"infer {name}"):
        prediction = run_model(conformed, ready, processing)
    with clock.stage(f"write {name}"):
        labels = restore_labels(prediction.labels, grid, processing.label_interpolation)
        volumes = _volumes_mm3(prediction.labels)
    parameters = _without(processing, "Prepare")
    record = _record(clock, {name: prediction}, volumes, parameters)
    return Segmentation(grid, {"labels": labels}, record)


def segment_tissues(
    conformed: Volume, grid: Grid, mask_model: ReadyModel, tissue_model: ReadyModel, processing: Processing
) -> Segmentation:
    """Run a mask and a tissue model, and combine them on the output's grid.

    Parameters
    ----------
    conformed : Volume
        See `conform`.
    grid : Grid
        The output's.
    mask_model, tissue_model : ReadyModel
        The second sees what its card asks for: the whole head, or the brain that the
        first finds, evenly lit.
    processing : Processing

    Raises
    ------
    InputError
        A model finds nothing, or hardly any tissue within the mask.
    """
    clock = Clock()
    with clock.stage(f"infer {mask_model.card.name}"):
        mask = run_model(conformed, mask_model, processing)
    brain: Brain | None = None
    notes: tuple[str, ...] = ()
    preparations: dict[str, str] = {}
    if wants_brain(tissue_model.model, processing):
        with clock.stage(f"prepare {tissue_model.card.name}"):
            brain, notes, preparations = _prepare_for(tissue_model.card, conformed, mask, mask_model.card)
    with clock.stage(f"infer {tissue_model.card.name}"):
        tissue = run_model(conformed, tissue_model, processing, brain)
    with clock.stage(f"write {tissue_model.card.name}"):
        probabilities = tissue_probabilities(mask, tissue, tissue_model.card)
        on_models_grid = tissue_maps(*(p.voxels for p in probabilities))
        notes += check_tissue_share(on_models_grid, tissue_model.card.name)
        maps = tissue_maps(*(restore_probability(p, grid) for p in probabilities))
        volumes = _volumes_mm3(Volume(on_models_grid.labels, mask.grid))
    gm, wm, csf = maps.probabilities
    contents = {"mask": maps.mask.astype(np.uint8), "dseg": maps.labels, "GM": gm, "WM": wm, "CSF": csf}
    predictions = {mask_model.card.name: mask, tissue_model.card.name: tissue}
    parameters = _without(processing, "LabelInterpolation")
    record = _record(clock, predictions, volumes, parameters, notes, preparations)
    return Segmentation(grid, contents, record)


def run_model(
    conformed: Volume, ready: ReadyModel, processing: Processing, brain: Brain | None = None
) -> Prediction:
    """Predict and post-filter; probabilities come with models of masks and tissues.

    Parameters
    ----------
    conformed : Volume
    ready : ReadyModel
    processing : Processing
    brain : Brain or None
        What the network is to see in place of the whole head.

    Raises
    ------
    InputError
        The model finds nothing at all.
    """
    card = ready.card
    prediction = predict(
        conformed if brain is None else brain.mask,
        ready.content,
        card,
        scaled=None if brain is None else brain.scaled,
        device=processing.device,
        threads=processing.threads,
        full_volume=processing.full_volume,
        with_probabilities=card.output.role != "regions",
    )
    if not prediction.labels.voxels.any():
        raise InputError(
            f"model {card.name!r} finds nothing in this image; is it a head, upright in its own "
            f"coordinates, in a contrast that the model knows ({', '.join(card.modalities)})?"
        )
    return post_filter(prediction, card)


def extract_brain(conformed: Volume, mask: Prediction, white_matter: float = 1.0) -> Brain | None:
    """Correct the bias field within a mask, and bring white matter to a level; what is above 1 is cut off.

    Returns
    -------
    Brain or None
        None where white matter makes no peak in the histogram: this is no T1w image,
        or the mask is wrong.
    """
    inside = mask.labels.voxels > 0
    corrected = correct_bias(conformed.voxels, inside)
    level = white_matter_level(corrected[inside])
    if level is None:
        return None
    shown = Volume(inside.astype(np.uint8) * 255, conformed.grid)
    return Brain(shown, scale_by_level(corrected, level / white_matter), level)


def wants_brain(model: Model, processing: Processing) -> bool:
    """Tell whether a model is to see the evenly lit brain only, where a mask is at hand."""
    return processing.prepare == "auto" and model.card.input.prepare == "brain"


def tissue_probabilities(mask: Prediction, tissue: Prediction, card: ModelCard) -> tuple[Volume, ...]:
    """Give the probabilities of brain, GM, WM and CSF on the models' grid.

    Parameters
    ----------
    mask, tissue : Prediction
        With probabilities, on the same grid.
    card : ModelCard
        Of the tissue model.
    """
    brain = mask.probability(1)
    gm = tissue.probability(*card.output.indices_of("GM"))
    wm = tissue.probability(*card.output.indices_of("WM"))
    # A CSF class of the tissue model is among what is neither.
    csf = csf_probability(brain.voxels, (1 - gm.voxels - wm.voxels).clip(0, 1))
    return brain, gm, wm, Volume(csf, mask.grid)


def check_tissue_share(maps: TissueMaps, name: str) -> tuple[str, ...]:
    """Refuse tissue maps in which hardly any of the brain is tissue; note a share that is low.

    Raises
    ------
    InputError
        The tissue model failed on this image: the maps must not get a trusted name.
    """
    share = maps.tissue_share
    found = f"{name} finds grey or white matter in only {share:.0%} of the brain mask (65 to 85 % are usual)"
    if share < _FAILED_TISSUE_SHARE:
        raise InputError(
            f"{found}, so it failed on this image, and its maps were not written; try another tissue "
            "model, or correct the intensities first (bias field)"
        )
    return (f"{found}; look at the result.",) if share < _LOW_TISSUE_SHARE else ()


def _record(
    clock: Clock,
    predictions: dict[str, Prediction],
    volumes_mm3: dict[str, float],
    parameters: dict[str, Any],
    notes: tuple[str, ...] = (),
    preparations: dict[str, str] | None = None,
) -> StepRecord:
    return StepRecord(
        digests=None,
        executions={name: prediction.execution for name, prediction in predictions.items()},
        parameters=parameters,
        preparations=preparations or {},
        volumes_mm3=volumes_mm3,
        seconds=clock.seconds,
        notes=notes,
        started=clock.started,
        ended=utc_now(),
        peak_memory_mb=peak_memory_mb(),
    )


def _prepare_for(
    card: ModelCard, conformed: Volume, mask: Prediction, mask_card: ModelCard
) -> tuple[Brain | None, tuple[str, ...], dict[str, str]]:
    """Give what a model is to see in place of the head, notes, and what was done, by the model's name."""
    brain = extract_brain(conformed, mask, card.input.white_matter)
    if brain is None:
        return None, (f"White matter makes no peak within the mask, so {card.name} saw {_WHOLE}.",), {}
    done = (
        f"mask of {mask_card.name}, N4 bias correction within it, white matter (grey level "
        f"{brain.white_matter:.1f} of the conformed image) scaled to {card.input.white_matter}"
    )
    return brain, (), {card.name: done}


def _without(processing: Processing, name: str) -> dict[str, Any]:
    """Give the parameters that decide a result, but for one that the step does not have."""
    return {key: value for key, value in processing.parameters().items() if key != name}


def _volumes_mm3(labels: Volume) -> dict[str, float]:
    """Volume by label index, counted on the models' grid; background left out."""
    counts = np.bincount(labels.voxels.ravel())
    voxel = labels.grid.voxel_volume_mm3
    return {str(i): round(float(n * voxel), 1) for i, n in enumerate(counts) if i and n}
