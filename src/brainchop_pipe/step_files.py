"""The files that steps hand to each other: read, checked, and written whole.

Nothing here waits for the disk: an engine can make again what a power cut takes.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError

from brainchop_pipe.brain import Brain, box_of_brain
from brainchop_pipe.core.conform import restore_labels
from brainchop_pipe.core.grid import Grid, Volume, grid_around, is_conformed, part_of_volume
from brainchop_pipe.core.resample import resample_linear
from brainchop_pipe.errors import InputError, OutputError
from brainchop_pipe.headers import AffineChoice, Place, Placement
from brainchop_pipe.images import Image, image_bytes, read_image, read_place
from brainchop_pipe.inference.card_input import ModelGrid
from brainchop_pipe.record import BrainRecord, Origin, StepRecord
from brainchop_pipe.settings import Orientation
from brainchop_pipe.steps import Segmentation, output_grid
from brainchop_pipe.storage import write_whole


class BrainFiles(NamedTuple):
    """What `extract_brain_file` writes."""

    mask: Path
    brain: Path


class LabelFiles(NamedTuple):
    """What `segment_labels_file` writes."""

    labels: Path
    conformed: Path | None
    record: Path


class TissueFiles(NamedTuple):
    """What `segment_tissues_file` writes."""

    mask: Path
    dseg: Path
    gm: Path
    wm: Path
    csf: Path
    conformed: Path | None
    record: Path


class BiasFiles(NamedTuple):
    """What `correct_bias_file` writes."""

    corrected: Path
    field: Path
    brain: Path


def read_conformed(path: Path) -> Image:
    """Read an image that `conform_file` wrote, and refuse any other."""
    image = read_image(path, allow_constant=True)
    voxels = image.volume.voxels
    if not is_conformed(image.volume.grid) or not np.issubdtype(voxels.dtype, np.unsignedinteger):
        raise InputError(
            f"{path.name} has shape {voxels.shape}, orientation {image.volume.grid.orientation} and type "
            f"{voxels.dtype}; 256 x 256 x 256 voxels of 1 mm in LIA order and an unsigned integer type "
            "are needed: conform it first"
        )
    return image


def read_on_grid(path: Path, grid: ModelGrid) -> Image:
    """Read an image that `conform_file` wrote for a model with a grid of its own."""
    image = read_image(path, allow_constant=True)
    found = image.volume.grid
    wanted = grid_around(np.zeros(3), grid.shape, grid.spacing_mm, grid.orientation)
    if found.shape != wanted.shape or not np.allclose(found.affine[:3, :3], wanted.affine[:3, :3], atol=1e-5):
        raise InputError(
            f"{path.name} has shape {found.shape}, orientation {found.orientation} and spacing "
            f"{found.spacing_mm} mm; {wanted.shape}, {grid.orientation} and {grid.spacing_mm} mm are "
            "needed: conform it for this model"
        )
    return image


def read_labels(path: Path) -> Image:
    """Read a label map on the grid of a model."""
    image = read_image(path, allow_constant=True)
    if not np.issubdtype(image.volume.voxels.dtype, np.unsignedinteger):
        raise InputError(
            f"{path.name} has the type {image.volume.voxels.dtype}; label maps have an unsigned integer type"
        )
    return image


def read_brain(mask: Path, brain: Path, conformed: Grid) -> Brain:
    """Read what `extract_brain_file` wrote, onto the grid of the conformed image."""
    probability, corrected = (read_image(path, allow_constant=True) for path in (mask, brain))
    try:
        record = BrainRecord.model_validate_json(probability.comment)
    except ValidationError as error:
        raise InputError(
            f"{mask.name} does not say how it was made; give the files of ExtractBrain, or a mask of yours "
            "to ExtractBrain"
        ) from error
    volumes = [Volume(resample_linear(i.volume, conformed), conformed) for i in (probability, corrected)]
    return Brain(volumes[0], volumes[1], record)


def write_brain(out_dir: Path, brain: Brain, placement: Placement) -> BrainFiles:
    """Write a brain mask and the image within it, cut to the brain's box."""
    box = box_of_brain(brain.probability)
    comment = brain.record.model_dump_json()
    paths = out_dir / "mask.nii", out_dir / "brain.nii"
    for path, volume in zip(paths, (brain.probability, brain.corrected), strict=True):
        write_volume(path, part_of_volume(volume, box), placement, comment=comment)
    return BrainFiles(*paths)


def target_place(reference: Path, prefer_affine: AffineChoice | None, orientation: Orientation) -> Place:
    """Give the place of an image's outputs."""
    place = read_place(reference, prefer_affine)
    return replace(place, grid=output_grid(place.grid, orientation))


def write_segmentation(
    paths: list[Path],
    record: Path,
    result: Segmentation,
    conformed: Image,
    placement: Placement,
    *,
    keep_conformed: bool,
) -> Iterator[Path | None]:
    """Write a segmentation's maps in their order, its labels on the conformed grid or None, its record."""
    for path, voxels in zip(paths, result.maps.values(), strict=True):
        yield write_volume(path, Volume(voxels, result.grid), placement, labels=voxels.dtype.kind == "u")
    if keep_conformed:
        grid = conformed.volume.grid
        labels = Volume(restore_labels(result.conformed, grid), grid)
        yield write_volume(record.with_name("conformed.nii.gz"), labels, conformed.placement, labels=True)
    else:
        yield None
    with _explained(record):
        write_whole(record, _with_origin(result.record, conformed).encode(), durable=False)
    yield record


def write_volume(
    path: Path, volume: Volume, placement: Placement, *, labels: bool = False, comment: str = ""
) -> Path:
    """Write an image; see `image_bytes`."""
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path.name} cannot be written; give a name that ends in .nii or .nii.gz")
    compress = path.name.endswith(".gz")
    content = image_bytes(volume, placement, labels=labels, compress=compress, comment=comment)
    with _explained(path):
        write_whole(path, content, durable=False)
    return path


def _with_origin(record: StepRecord, conformed: Image) -> str:
    """Add to a record what the conformed image says of its own making; it may say nothing."""
    try:
        origin = Origin.model_validate_json(conformed.comment)
    except ValidationError:
        return record.model_dump_json()
    update = {"digests": origin.digests, "notes": (*origin.notes, *record.notes)}
    return record.model_copy(update=update).model_dump_json()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Say what to do where the work folder does not take a file."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free space or name another work folder" if full else "check the work folder"
        raise OutputError(f"{path.name} cannot be written ({error.strerror or error}); {remedy}") from error
