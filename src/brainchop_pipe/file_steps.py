"""The steps from file to file: what engines wrap, and nothing else does their work.

A step takes the paths that it reads and the place that it writes to, then its
parameters by keyword. Models are named by a shipped card or by the path of a card.
Results are moved into place whole. Nothing here waits for the disk: an engine can make
again what a power cut takes.
"""

from pathlib import Path

import numpy as np

from brainchop_pipe.brain_steps import find_brain, take_brain
from brainchop_pipe.core.bias import bias_field
from brainchop_pipe.core.conform import LabelInterpolation, restore_labels
from brainchop_pipe.core.grid import Volume, canonical_grid
from brainchop_pipe.core.resample import resample_nearest
from brainchop_pipe.errors import InputError, UsageError
from brainchop_pipe.headers import AffineChoice
from brainchop_pipe.images import read_image
from brainchop_pipe.inference.card_input import Preparing
from brainchop_pipe.inference.filters import filter_labels
from brainchop_pipe.inference.predict import predict
from brainchop_pipe.inference.runner import Precision
from brainchop_pipe.inference.session import Device
from brainchop_pipe.preparation import what_model_sees
from brainchop_pipe.record import InputDigests, Origin
from brainchop_pipe.segment_files import segment_labels_file as segment_labels_file
from brainchop_pipe.segment_files import segment_tissues_file as segment_tissues_file
from brainchop_pipe.settings import Orientation, Preparation, Processing
from brainchop_pipe.step_files import (
    BiasFiles,
    BrainFiles,
    read_conformed,
    read_labels,
    read_on_grid,
    target_place,
    write_brain,
    write_volume,
)
from brainchop_pipe.steps import conform_image, load_model, on_models_grid
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.zoo.catalog import find_model
from brainchop_pipe.zoo.plan import DEFAULT_MASK_MODEL, contrast_model_of


def conform_file(
    in_file: Path, out_file: Path, *, model: str | None = None, prefer_affine: AffineChoice | None = None
) -> Path:
    """Conform an image: 256³ voxels of 1 mm, LIA, uint8, or the grid of a model that wants another.

    Parameters
    ----------
    in_file : Path
        A head: NIfTI or MGH, see `read_image`.
    out_file : Path
        ``.nii`` or ``.nii.gz``; replaced if it is there. Its header says what it was made of.
    model : str or None
        Name of a shipped card, or path of a card, whose grid to use; None: 256³ of 1 mm.
        Only `infer_file` takes other grids; the other steps make them themselves.
    prefer_affine : {"sform", "qform"} or None
        Which one to believe where the two contradict each other; None: neither, an error.

    Returns
    -------
    Path
        `out_file`.
    """
    prepared = conform_image(in_file, prefer_affine)
    origin = Origin(digests=InputDigests.of(in_file, prepared.image.volume), notes=prepared.notes)
    volume = prepared.conformed.volume
    if model is not None:
        volume = on_models_grid(find_model(model).card.input.grid, volume, prepared.image.volume)
    return write_volume(out_file, volume, prepared.image.placement, comment=origin.model_dump_json())


def extract_brain_file(
    in_file: Path,
    out_dir: Path,
    *,
    given_mask: Path | None = None,
    mask_model: str = DEFAULT_MASK_MODEL,
    correct: bool = True,
    measure_contrast: bool = True,
    prepare: Preparation = "auto",
    device: Device = "auto",
    precision: Precision = "float32",
    threads: int = 1,
    mem_gb: float | None = None,
    full_volume: bool = False,
    prefer_affine: AffineChoice | None = None,
) -> BrainFiles:
    """Find the brain in a conformed image, once for all models that want to see it alone.

    Parameters
    ----------
    in_file : Path
        As `conform_file` writes it.
    out_dir : Path
        Folder for ``mask.nii`` and ``brain.nii``.
    given_mask : Path or None
        A mask of the brain with the CSF around it, on any grid in the image's world;
        above 0 is brain. None: the model finds it.
    mask_model : str
        A mask model that includes CSF: name of a shipped card, or path of a card.
    correct : bool
        Correct the bias field within the mask (N4), and look for the grey level of white matter.
    measure_contrast : bool
        Then also measure the contrast of the tissues, for models whose cards name one. The mask
        model tells them apart if it can, without another run where it made the mask, else
        `brainchop_any`.
    prepare : {"auto", "none", "head", "mask", "brain"}
        "none": the model sees the head as it is; "head": its bias field corrected; else
        as its card says.
    device : str
        "auto": the best that works; a name is strict.
    precision : {"float32", "bfloat16"}
        What the network computes in where its card names that; float32 is always allowed.
    threads : int
        Of the CPU provider.
    mem_gb : float or None
        Most that the model may take; None: what it takes in one piece.
    full_volume : bool
        No crop to the head.
    prefer_affine : {"sform", "qform"} or None
        Of `given_mask`; as for `conform_file`.

    Returns
    -------
    BrainFiles
        The probability of brain, and the image within it, float32, cut to its box. Their
        headers say how they came about.
    """
    image = read_conformed(in_file)
    processing = Processing(
        prepare=prepare,
        full_volume=full_volume,
        device=device,
        precision=precision,
        threads=threads,
        mem_gb=mem_gb,
    )
    contrast_model = contrast_model_of(find_model(mask_model)) if measure_contrast else None
    if given_mask is not None:
        mask = read_image(given_mask, prefer_affine, allow_constant=True).volume
        digest = sha256_of_file(given_mask)
        brain = take_brain(
            image.volume, mask, digest, processing, correct=correct, contrast_model=contrast_model
        )
    else:
        ready = load_model(mask_model)
        brain = find_brain(image.volume, ready, processing, correct=correct, contrast_model=contrast_model)
    return write_brain(out_dir, brain, image.placement)


