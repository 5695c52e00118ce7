"""The steps from an image to its maps, for arrays in memory; `file_steps` has them file to file."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brainchop_pipe.brain import (
    Brain,
    box_of_brain,
    brain_of_prediction,
    on_grid,
)
from brainchop_pipe.core.conform import Conformed, conform, conform_to, restore_labels, restore_probability
from brainchop_pipe.core.grid import (
    CONFORMED_CENTER,
    Grid,
    Volume,
    canonical_grid,
    grid_around,
    part_of_volume,
)
from brainchop_pipe.core.quality import Quality, border_share, flags, label_volumes_mm3, mean_confidence
from brainchop_pipe.core.tiles import full_box
from brainchop_pipe.core.tissue import TISSUE_NAMES, TissueMaps, csf_probability, tissue_maps
from brainchop_pipe.errors import InputError
from brainchop_pipe.headers import AffineChoice
from brainchop_pipe.images import Image, read_image
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.card_input import ModelGrid
from brainchop_pipe.inference.numbering import number_labels, output_labels
from brainchop_pipe.inference.predict import Prediction, post_filter, predict
from brainchop_pipe.inference.turns import taking_turns
from brainchop_pipe.inference.view import View
from brainchop_pipe.inference.ways import FieldOfView
from brainchop_pipe.preparation import Shown, what_model_sees
from brainchop_pipe.record import BrainRecord, Clock, StepRecord, peak_memory_mb, utc_now
from brainchop_pipe.settings import Orientation, Processing
from brainchop_pipe.zoo.catalog import Model, find_model
from brainchop_pipe.zoo.check import check_file
from brainchop_pipe.zoo.fetch import ModelStore
from brainchop_pipe.zoo.plan import check_mask_model, preparing_of

# Share of grey and white matter in the mask. In adults CSF takes 15 to 35 %, in severe
# atrophy nearly half; below the first figure the tissue model did not see the brain.
_FAILED_TISSUE_SHARE = 0.4
_LOW_TISSUE_SHARE = 0.6

# A wait that is shorter is none that a record need tell.
_NO_WAIT_SECONDS = 0.01


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
    conformed : Volume
        The labels on the model's grid.
    record : StepRecord
        Without what is known of the input.
    """

    grid: Grid
    maps: dict[str, np.ndarray]
    conformed: Volume
    record: StepRecord


class Findings(NamedTuple):
    """What was found out about a result: numbers, what looks wrong, how sides were told apart, notes."""

    quality: Quality
    flags: tuple[str, ...]
    sides: str
    notes: tuple[str, ...]


def output_grid(grid: Grid, orientation: Orientation) -> Grid:
    """Give the grid that an image's outputs lie on: its voxels, RAS+ or in the file's order."""
    return canonical_grid(grid) if orientation == "ras" else grid


def load_model(name: str) -> ReadyModel:
    """Find a model by name or card, load its ONNX file from the cache, or fetch it, and check it."""
    model = find_model(name)
    content = ModelStore.from_environment().load(model)
    check_file(model, content)
    return ReadyModel(model, content)


def conform_image(path: Path, prefer_affine: AffineChoice | None = None) -> Prepared:
    """Read an image and conform it, once for all models."""
    image = read_image(path, prefer_affine)
    try:
        return Prepared(image, conform(image.volume))
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


def on_models_grid(grid: ModelGrid, conformed: Volume, image: Volume) -> Volume:
    """Bring an image onto the grid of a model, around the middle of the conformed one."""
    center = (conformed.grid.affine @ [*[CONFORMED_CENTER] * 3, 1.0])[:3]
    target = grid_around(center, grid.shape, grid.spacing_mm, grid.orientation)
    return conform_to(image, target, raw=grid.values == "raw")


def segment_labels(
    heads: tuple[Volume, ...], grid: Grid, ready: ReadyModel, processing: Processing, brain: Brain | None
) -> Segmentation:
    """Run one model, and bring its label map onto the output's grid.

    Parameters
    ----------
    heads : tuple of Volume
        The image on the model's grid, and its further contrasts; see `conform`.
    grid : Grid
        The output's.
    ready : ReadyModel
    processing : Processing
    brain : Brain or None
        What the model sees in place of the whole head, if it is to see that. A mask
        model that made it is not run again.

    Raises
    ------
    InputError
        The model finds nothing at all.
    """
    clock = Clock()
    card = ready.card
    known = _known_prediction(brain, card) if brain is not None else None
    prediction, shown = known or run_model(heads, ready, processing, brain, clock)
    run = _Run(card, prediction, shown, brain.record if brain else None, clock)
    with clock.stage(f"write {card.name}"):
        numbered = number_labels(prediction.labels, card, processing.label_scheme)
        labels = restore_labels(numbered.labels, grid, processing.label_interpolation)
        quality = _measure(run, numbered.labels, labels > 0, grid)
        names = {label.index: label.name for label in output_labels(card, processing.label_scheme)}
    found = Findings(quality, flags(quality, names), numbered.sides, shown.notes + numbered.notes)
    record = _record(run, found, processing.parameters())
    return Segmentation(grid, {"labels": labels}, numbered.labels, record)


