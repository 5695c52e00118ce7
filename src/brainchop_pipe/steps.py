"""The steps from an image to its maps, for arrays in memory; `file_steps` has them file to file."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainchop_pipe.core.bias import correct_bias
from brainchop_pipe.core.conform import Conformed, conform, restore_labels, restore_probability
from brainchop_pipe.core.grid import Grid, Volume, canonical_grid
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
    record = _record(clock, {name: prediction}, volumes)
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
    with clock.stage(f"infer {tissue_model.card.name}"):
        tissue = run_model(conformed, tissue_model, processing, mask)
    with clock.stage(f"write {tissue_model.card.name}"):
        probabilities = tissue_probabilities(mask, tissue, tissue_model.card)
        on_models_grid = tissue_maps(*(p.voxels for p in probabilities))
        notes = check_tissue_share(on_models_grid, tissue_model.card.name)
        maps = tissue_maps(*(restore_probability(p, grid) for p in probabilities))
        volumes = _volumes_mm3(Volume(on_models_grid.labels, mask.grid))
    preparations = {}
    if wants_brain(tissue_model.model, processing):
        preparations[tissue_model.card.name] = f"mask of {mask_model.card.name}, N4 bias correction within it"
    gm, wm, csf = maps.probabilities
    contents = {"mask": maps.mask.astype(np.uint8), "dseg": maps.labels, "GM": gm, "WM": wm, "CSF": csf}
    predictions = {mask_model.card.name: mask, tissue_model.card.name: tissue}
    return Segmentation(grid, contents, _record(clock, predictions, volumes, notes, preparations))


def run_model(
    conformed: Volume, ready: ReadyModel, processing: Processing, mask: Prediction | None = None
) -> Prediction:
    """Predict and post-filter; probabilities come with models of masks and tissues.

    Parameters
    ----------
    conformed : Volume
    ready : ReadyModel
    processing : Processing
    mask : Prediction or None
        Brain mask: for models whose cards ask for it, what lies outside is set to 0 and
        the bias field within is corrected.

    Raises
    ------
    InputError
        The model finds nothing at all.
    """
    card = ready.card
    if mask is not None and wants_brain(ready.model, processing):
        brain = mask.labels.voxels > 0
        conformed = Volume(correct_bias(conformed.voxels, brain), conformed.grid)
    prediction = predict(
        conformed,
        ready.content,
        card,
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
    notes: tuple[str, ...] = (),
    preparations: dict[str, str] | None = None,
) -> StepRecord:
    return StepRecord(
        digests=None,
        executions={name: prediction.execution for name, prediction in predictions.items()},
        preparations=preparations or {},
        volumes_mm3=volumes_mm3,
        seconds=clock.seconds,
        notes=notes,
        started=clock.started,
        ended=utc_now(),
        peak_memory_mb=peak_memory_mb(),
    )


def _volumes_mm3(labels: Volume) -> dict[str, float]:
    """Volume by label index, counted on the models' grid; background left out."""
    counts = np.bincount(labels.voxels.ravel())
    voxel = labels.grid.voxel_volume_mm3
    return {str(i): round(float(n * voxel), 1) for i, n in enumerate(counts) if i and n}
