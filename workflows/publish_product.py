"""Files of a step to BIDS derivatives: into their places, with sidecars that say how they came about."""

from pathlib import Path
from typing import Any

from brainchop_pipe.workflows.locks import try_lock
from brainchop_pipe.workflows.suitability import cannot_be_named

from brainchop_pipe.bids.dataset import source_of
from brainchop_pipe.bids.derivatives import (
    Content,
    Extra,
    Product,
    label_table,
    plan_products,
    sidecar_metadata,
    volume_table,
    volume_table_place,
    write_dataset_files,
)
from brainchop_pipe.bids.environment import code_record
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.prov_files import sidecar_keys, write_activity
from brainchop_pipe.bids.provenance import FileState, provenance_record, quality_record
from brainchop_pipe.bids.publish import Derivative, prepare_output_dir, publish
from brainchop_pipe.bids.sidecar import LabelMapSidecar, ProvenanceRecord
from brainchop_pipe.errors import InputError, OutputError, UsageError
from brainchop_pipe.images import image_bytes, read_image
from brainchop_pipe.inference.numbering import scheme_of
from brainchop_pipe.record import InputDigests, StepRecord
from brainchop_pipe.settings import Settings
from brainchop_pipe.step_files import LabelFiles, TissueFiles
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
    extras: dict[Extra, Path] | None = None,
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
    extras : dict or None
        Images of the work folder that the product writes besides.

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
    also = {extra: _as_derivative(path) for extra, path in (extras or {}).items()}
    _check_fits(record, product, settings)
    digests = _digests(record, source)
    if digests.size != state.size:
        raise InputError(f"{source.name} changed while it was worked on; run again")
    if conform_seconds is not None:
        record = record.model_copy(update={"seconds": {"conform": conform_seconds, **record.seconds}})
    provenance = provenance_record(product, record, digests, source, state, settings)
    places = product.files(source)
    if files.conformed is not None and "conformed labels" in places:
        also["conformed labels"] = files.conformed.read_bytes()
    made = dict(zip((name for name in places if name not in product.extras), contents, strict=True)) | also
    derivatives = [
        Derivative(place, made[name], _sidecar(name, source, product, record, provenance, settings))
        for name, place in places.items()
    ]
    scheme = settings.processing.label_scheme
    tables = label_table(source, product, scheme)
    tables[volume_table_place(source, product)] = volume_table(product, record, scheme)
    write_activity(settings.output_dir, provenance)
    publish(settings.output_dir, derivatives, tables, force=settings.force)
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
    products = plan_products(models, settings.processing)
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


def _as_derivative(path: Path) -> bytes:
    """Give an image of the work folder as it is published: compressed, without a comment."""
    image = read_image(path, allow_constant=True)
    return image_bytes(image.volume, image.placement)


def _read_files(files: StepFiles) -> tuple[list[bytes], StepRecord]:
    """Read a step's images, in their order, and what it said of itself."""
    try:
        *maps, _conformed, text = files
        contents, record = [path.read_bytes() for path in maps], text.read_bytes()
    except OSError as error:
        raise OutputError(
            f"{Path(str(error.filename)).name} was lost before it was in its place ({error.strerror}); "
            "check the work folder and run again"
        ) from error
    return contents, StepRecord.model_validate_json(record)


def _digests(record: StepRecord, source: Source) -> InputDigests:
    """Give what a step's image was made of."""
    if record.digests is None:
        raise InputError(
            f"the conformed image of {source.name} does not say what it was made of; use Conform"
        )
    return record.digests


def _check_fits(record: StepRecord, product: Product, settings: Settings) -> None:
    """Refuse files of other models, or made with other parameters, than their sidecars would say."""
    wanted = [model.card.name for model in product.models]
    made_by = [record.model]
    if record.brain and record.brain.mask_model and product.is_tissue_set:
        made_by.insert(0, record.brain.mask_model)
    elif product.is_tissue_set:
        wanted = wanted[1:]
    if made_by != wanted:
        raise InputError(
            f"these files were made by {', '.join(made_by)}, not by {', '.join(wanted)}; "
            "give the same models in the same order as to the workflow that made them"
        )
    mask = settings.processing.mask if product.mask_model else None
    if record.brain and record.brain.mask_sha256 != (sha256_of_file(mask) if mask else None):
        raise InputError(
            "these files were made with another brain mask than the settings say; give the same `given_mask`"
        )
    said = settings.processing.parameters()
    other = {name: value for name, value in record.parameters.items() if said[name] != value}
    if other:
        raise InputError(f"these files were made with {other}, not with what the settings say; give the same")


def _sidecar(
    content: Content,
    source: Source,
    product: Product,
    record: StepRecord,
    provenance: ProvenanceRecord,
    settings: Settings,
) -> dict[str, Any]:
    metadata = sidecar_metadata(content, source, product) | sidecar_keys(provenance)
    if content not in ("dseg", "segmentation"):
        return {**metadata, "Provenance": provenance.as_json()}
    about: dict[str, Any] = {"quality": quality_record(record), "provenance": provenance}
    if content == "segmentation":
        about["label_scheme"] = scheme_of(product.models[0].card, settings.processing.label_scheme)
        about |= {"sides": record.sides} if record.sides else {}
    return metadata | LabelMapSidecar(volumes_mm3=record.volumes_mm3, **about).as_json()