def segment_tissues(
    heads: tuple[Volume, ...], grid: Grid, tissue_model: ReadyModel, processing: Processing, brain: Brain
) -> Segmentation:
    """Run a tissue model, and combine it with a brain mask on the output's grid.

    Parameters
    ----------
    heads, grid
        As for `segment_labels`.
    tissue_model : ReadyModel
        It sees what its card asks for: the head, or the brain, evenly lit or as it is.
    processing : Processing
    brain : Brain

    Raises
    ------
    InputError
        The model finds nothing, or hardly any tissue within the mask.
    """
    clock = Clock()
    card = tissue_model.card
    tissue, shown = run_model(
        heads, tissue_model, processing, brain, clock, in_pair=True, with_probabilities=True
    )
    with clock.stage(f"write {card.name}"):
        probabilities = tissue_probabilities(brain.probability, tissue, card)
    run = _Run(card, replace(tissue, probabilities=None), shown, brain.record, clock)
    return _tissue_segmentation(run, probabilities, grid, processing)


def segment_brain_and_tissues(
    conformed: Volume, head: Volume, grid: Grid, model: ReadyModel, processing: Processing
) -> Segmentation:
    """Run a model that finds the brain and its tissues, once, and make the tissue maps of both.

    Parameters
    ----------
    conformed : Volume
    head : Volume
        The image on the model's grid.
    grid : Grid
        The output's.
    model : ReadyModel
    processing : Processing

    Raises
    ------
    InputError
        As `segment_tissues`.
    UsageError
        The model does not find the brain.
    """
    check_mask_model(model.card)
    clock = Clock()
    card = model.card
    found, shown = run_model((head,), model, processing, None, clock, with_probabilities=True)
    with clock.stage(f"write {card.name}"):
        brain = brain_of_prediction(conformed, found, shown.preparation, card, Clock(), correct=False)
        probabilities = tissue_probabilities(brain.probability, found, card)
    run = _Run(card, replace(found, probabilities=None), shown, brain.record, clock)
    # What is not needed any more makes room for the image's grid.
    del brain, found
    return _tissue_segmentation(run, probabilities, grid, processing)


class _Run(NamedTuple):
    """A model's run, as its record needs it: what it gave, how it was shown the image, whose brain it saw."""

    card: ModelCard
    prediction: Prediction
    shown: Shown
    brain: BrainRecord | None
    clock: Clock


def _tissue_segmentation(
    run: _Run, probabilities: tuple[Volume, ...], grid: Grid, processing: Processing
) -> Segmentation:
    """Make tissue maps of the probabilities of brain, GM, WM and CSF; see `tissue_probabilities`."""
    with run.clock.stage(f"write {run.card.name}"):
        brain, *tissues = probabilities
        conformed = tissue_maps(brain.voxels, (p.voxels for p in tissues))
        notes = check_tissue_share(conformed, run.card.name)
        labels = Volume(conformed.labels, brain.grid)
        del conformed
        # One after the other: each is large where the image's voxels are small.
        maps = tissue_maps(restore_probability(brain, grid), (restore_probability(p, grid) for p in tissues))
        quality = _measure(run, labels, maps.mask, grid)
    gm, wm, csf = maps.probabilities
    contents = {"mask": maps.mask.astype(np.uint8), "dseg": maps.labels, "GM": gm, "WM": wm, "CSF": csf}
    found = Findings(quality, flags(quality, TISSUE_NAMES), "", run.shown.notes + notes)
    record = _record(run, found, processing.parameters(but=("label_interpolation", "label_scheme")))
    return Segmentation(grid, contents, labels, record)


def run_model(
    heads: tuple[Volume, ...],
    ready: ReadyModel,
    processing: Processing,
    brain: Brain | None,
    clock: Clock,
    *,
    in_pair: bool = False,
    with_probabilities: bool = False,
) -> tuple[Prediction, Shown]:
    """Predict and post-filter.

    Parameters
    ----------
    heads : tuple of Volume
        One a channel, on the model's grid.
    ready : ReadyModel
    processing : Processing
    brain : Brain or None
        What the network is to see in place of the whole head, if its card or the
        processing says so.
    clock : Clock
        Gets the time of the inference, and of waiting for other processes' networks.
    in_pair : bool
        It makes tissue maps together with a mask model.
    with_probabilities : bool
        Keep the probability of each label, which takes more time and memory.

    Raises
    ------
    InputError
        The model finds nothing at all.
    """
    card = ready.card
    way = preparing_of(card, processing.prepare, in_pair=in_pair)
    with clock.stage(f"infer {card.name}"):
        seen = what_model_sees(heads, card, way, brain, full_volume=processing.full_volume)
    prediction = _predict_in_turn(seen.view, ready, processing, clock, with_probabilities=with_probabilities)
    # Lesions, for example, may well not be there.
    if card.output.role != "regions" and not prediction.labels.voxels.any():
        raise InputError(
            f"model {card.name!r} finds nothing in this image; is it a head, upright in its own "
            f"coordinates, in a contrast that the model knows ({', '.join(card.modalities)})?"
        )
    with clock.stage(f"infer {card.name}"):
        return post_filter(prediction, card), seen.shown


