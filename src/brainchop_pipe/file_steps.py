"""The steps from file to file: what engines wrap, and nothing else does their work.

A step takes the paths that it reads and the place that it writes to, then its
parameters by keyword. Models are named by a shipped card or by the path of a card.
Results are moved into place whole. Nothing here waits for the disk: an engine can make
again what a power cut takes.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from brainchop_pipe.core.bias import bias_field
from brainchop_pipe.core.conform import LabelInterpolation, restore_labels
from brainchop_pipe.core.grid import Volume, is_conformed
from brainchop_pipe.errors import InputError, OutputError
from brainchop_pipe.headers import AffineChoice, Place, Placement
from brainchop_pipe.images import Image, image_bytes, read_image, read_place
from brainchop_pipe.inference.predict import filter_labels, predict
from brainchop_pipe.inference.session import Device
from brainchop_pipe.record import InputDigests, Origin, StepRecord
from brainchop_pipe.settings import Orientation, Preparation, Processing
from brainchop_pipe.steps import (
    ReadyModel,
    Segmentation,
    output_grid,
    prepare,
    segment_labels,
    segment_tissues,
)
from brainchop_pipe.storage import write_whole
from brainchop_pipe.zoo.catalog import find_model
from brainchop_pipe.zoo.fetch import ModelStore


class LabelFiles(NamedTuple):
    """What `segment_labels_file` writes."""

    labels: Path
    record: Path


class TissueFiles(NamedTuple):
    """What `segment_tissues_file` writes."""

    mask: Path
    dseg: Path
    gm: Path
    wm: Path
    csf: Path
    record: Path


class BiasFiles(NamedTuple):
    """What `correct_bias_file` writes."""

    corrected: Path
    field: Path
    brain: Path


def conform_file(in_file: Path, out_file: Path, *, prefer_affine: AffineChoice | None = None) -> Path:
    """Conform an image: 256³ voxels of 1 mm, LIA, uint8.

    Parameters
    ----------
    in_file : Path
        A head: NIfTI or MGH, see `read_image`.
    out_file : Path
        ``.nii`` or ``.nii.gz``; replaced if it is there. Its header says what it was made of.
    prefer_affine : {"sform", "qform"} or None
        Which one to believe where the two contradict each other; None: neither, an error.

    Returns
    -------
    Path
        `out_file`.
    """
    prepared = prepare(in_file, prefer_affine)
    origin = Origin(digests=InputDigests.of(in_file, prepared.image.volume), notes=prepared.notes)
    volume, placement = prepared.conformed.volume, prepared.image.placement
    return _write(out_file, volume, placement, comment=origin.model_dump_json())


def infer_file(
    in_file: Path,
    out_file: Path,
    *,
    model: str,
    device: Device = "auto",
    threads: int = 1,
    full_volume: bool = False,
) -> Path:
    """Run a model on a conformed image and write its label map, before any post-filter.

    Parameters
    ----------
    in_file : Path
        As `conform_file` writes it.
    out_file : Path
        ``.nii`` or ``.nii.gz``.
    model : str
        Name of a shipped card, or path of a card.
    device : str
        "auto": the best that works; a name is strict.
    threads : int
        Of the CPU provider.
    full_volume : bool
        No crop to the head.

    Returns
    -------
    Path
        `out_file`.
    """
    image = _read_conformed(in_file)
    ready = load_model(model)
    prediction = predict(
        image.volume, ready.content, ready.card, device=device, threads=threads, full_volume=full_volume
    )
    return _write(out_file, prediction.labels, image.placement, labels=True)


def post_filter_file(in_file: Path, out_file: Path, *, model: str) -> Path:
    """Apply the post-filter of a model's card to a label map.

    Parameters
    ----------
    in_file : Path
        As `infer_file` writes it.
    out_file : Path
        ``.nii`` or ``.nii.gz``.
    model : str
        Name of a shipped card, or path of a card.

    Returns
    -------
    Path
        `out_file`.
    """
    image = _read_conformed(in_file)
    labels = filter_labels(image.volume.voxels, find_model(model).card)
    return _write(out_file, Volume(labels, image.volume.grid), image.placement, labels=True)


def restore_file(
    in_file: Path,
    reference: Path,
    out_file: Path,
    *,
    interpolation: LabelInterpolation = "linear",
    orientation: Orientation = "ras",
    prefer_affine: AffineChoice | None = None,
) -> Path:
    """Bring a label map from the models' grid onto the grid of the image that it was made of.

    Parameters
    ----------
    in_file : Path
        Integer labels on the models' grid.
    reference : Path
        The image.
    out_file : Path
        ``.nii`` or ``.nii.gz``.
    interpolation : {"linear", "nearest"}
        "linear" weighs the labels around.
    orientation : {"ras", "native"}
        Order of voxels: nearest to RAS+, or the image's own.
    prefer_affine : {"sform", "qform"} or None
        As for `conform_file`.

    Returns
    -------
    Path
        `out_file`.
    """
    labels, target = _read_conformed(in_file).volume, _target(reference, prefer_affine, orientation)
    restored = restore_labels(labels, target.grid, interpolation)
    return _write(out_file, Volume(restored, target.grid), target.placement, labels=True)


def segment_labels_file(
    in_file: Path,
    reference: Path,
    out_dir: Path,
    *,
    model: str,
    device: Device = "auto",
    threads: int = 1,
    full_volume: bool = False,
    interpolation: LabelInterpolation = "linear",
    orientation: Orientation = "ras",
    prefer_affine: AffineChoice | None = None,
) -> LabelFiles:
    """Run one model on a conformed image: infer, post-filter and restore, in memory.

    Parameters
    ----------
    in_file : Path
        As `conform_file` writes it.
    reference : Path
        The image that it was made of.
    out_dir : Path
        Folder for ``seg-LABEL.nii.gz`` and ``.json``, LABEL as in the model's card.
    model : str
        Name of a shipped card, or path of a card.
    device : str
        "auto": the best that works; a name is strict.
    threads : int
        Of the CPU provider.
    full_volume : bool
        No crop to the head.
    interpolation : {"linear", "nearest"}
        On the way back to the image's grid; "linear" weighs the labels around.
    orientation : {"ras", "native"}
        Order of voxels: nearest to RAS+, or the image's own.
    prefer_affine : {"sform", "qform"} or None
        As for `conform_file`.

    Returns
    -------
    LabelFiles
        The label map, and a `StepRecord`.
    """
    processing = Processing(
        prefer_affine=prefer_affine,
        full_volume=full_volume,
        output_orientation=orientation,
        label_interpolation=interpolation,
        device=device,
        threads=threads,
    )
    image, target = _read_conformed(in_file), _target(reference, prefer_affine, orientation)
    ready = load_model(model)
    result = segment_labels(image.volume, target.grid, ready, processing)
    name = f"seg-{ready.card.bids_label}"
    paths = [out_dir / f"{name}.nii.gz"]
    return LabelFiles(*_write_all(paths, out_dir / f"{name}.json", result, image, target.placement))


def segment_tissues_file(
    in_file: Path,
    reference: Path,
    out_dir: Path,
    *,
    mask_model: str,
    tissue_model: str,
    prepare: Preparation = "auto",
    device: Device = "auto",
    threads: int = 1,
    full_volume: bool = False,
    orientation: Orientation = "ras",
    prefer_affine: AffineChoice | None = None,
) -> TissueFiles:
    """Run a mask and a tissue model on a conformed image, into maps that agree with each other.

    Parameters
    ----------
    in_file : Path
        As `conform_file` writes it.
    reference : Path
        The image that it was made of.
    out_dir : Path
        Folder for ``mask``, ``dseg``, ``GM``, ``WM``, ``CSF`` (``.nii.gz``) and ``tissues.json``.
    mask_model : str
        A mask model that includes CSF: name of a shipped card, or path of a card.
    tissue_model : str
        A model of grey and white matter: name of a shipped card, or path of a card.
    prepare : {"auto", "none"}
        "auto": mask and bias correction before the tissue model if its card asks for it.
    device : str
        "auto": the best that works; a name is strict.
    threads : int
        Of the CPU provider.
    full_volume : bool
        No crop to the head.
    orientation : {"ras", "native"}
        Order of voxels: nearest to RAS+, or the image's own.
    prefer_affine : {"sform", "qform"} or None
        As for `conform_file`.

    Returns
    -------
    TissueFiles
        Mask, dseg (1 = GM, 2 = WM, 3 = CSF), three probability maps, and a `StepRecord`.
    """
    processing = Processing(
        prefer_affine=prefer_affine,
        prepare=prepare,
        full_volume=full_volume,
        output_orientation=orientation,
        device=device,
        threads=threads,
    )
    image, target = _read_conformed(in_file), _target(reference, prefer_affine, orientation)
    models = load_model(mask_model), load_model(tissue_model)
    result = segment_tissues(image.volume, target.grid, *models, processing)
    paths = [out_dir / f"{name}.nii.gz" for name in result.maps]
    return TissueFiles(*_write_all(paths, out_dir / "tissues.json", result, image, target.placement))


def correct_bias_file(
    in_file: Path,
    mask: Path,
    out_dir: Path,
    *,
    prefer_affine: AffineChoice | None = None,
) -> BiasFiles:
    """Correct the bias field of an image on its own grid, estimated within a brain mask.

    Parameters
    ----------
    in_file : Path
        The image.
    mask : Path
        On the image's grid, in the image's order of voxels; above 0 is brain.
    out_dir : Path
        Folder for ``corrected.nii.gz``, ``field.nii.gz`` and ``brain.nii.gz``.
    prefer_affine : {"sform", "qform"} or None
        As for `conform_file`.

    Returns
    -------
    BiasFiles
        The whole head corrected, the field that it was divided by, and the corrected
        head within the mask; float32.
    """
    image, brain = read_image(in_file, prefer_affine), read_image(mask, allow_constant=True)
    if not brain.volume.grid.matches(image.volume.grid, tolerance_mm=0.1) or not brain.volume.voxels.any():
        raise InputError(
            f"mask {mask.name} is empty, or not on the grid of {in_file.name}; give a mask of that image "
            "with orientation='native'"
        )
    inside = brain.volume.voxels > 0
    field = bias_field(image.volume, inside)
    corrected = (image.volume.voxels / field).astype(np.float32)
    maps = {"corrected": corrected, "field": field, "brain": corrected * inside}
    paths = [
        _write(out_dir / f"{name}.nii.gz", Volume(voxels, image.volume.grid), image.placement)
        for name, voxels in maps.items()
    ]
    return BiasFiles(*paths)


def load_model(name: str) -> ReadyModel:
    """Find a model by name or card, and load its ONNX file from the cache, or fetch it."""
    model = find_model(name)
    return ReadyModel(model, ModelStore.from_environment().load(model))


def _target(reference: Path, prefer_affine: AffineChoice | None, orientation: Orientation) -> Place:
    """Give the place of an image's outputs."""
    place = read_place(reference, prefer_affine)
    return replace(place, grid=output_grid(place.grid, orientation))