def infer_file(
    in_file: Path,
    out_file: Path,
    *,
    model: str,
    device: Device = "auto",
    precision: Precision = "float32",
    threads: int = 1,
    mem_gb: float | None = None,
    full_volume: bool = False,
) -> Path:
    """Run a model on a conformed image, the whole head, and write its label map before any post-filter.

    The bias field of the head is corrected first where the model's card asks for that.

    Parameters
    ----------
    in_file : Path
        As `conform_file` writes it, for this model if it has a grid of its own.
    out_file : Path
        ``.nii`` or ``.nii.gz``.
    model : str
        Name of a shipped card, or path of a card.
    device : str
        "auto": the best that works; a name is strict.
    precision : {"float32", "bfloat16"}
        What the network computes in where its card names that; float32 is always allowed.
    threads : int
        Of the CPU provider.
    mem_gb : float or None
        Most that the model may take; None: what it takes in one piece.
    full_volume : bool
        No crop to the head.

    Returns
    -------
    Path
        `out_file`.
    """
    ready = load_model(model)
    if ready.card.input.contrasts:
        raise UsageError(f"model {ready.card.name!r} takes several contrasts; use segment_labels_file")
    grid = ready.card.input.grid
    image = read_conformed(in_file) if grid.is_conformed else read_on_grid(in_file, grid)
    way: Preparing = "head" if ready.card.input.prepare == "head" else "none"
    view = what_model_sees((image.volume,), ready.card, way, None, full_volume=full_volume).view
    prediction = predict(
        view, ready.content, ready.card, device=device, precision=precision, threads=threads, mem_gb=mem_gb
    )
    return write_volume(out_file, prediction.labels, image.placement, labels=True)


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
    image = read_labels(in_file)
    volume = image.volume
    labels, _ = filter_labels(volume.voxels, volume.grid.voxel_volume_mm3, find_model(model).card)
    return write_volume(out_file, Volume(labels, image.volume.grid), image.placement, labels=True)


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
    labels, target = read_labels(in_file).volume, target_place(reference, prefer_affine, orientation)
    restored = restore_labels(labels, target.grid, interpolation)
    return write_volume(out_file, Volume(restored, target.grid), target.placement, labels=True)


def mask_image_file(
    in_file: Path, mask: Path, out_file: Path, prefer_affine: AffineChoice | None = None
) -> Path:
    """Write what lies in a brain mask of an image: the same voxels, in the order of the mask.

    Parameters
    ----------
    in_file : Path
        The image.
    mask : Path
        As `segment_tissues_file` writes it, or the label map of a mask model: its own
        voxels, RAS+ or in the file's order; above 0 is brain.
    out_file : Path
    prefer_affine : {"sform", "qform"} or None
        As for `conform_file`.

    Returns
    -------
    Path
        `out_file`.

    Raises
    ------
    InputError
        The mask has other voxels than the image.
    """
    image = read_image(in_file, prefer_affine)
    brain = read_image(mask, allow_constant=True).volume
    grids = (image.volume.grid, canonical_grid(image.volume.grid))
    same = next((grid for grid in grids if grid.matches(brain.grid)), None)
    if same is None:
        raise InputError(f"{mask.name} lies on another grid than {in_file.name}; give a mask of this image")
    voxels = resample_nearest(image.volume, same)
    return write_volume(out_file, Volume(voxels * (brain.voxels > 0), same), image.placement)


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
        write_volume(out_dir / f"{name}.nii.gz", Volume(voxels, image.volume.grid), image.placement)
        for name, voxels in maps.items()
    ]
    return BiasFiles(*paths)