def _predict_in_turn(
    view: View, ready: ReadyModel, processing: Processing, clock: Clock, *, with_probabilities: bool
) -> Prediction:
    """Predict, when no more other processes run networks than may; the wait is a stage if it was one."""
    asked = time.perf_counter()
    with taking_turns():
        waited = time.perf_counter() - asked
        if waited >= _NO_WAIT_SECONDS:
            clock.add("wait", waited)
        with clock.stage(f"infer {ready.card.name}"):
            return predict(
                view,
                ready.content,
                ready.card,
                device=processing.device,
                precision=processing.precision,
                threads=processing.threads,
                mem_gb=processing.mem_gb,
                with_probabilities=with_probabilities,
            )


def _known_prediction(brain: Brain, card: ModelCard) -> tuple[Prediction, Shown] | None:
    """Give what a model said already where it made the mask, and makes nothing but masks."""
    made_it = brain.record.mask_model == card.name and card.output.role == "mask"
    return prediction_of(brain) if made_it else None


def prediction_of(brain: Brain) -> tuple[Prediction, Shown] | None:
    """Give what a mask model said, from the brain that was made of it; None for a mask that was given."""
    record, probability = brain.record, brain.probability
    run = record.mask_run
    if run is None:
        return None
    labels = Volume(brain.inside.astype(np.uint8), probability.grid)
    confidence = np.maximum(probability.voxels, 1 - probability.voxels)
    seen = FieldOfView(full_box(probability.grid.shape), run.field_of_view)
    removed = record.removed_components
    prediction = Prediction(labels, confidence, None, seen.box, seen, run.execution, removed)
    return prediction, Shown(run.preparation)


def tissue_probabilities(brain: Volume, tissue: Prediction, card: ModelCard) -> tuple[Volume, ...]:
    """Give the probabilities of brain, GM, WM and CSF on the models' grid, cut to the brain's box.

    Parameters
    ----------
    brain : Volume
        Probability of brain with its CSF, float32, on the conformed grid.
    tissue : Prediction
        With probabilities, on the grid of its model.
    card : ModelCard
        Of the tissue model.
    """
    box = box_of_brain(brain)
    gm, wm = (
        part_of_volume(Volume(on_grid(tissue.probability(*indices), brain.grid), brain.grid), box)
        for indices in (card.output.indices_of("GM"), card.output.indices_of("WM"))
    )
    brain = part_of_volume(brain, box)
    # A CSF class of the tissue model is among what is neither.
    csf = csf_probability(brain.voxels, (1 - gm.voxels - wm.voxels).clip(0, 1))
    return brain, gm, wm, Volume(csf, brain.grid)


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


def _measure(run: _Run, labels: Volume, on_image: np.ndarray, grid: Grid) -> Quality:
    """Measure a result: labels on the model's grid, and their mask on the image's."""
    prediction, record = run.prediction, run.brain
    return Quality(
        volumes_mm3=label_volumes_mm3(labels),
        intracranial_mm3=record.volume_mm3 if record else None,
        intracranial_method=record.origin if record else "",
        components_removed=prediction.removed_components,
        border_share=border_share(on_image, grid.spacing_mm),
        mean_confidence=mean_confidence(prediction.confidence, prediction.labels.voxels[prediction.box]),
        upside_down=record.upside_down if record else False,
    )


def _record(run: _Run, found: Findings, parameters: dict[str, Any]) -> StepRecord:
    return StepRecord(
        digests=None,
        brain=run.brain,
        model=run.card.name,
        execution=run.prediction.execution,
        field_of_view=run.prediction.field_of_view.description,
        parameters=parameters,
        preparation=run.shown.preparation,
        quality=found.quality,
        flags=found.flags,
        sides=found.sides,
        seconds=_together(run.brain.seconds if run.brain else {}, run.clock.seconds),
        notes=(run.brain.notes if run.brain else ()) + found.notes,
        started=run.clock.started,
        ended=utc_now(),
        peak_memory_mb=peak_memory_mb(),
    )


def _together(first: dict[str, float], second: dict[str, float]) -> dict[str, float]:
    """Add up the times of stages: one model may find both the brain and its tissues."""
    return {stage: first.get(stage, 0.0) + second.get(stage, 0.0) for stage in {**first, **second}}