def _read_conformed(path: Path) -> Image:
    image = read_image(path, allow_constant=True)
    voxels = image.volume.voxels
    if not is_conformed(image.volume.grid) or not np.issubdtype(voxels.dtype, np.unsignedinteger):
        raise InputError(
            f"{path.name} has shape {voxels.shape}, orientation {image.volume.grid.orientation} and type "
            f"{voxels.dtype}; 256 x 256 x 256 voxels of 1 mm in LIA order and an unsigned integer type "
            "are needed: conform it first"
        )
    return image


def _write_all(
    paths: list[Path], record: Path, result: Segmentation, conformed: Image, placement: Placement
) -> Iterator[Path]:
    """Write a segmentation's maps in their order, then its record."""
    for path, voxels in zip(paths, result.maps.values(), strict=True):
        yield _write(path, Volume(voxels, result.grid), placement, labels=voxels.dtype.kind == "u")
    with _explained(record):
        write_whole(record, _with_origin(result.record, conformed).encode(), durable=False)
    yield record


def _with_origin(record: StepRecord, conformed: Image) -> str:
    """Add to a record what the conformed image says of its own making; it may say nothing."""
    try:
        origin = Origin.model_validate_json(conformed.comment)
    except ValidationError:
        return record.model_dump_json()
    update = {"digests": origin.digests, "notes": (*origin.notes, *record.notes)}
    return record.model_copy(update=update).model_dump_json()


def _write(
    path: Path, volume: Volume, placement: Placement, *, labels: bool = False, comment: str = ""
) -> Path:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path.name} cannot be written; give a name that ends in .nii or .nii.gz")
    compress = path.name.endswith(".gz")
    content = image_bytes(volume, placement, labels=labels, compress=compress, comment=comment)
    with _explained(path):
        write_whole(path, content, durable=False)
    return path


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what to do where the work folder does not take a file."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free space or name another work folder" if full else "check the work folder"
        raise OutputError(f"{path.name} cannot be written ({error.strerror or error}); {remedy}") from error
