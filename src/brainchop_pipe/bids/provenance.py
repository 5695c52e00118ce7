"""How a file came about: what its sidecar must be able to answer.

Nothing here may hold an absolute path, a user's or a host's name. Peak memory is that of
the working process so far, earlier images included.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from brainchop_pipe.bids.derivatives import Product
from brainchop_pipe.bids.environment import code_record, environment_record
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.sidecar import (
    ExecutionRecord,
    FurtherFile,
    InputRecord,
    ModelRecord,
    ProvenanceRecord,
    QualityRecord,
)
from brainchop_pipe.record import InputDigests, ModelRun, StepRecord
from brainchop_pipe.settings import Settings
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.versions import code_version
from brainchop_pipe.zoo.catalog import Model


@dataclass(frozen=True)
class FileState:
    """What is known of an input file without decoding it.

    Parameters
    ----------
    size : int
        Bytes.
    modified_ns : int
        Time of last change, nanoseconds since 1970.
    """

    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Look at a file, through links."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


def signature(product: Product, settings: Settings) -> str:
    """Give one digest of all that decides a product apart from its image.

    Models, parameters, version; the mask that was given, where the product sees one;
    the further contrasts that its models see.
    """
    processing = settings.processing
    but = ("label_interpolation", "label_scheme") if product.is_tissue_set else ()
    mask = processing.mask if product.mask_model else None
    decisive = {
        "code": code_version(),
        "parameters": processing.parameters(but),
        "mask": sha256_of_file(mask) if mask else None,
        "contrasts": {suffix: file.sha256 for suffix, file in contrasts_record(product, settings).items()},
        "cards": [model.card.model_dump(mode="json") for model in product.involved],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def provenance_record(
    product: Product,
    record: StepRecord,
    digests: InputDigests,
    source: Source,
    state: FileState,
    settings: Settings,
) -> ProvenanceRecord:
    """Describe how a product came about, but for the file that it is written to.

    Parameters
    ----------
    product : Product
    record : StepRecord
        Of the step that made it.
    digests : InputDigests
        Of the image.
    source : Source
    state : FileState
        Of the image before it was read.
    settings : Settings
    """
    executions = _executions(product, record)
    mask = record.brain.mask_sha256 if record.brain else None
    contrasts = contrasts_record(product, settings)
    further = {"given_mask": FurtherFile(sha256=mask)} if mask else {}
    return ProvenanceRecord(
        signature=signature(product, settings),
        command=settings.command,
        parameters=settings.processing.parameters(),
        input=_input_record(source, digests, state),
        **further,
        **({"contrasts": contrasts} if contrasts else {}),
        models=tuple(model_record(model) for model in _models_that_ran(product, record)),
        execution=executions,
        code=code_record(),
        versions=environment_record()["Versions"],
        hardware=environment_record()["Hardware"],
        start_time=record.started,
        end_time=record.ended,
        stage_seconds={stage: round(seconds, 2) for stage, seconds in record.seconds.items()},
        peak_memory_mb=record.peak_memory_mb,
        warnings=(*record.notes, *(reason for e in executions.values() for reason in e.fallbacks)),
    )


def quality_record(record: StepRecord) -> QualityRecord:
    """Give the quality numbers as sidecars have them."""
    quality = record.quality
    volume, confidence = quality.intracranial_mm3, quality.mean_confidence
    return QualityRecord(
        flags=record.flags,
        intracranial_volume_mm3=None if volume is None else round(volume, 1),
        intracranial_volume_method=quality.intracranial_method or None,
        intracranial_fractions={
            str(i): round(share, 4) for i, share in quality.intracranial_fractions.items()
        },
        components_removed=quality.components_removed,
        border_share=round(quality.border_share, 5),
        mean_confidence=None if confidence is None else round(confidence, 4),
    )


def contrasts_record(product: Product, settings: Settings) -> dict[str, FurtherFile]:
    """Describe the further images of a head that a product's models see, by suffix."""
    wanted = {suffix for model in product.models for suffix in model.card.input.contrasts[1:]}
    files = settings.processing.contrasts
    return {suffix: FurtherFile(sha256=sha256_of_file(file)) for suffix, file in files if suffix in wanted}


def model_record(model: Model) -> ModelRecord:
    """Describe a model: what ran, where it is from, under which terms."""
    card = model.card
    return ModelRecord(
        name=card.name,
        version=card.version,
        sha256=card.weights.onnx_sha256,
        source_url=card.weights.base_url or "local file",
        source_sha256={file.path: file.sha256 for file in card.weights.files},
        license=card.license.id,
        trained_for=card.modalities,
        intended_use=card.intended_use,
        citations=card.citations,
    )


def _input_record(source: Source, digests: InputDigests, state: FileState) -> InputRecord:
    return InputRecord(
        uri=source.uri,
        sha256=digests.sha256,
        voxels_sha256=digests.voxels_sha256,
        size=state.size,
        modification_time_ns=state.modified_ns,
    )


def _executions(product: Product, record: StepRecord) -> dict[str, ExecutionRecord]:
    """Describe where each model ran, on what it saw; what made the brain comes first."""
    inputs = {model.card.name: model.card.input.dtype for model in product.involved}

    def described(run: ModelRun) -> ExecutionRecord:
        execution = run.execution
        return ExecutionRecord(
            requested_device=execution.requested,
            provider=execution.provider,
            fallbacks=execution.fallbacks,
            threads=execution.threads,
            precision=execution.precision
            if execution.precision != "float32"
            else inputs.get(run.model, "float32"),
            field_of_view=run.field_of_view,
            **({"preparation": run.preparation} if run.preparation else {}),
        )

    return {run.model: described(run) for run in (*_runs_before(product, record), record.run)}


def _runs_before(product: Product, record: StepRecord) -> list[ModelRun]:
    """Give the runs that a product's brain was made by, but for one whose contrast it makes no use of."""
    if record.brain is None:
        return []
    contrast_run = record.brain.contrast_run if product.contrast_model else None
    return [run for run in (record.brain.mask_run, contrast_run) if run is not None]


def _models_that_ran(product: Product, record: StepRecord) -> list[Model]:
    """Give the models that were involved, but for those in whose place a mask was given, or that failed."""
    ran = {record.model, *(run.model for run in _runs_before(product, record))}
    return [model for model in product.involved if model.card.name in ran]
