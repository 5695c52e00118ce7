"""Files of a step to BIDS derivatives: into their places, with sidecars that say how they came about."""

from pathlib import Path
from typing import Any

from brainchop_pipe.workflows.locks import try_lock
from brainchop_pipe.workflows.suitability import cannot_be_named

from brainchop_pipe.bids.dataset import source_of
from brainchop_pipe.bids.derivatives import (
    Content,
    Product,
    label_table,
    plan_products,
    sidecar_metadata,
    write_dataset_files,
)
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.provenance import (
    FileState,
    code_record,
    environment_record,
    execution_record,
    input_record,
    model_record,
    signature,
)
from brainchop_pipe.bids.publish import Derivative, prepare_output_dir, publish
from brainchop_pipe.errors import InputError, OutputError, UsageError
from brainchop_pipe.file_steps import LabelFiles, TissueFiles
from brainchop_pipe.record import InputDigests, StepRecord
from brainchop_pipe.settings import Settings
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.zoo.catalog import find_models

StepFiles = TissueFiles | LabelFiles


def publish_product(
    source: Source,
    product: Product,
    files: StepFiles,
    state: FileState,
    settings: Settings,
    conform_seconds: float | None = None,
) -> StepRecord:
    """Write what a step made of an image as derivatives; the caller holds the image's lock.

    Parameters
    ----------
    source : Source
    product : Product
    files : TissueFiles or LabelFiles
    state : FileState
        Of the image, before it was read.
    settings : Settings
    conform_seconds : float or None
        What the conform took, where that is known.

    Returns
    -------
    StepRecord
        What the step said of itself.

    Raises
    ------
    InputError
        The image changed while it was worked on.
    OutputError
        See `publish`.
    """
    contents, record = _read_files(files)
    _check_fits(record, product, settings)
    digests = _digests(record, source)
    if digests.size != state.size:
        raise InputError(f"{source.name} changed while it was worked on; run again")
    input_ = input_record(source.uri, state, digests)
    provenance = _provenance(product, record, input_, settings)
    if conform_seconds is not None:
        provenance["StageSeconds"] = {"conform": round(conform_seconds, 2), **provenance["StageSeconds"]}
    derivatives = [
        Derivative(file, content, _sidecar(name, source, product, record, provenance))
        for (name, file), content in zip(product.files(source).items(), contents, strict=True)
    ]
    publish(settings.output_dir, derivatives, label_table(source, product), force=settings.force)
    return record


def publish_image(
    path: Path, settings: Settings, tissues: TissueFiles | None, labels: list[LabelFiles]
) -> list[Path]:
    """Write all that was made of an image of a dataset, outside of the app.

    Parameters
    ----------
    path : Path
        The raw image, in `settings.bids_dir`.
    settings : Settings
    tissues : TissueFiles or None
    labels : list of LabelFiles
        In the order of the models that do not make the tissue maps.

    Returns
    -------
    list of Path
        Images, in the order of the products.
    """
    if settings.bids_dir is None:
        raise UsageError("derivatives need the dataset that the image is of")
    bids_dir = settings.bids_dir.resolve()
    source, state = source_of(path.resolve(), bids_dir), FileState.of(path)
    prepare_output_dir(settings.output_dir, bids_dir)
    write_dataset_files(settings.output_dir, bids_dir, code_record())
    models = find_models(settings.processing.models)
    products = plan_products(models, settings.processing.tissue_model)
    made: list[StepFiles] = [*([tissues] if tissues else []), *labels]
    reason = cannot_be_named(source)
    if reason:
        raise InputError(reason)
    digest = sha256_of_file(path)
    for files in made:
        _, record = _read_files(files)
        if _digests(record, source).sha256 != digest:
            raise InputError(
                f"{files.record.name} was not made of {source.name}; give the image that it is of"
            )
    with try_lock(settings.output_dir, source, patience_seconds=-1):
        for product, files in zip(products, made, strict=True):
            publish_product(source, product, files, state, settings)
    return [settings.output_dir / file for product in products for file in product.files(source).values()]


def _read_files(files: StepFiles) -> tuple[list[bytes], StepRecord]:
    """Read a step's images, in their order, and what it said of itself."""
    try:
        # The last file is the record.
        *contents, text = [path.read_bytes() for path in files]
    except OSError as error:
        raise OutputError(
            f"{Path(str(error.filename)).name} was lost before it was in its place ({error.strerror}); "
            "check the work folder and run again"
        ) from error
    return contents, StepRecord.model_validate_json(text)


def _digests(record: StepRecord, source: Source) -> InputDigests:
    """Give what a step's image was made of."""
    if record.digests is None:
        raise InputError(
            f"the conformed image of {source.name} does not say what it was made of; use Conform"
        )
    return record.digests


def _check_fits(record: StepRecord, product: Product, settings: Settings) -> None:
    """Refuse files of other models, or made with other parameters, than their sidecars would say."""
    wanted = {model.card.name for model in product.models}
    if set(record.executions) != wanted:
        raise InputError(
            f"these files were made by {', '.join(record.executions)}, not by {', '.join(sorted(wanted))}; "
            "give the same models in the same order as to the workflow that made them"
        )
    said = settings.processing.parameters()
    other = {name: value for name, value in record.parameters.items() if said[name] != value}
    if other:
        raise InputError(f"these files were made with {other}, not with what the settings say; give the same")


def _sidecar(
    content: Content, source: Source, product: Product, record: StepRecord, provenance: dict[str, Any]
) -> dict[str, Any]:
    sidecar = sidecar_metadata(content, source, product)
    if content in ("dseg", "segmentation"):
        sidecar["VolumesMm3"] = record.volumes_mm3
    return {**sidecar, "Provenance": provenance}


def _provenance(
    product: Product, record: StepRecord, input_: dict[str, Any], settings: Settings
) -> dict[str, Any]:
    executions = {name: execution_record(execution) for name, execution in record.executions.items()}
    for name, preparation in record.preparations.items():
        executions[name]["Preparation"] = preparation
    fallbacks = [reason for execution in record.executions.values() for reason in execution.fallbacks]
    return {
        "Signature": signature(product.models, settings),
        "Command": settings.command,
        "Parameters": settings.processing.parameters(),
        "Input": input_,
        "Models": [model_record(model) for model in product.models],
        "Execution": executions,
        "Code": code_record(),
        **environment_record(),
        "StartTime": record.started,
        "EndTime": record.ended,
        "StageSeconds": {stage: round(seconds, 2) for stage, seconds in record.seconds.items()},
        "PeakMemoryMB": record.peak_memory_mb,
        "Warnings": [*record.notes, *fallbacks],
    }
