"""One image through all of a run's models, into its derivatives."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from brainchop_pipe.bids.derivatives import Content, Product, label_table, plan_products, sidecar_metadata
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.provenance import (
    FileState,
    code_record,
    environment_record,
    execution_record,
    input_record,
    model_record,
    peak_memory_mb,
    signature,
    utc_now,
)
from brainchop_pipe.bids.publish import Derivative, is_complete, publish
from brainchop_pipe.core.conform import restore_labels, restore_probability
from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.tissue import tissue_maps
from brainchop_pipe.errors import PipeError
from brainchop_pipe.images import check_readable, image_bytes
from brainchop_pipe.inference.predict import Prediction
from brainchop_pipe.settings import Settings
from brainchop_pipe.steps import (
    Prepared,
    check_tissue_share,
    prepare,
    run_model,
    tissue_probabilities,
    wants_brain,
)
from brainchop_pipe.zoo.catalog import Model

logger = logging.getLogger(__name__)

Status = Literal["done", "complete", "skipped", "failed"]

# Complex images are stored part by part; only the magnitude is a picture of a head.
_MAGNITUDE = (None, "mag")


@dataclass(frozen=True)
class Outcome:
    """What became of one model on one image.

    Parameters
    ----------
    source : Source
    model : str
    status : str
        "done"; "complete": it was there already; "skipped": not meant for this
        image; "failed".
    seconds : float
        Of this model's inference and, for the last model of a product, its writing.
    reason : str
        Why it was skipped or failed; notes on the image when done.
    """

    source: Source
    model: str
    status: Status
    seconds: float = 0.0
    reason: str = ""


@dataclass(frozen=True)
class ReadyModel:
    """A model and its ONNX file."""

    model: Model
    content: bytes


@dataclass(frozen=True, eq=False)
class _Restored:
    """A product's maps on the output's grid, volumes by label index, and what is odd about them."""

    grid: Grid
    voxels: dict[Content, np.ndarray]
    volumes_mm3: dict[str, float]
    notes: tuple[str, ...] = ()


@dataclass
class _Clock:
    """Seconds by stage, and when the work began."""

    began: str = field(default_factory=utc_now)
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def segment_image(
    source: Source, path: Path, models: tuple[ReadyModel, ...], settings: Settings
) -> list[Outcome]:
    """Run what is missing for one image, and write it.

    Parameters
    ----------
    source : Source
        How the image is called.
    path : Path
        Where it is.
    models : tuple of ReadyModel
        In the order of the run.
    settings : Settings

    Returns
    -------
    list of Outcome
        One a model. A failure is an outcome, not an exception: it must not stop
        the images after this one.
    """
    refused = {ready.model.card.name: _refusal(source, ready.model, settings) for ready in models}
    outcomes = [Outcome(source, name, "skipped", reason=reason) for name, reason in refused.items() if reason]
    usable = tuple(ready for ready in models if not refused[ready.model.card.name])
    if not usable:
        return outcomes
    work = _ImageWork(source, path, usable, settings)
    return outcomes + work.run()


class _ImageWork:
    """The products of one image: what is missing, what was predicted, how long it took."""

    def __init__(
        self, source: Source, path: Path, models: tuple[ReadyModel, ...], settings: Settings
    ) -> None:
        self.source = source
        self.path = path
        self.models = {ready.model.card.name: ready for ready in models}
        self.settings = settings
        self.products = plan_products(
            tuple(ready.model for ready in models), settings.processing.tissue_model
        )
        self.clock = _Clock()

    def run(self) -> list[Outcome]:
        """Do what is missing; the one place where any exception becomes an outcome."""
        outcomes: list[Outcome] = []
        missing = list(self.products)
        try:
            check_readable(self.path)
            state = FileState.of(self.path)
            missing = [p for p in self.products if not self._is_complete(p, state)]
            outcomes = self._outcomes([p for p in self.products if p not in missing], "complete")
            if not missing:
                return outcomes
            with self.clock.stage("prepare"):
                prepared = prepare(self.path, self.settings.processing.prefer_affine)
                record = input_record(self.source.uri, self.path, state, prepared.image.volume)
        except Exception as error:  # noqa: BLE001 - one bad image must not stop the others
            return outcomes + self._outcomes(missing, "failed", self._explain(error))
        for product in missing:
            outcomes += self._make(product, prepared, record)
        return outcomes

    def _is_complete(self, product: Product, state: FileState) -> bool:
        return not self.settings.force and is_complete(
            self.settings.output_dir,
            list(product.files(self.source).values()),
            list(label_table(self.source, product)),
            signature(product.models, self.settings),
            self.path,
            state,
            check_hashes=self.settings.check_hashes,
        )

    def _make(self, product: Product, prepared: Prepared, record: dict[str, Any]) -> list[Outcome]:
        """Predict, restore and write one product."""
        try:
            predictions = self._predict(product, prepared)
            with self.clock.stage(f"write {product.models[-1].card.name}"):
                restored = self._restore(product, predictions, prepared)
                notes = (*prepared.notes, *restored.notes)
                provenance = self._provenance(product, predictions, record, notes)
                self._write(product, prepared, restored, provenance)
        except Exception as error:  # noqa: BLE001 - one bad model must not stop the others
            return self._outcomes([product], "failed", self._explain(error))
        return self._outcomes([product], "done", " ".join(notes))

    def _predict(self, product: Product, prepared: Prepared) -> list[Prediction]:
        """Run a product's models; what the first finds of the brain is at hand for the second."""
        predictions: list[Prediction] = []
        for model in product.models:
            name = model.card.name
            mask = predictions[0] if predictions else None
            with self.clock.stage(f"infer {name}"):
                content = self.models[name].content
                predictions.append(run_model(prepared, model, content, self.settings.processing, mask))
        return predictions

    def _restore(self, product: Product, predictions: list[Prediction], prepared: Prepared) -> _Restored:
        """Bring what was predicted onto the output's grid, and count it on the models'."""
        grid = prepared.output_grid(self.settings.processing.output_orientation)
        if not product.is_tissue_set:
            labels = predictions[0].labels
            voxels = restore_labels(labels, grid, self.settings.processing.label_interpolation)
            return _Restored(grid, {"segmentation": voxels}, _volumes_mm3(labels.voxels, labels.grid))
        mask, tissue = predictions
        card = product.models[1].card
        probabilities = tissue_probabilities(mask, tissue, card)
        conformed = tissue_maps(*(p.voxels for p in probabilities))
        notes = check_tissue_share(conformed, card.name)
        maps = tissue_maps(*(restore_probability(p, grid) for p in probabilities))
        gm, wm, csf = maps.probabilities
        contents: dict[Content, np.ndarray] = {"mask": maps.mask.astype(np.uint8), "dseg": maps.labels}
        contents |= {"GM": gm, "WM": wm, "CSF": csf}
        return _Restored(grid, contents, _volumes_mm3(conformed.labels, mask.grid), notes)

    def _write(
        self, product: Product, prepared: Prepared, restored: _Restored, provenance: dict[str, Any]
    ) -> None:
        derivatives = []
        for content, file in product.files(self.source).items():
            volume = Volume(restored.voxels[content], restored.grid)
            is_label = volume.voxels.dtype.kind == "u"
            encoded = image_bytes(volume, prepared.image.placement, labels=is_label)
            sidecar = sidecar_metadata(content, self.source, product)
            if content in ("dseg", "segmentation"):
                sidecar["VolumesMm3"] = restored.volumes_mm3
            derivatives.append(Derivative(file, encoded, {**sidecar, "Provenance": provenance}))
        tables = label_table(self.source, product)
        publish(self.settings.output_dir, derivatives, tables, force=self.settings.force)

    def _provenance(
        self,
        product: Product,
        predictions: list[Prediction],
        record: dict[str, Any],
        notes: tuple[str, ...],
    ) -> dict[str, Any]:
        executions = {
            model.card.name: execution_record(prediction.execution)
            for model, prediction in zip(product.models, predictions, strict=True)
        }
        if product.is_tissue_set and wants_brain(product.models[1], self.settings.processing):
            mask, tissue = (model.card.name for model in product.models)
            executions[tissue]["Preparation"] = f"mask of {mask}, N4 bias correction within it"
        return {
            "Signature": signature(product.models, self.settings),
            "Command": self.settings.command,
            "Parameters": self.settings.processing.parameters(),
            "Input": record,
            "Models": [model_record(model) for model in product.models],
            "Execution": executions,
            "Code": code_record(),
            **environment_record(),
            "StartTime": self.clock.began,
            "EndTime": utc_now(),
            "StageSeconds": {stage: round(s, 2) for stage, s in self.clock.seconds.items()},
            "PeakMemoryMB": peak_memory_mb(),
            "Warnings": [*notes, *(reason for e in executions.values() for reason in e["Fallbacks"])],
        }

    def _outcomes(self, products: list[Product], status: Status, reason: str = "") -> list[Outcome]:
        names = [model.card.name for product in products for model in product.models]
        return [Outcome(self.source, name, status, self._seconds(name), reason) for name in names]

    def _seconds(self, name: str) -> float:
        return sum(self.clock.seconds.get(f"{stage} {name}", 0.0) for stage in ("infer", "write"))

    def _explain(self, error: Exception) -> str:
        """Say what went wrong, in one line; what nobody foresaw leaves its traceback in the log."""
        if isinstance(error, PipeError):
            logger.info("%s failed: %s", self.source.name, error)
            return str(error)
        logger.error("%s failed", self.source.name, exc_info=error)
        return f"unexpected {type(error).__name__}: {error}"


def _refusal(source: Source, model: Model, settings: Settings) -> str:
    """Why a model is not for an image; empty where it is."""
    wanted = settings.query.modalities
    if source.suffix not in wanted:
        return f"{source.suffix} is not among --modality {' '.join(wanted)}"
    if dict(source.entities).get("part") not in _MAGNITUDE:
        return "not a magnitude image (part-)"
    if source.suffix not in model.card.modalities:
        return (
            f"{model.card.name} was not trained for {source.suffix}, only {', '.join(model.card.modalities)}"
        )
    return ""


def _volumes_mm3(labels: np.ndarray, grid: Grid) -> dict[str, float]:
    """Volume by label index, counted on the models' grid; background left out."""
    counts = np.bincount(labels.ravel())
    return {str(i): round(float(n * grid.voxel_volume_mm3), 1) for i, n in enumerate(counts) if i and n}
