"""The steps from file to file: what engines wrap, and nothing else does their work.

A step takes the paths that it reads and the place that it writes to, then its
parameters by keyword. Models are named by a shipped card or by the path of a card.
Results are moved into place whole. Nothing here waits for the disk: an engine can make
again what a power cut takes.
"""

from pathlib import Path

import numpy as np

from brainchop_pipe.core.bias import bias_field
from brainchop_pipe.core.conform import LabelInterpolation, conform_to, restore_labels
from brainchop_pipe.core.grid import Volume
from brainchop_pipe.errors import InputError, UsageError
from brainchop_pipe.headers import AffineChoice
from brainchop_pipe.images import Image, read_image
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.filters import filter_labels
from brainchop_pipe.inference.numbering import LabelScheme
from brainchop_pipe.inference.predict import predict
from brainchop_pipe.inference.session import Device
from brainchop_pipe.inference.view import view_of
from brainchop_pipe.preparation import Brain, brain_of_mask
from brainchop_pipe.record import Clock, InputDigests, Origin
from brainchop_pipe.settings import Orientation, Preparation, Processing
from brainchop_pipe.step_files import (
    BiasFiles,
    BrainFiles,
    LabelFiles,
    TissueFiles,
    on_models_grid,
    read_brain,
    read_conformed,
    read_labels,
    read_on_grid,
    target_place,
    write_brain,
    write_segmentation,
    write_volume,
)
from brainchop_pipe.steps import ReadyModel, find_brain, prepare, segment_labels, segment_tissues
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.zoo.catalog import find_model
from brainchop_pipe.zoo.check import check_file
from brainchop_pipe.zoo.fetch import ModelStore
from brainchop_pipe.zoo.plan import DEFAULT_MASK_MODEL, preparing_of


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
    prepared = prepare(in_file, prefer_affine)
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
    device: Device = "auto",
    threads: int = 1,
    mem_gb: float | None = None,
    full_volume: bool = False,
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
        Correct the bias field within the mask (N4), and look for the grey level of white
        matter.
    device : str
        "auto": the best that works; a name is strict.
    threads : int
        Of the CPU provider.
    mem_gb : float or None
        Most that the model may take; None: what it takes in one piece.
    full_volume : bool
        No crop to the head.

    Returns
    -------
    BrainFiles
        The probability of brain, and the image within it, float32, cut to its box. Their
        headers say how they came about.
    """
    image = read_conformed(in_file)
    if given_mask is not None:
        mask = read_image(given_mask, allow_constant=True).volume
        if not (mask.voxels > 0).any():
            raise InputError(f"mask {given_mask.name} is empty; above 0 must be brain")
        digest = sha256_of_file(given_mask)
        brain = brain_of_mask(image.volume, mask, digest, Clock(), correct=correct)
    else:
        processing = Processing(full_volume=full_volume, device=device, threads=threads, mem_gb=mem_gb)
        brain = find_brain(image.volume, load_model(mask_model), processing, correct=correct)
    return write_brain(out_dir, brain, image.placement)


def infer_file(
    in_file: Path,
    out_file: Path,
    *,
    model: str,
    device: Device = "auto",
    threads: int = 1,
    mem_gb: float | None = None,
    full_volume: bool = False,
) -> Path:
    """Run a model on a conformed image, the whole head, and write its label map before any post-filter.

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
    grid = ready.card.input.grid
    image = read_conformed(in_file) if grid.is_conformed else read_on_grid(in_file, grid)
    view = view_of((image.volume,), ready.card, full_volume=full_volume)
    prediction = predict(view, ready.content, ready.card, device=device, threads=threads, mem_gb=mem_gb)
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


def segment_labels_file(
    in_file: Path,
    reference: Path,
    out_dir: Path,
    *,
    model: str,
    mask: Path | None = None,
    brain: Path | None = None,
    contrasts: tuple[str, ...] = (),
    contrast_files: tuple[Path, ...] = (),
    prepare: Preparation = "auto",
    device: Device = "auto",
    threads: int = 1,
    mem_gb: float | None = None,
    full_volume: bool = False,
    interpolation: LabelInterpolation = "linear",
    label_scheme: LabelScheme = "compact",
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
    mask : Path or None
        As `extract_brain_file` writes it; None only if the model sees the whole head.
    brain : Path or None
        As `extract_brain_file` writes it; None only if the model sees the whole head.
    contrasts : tuple of str
        BIDS suffixes of further images of the head, for models of several channels.
    contrast_files : tuple of Path
        These images, one a contrast, in the same place in the world as the first.
    prepare : {"auto", "none", "mask", "brain"}
        What the model sees. "auto": as its card says; "none": the whole head; "mask": what
        lies within the mask; "brain": the same, evenly lit.
    device : str
        "auto": the best that works; a name is strict.
    threads : int
        Of the CPU provider.
    mem_gb : float or None
        Most that the model may take; None: what it takes in one piece.
    full_volume : bool
        No crop to the head.
    interpolation : {"linear", "nearest"}
        On the way back to the image's grid; "linear" weighs the labels around.
    label_scheme : {"compact", "freesurfer"}
        Numbers as the model has them, or those of FreeSurfer's colour table, left and
        right apart, where the card has them.
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
        prepare=prepare,
        full_volume=full_volume,
        output_orientation=orientation,
        label_interpolation=interpolation,
        label_scheme=label_scheme,
        device=device,
        threads=threads,
        mem_gb=mem_gb,
    )
    ready = load_model(model)
    image, target = read_conformed(in_file), target_place(reference, prefer_affine, orientation)
    seen = _brain_for(ready.card, processing, mask, brain, image)
    others = dict(zip(contrasts, contrast_files, strict=True))
    heads = _heads(ready.card, image, reference, prefer_affine, others)
    result = segment_labels(heads, target.grid, ready, processing, seen)
    stem = f"seg-{ready.card.bids_label}"
    labels, record = out_dir / f"{stem}.nii.gz", out_dir / f"{stem}.json"
    return LabelFiles(*write_segmentation([labels], record, result, image, target.placement))


def segment_tissues_file(
    in_file: Path,
    reference: Path,
    mask: Path,
    brain: Path,
    out_dir: Path,
    *,
    tissue_model: str,
    prepare: Preparation = "auto",
    device: Device = "auto",
    threads: int = 1,
    mem_gb: float | None = None,
    full_volume: bool = False,
    orientation: Orientation = "ras",
    prefer_affine: AffineChoice | None = None,
) -> TissueFiles:
    """Combine a tissue model on a conformed image with a brain mask, into maps that agree with each other.

    Parameters
    ----------
    in_file : Path
        As `conform_file` writes it.
    reference : Path
        The image that it was made of.
    mask : Path
        As `extract_brain_file` writes it.
    brain : Path
        As `extract_brain_file` writes it.
    out_dir : Path
        Folder for ``mask``, ``dseg``, ``GM``, ``WM``, ``CSF`` (``.nii.gz``) and ``tissues.json``.
    tissue_model : str
        A model of grey and white matter: name of a shipped card, or path of a card.
    prepare : {"auto", "none", "mask", "brain"}
        As for `segment_labels_file`.
    device : str
        "auto": the best that works; a name is strict.
    threads : int
        Of the CPU provider.
    mem_gb : float or None
        Most that the model may take; None: what it takes in one piece.
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
        mem_gb=mem_gb,
    )
    ready = load_model(tissue_model)
    image, target = read_conformed(in_file), target_place(reference, prefer_affine, orientation)
    seen = read_brain(mask, brain, image.volume.grid)
    heads = _heads(ready.card, image, reference, prefer_affine, {})
    result = segment_tissues(heads, target.grid, ready, processing, seen)
    paths = [out_dir / f"{name}.nii.gz" for name in result.maps]
    return TissueFiles(*write_segmentation(paths, out_dir / "tissues.json", result, image, target.placement))


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


def load_model(name: str) -> ReadyModel:
    """Find a model by name or card, load its ONNX file from the cache, or fetch it, and check it."""
    model = find_model(name)
    content = ModelStore.from_environment().load(model)
    check_file(model, content)
    return ReadyModel(model, content)


def _brain_for(
    card: ModelCard, processing: Processing, mask: Path | None, brain: Path | None, conformed: Image
) -> Brain | None:
    """Read the brain that a model is to see; None where it sees the whole head, unless it made the mask."""
    if mask is not None and brain is not None:
        return read_brain(mask, brain, conformed.volume.grid)
    way = preparing_of(card, processing.prepare)
    if way != "none":
        raise UsageError(
            f"model {card.name!r} is to see the brain alone (prepare {way!r}); give the mask and the brain "
            "that ExtractBrain makes, or prepare='none'"
        )
    return None


def _heads(
    card: ModelCard,
    conformed: Image,
    reference: Path,
    prefer_affine: AffineChoice | None,
    others: dict[str, Path],
) -> tuple[Volume, ...]:
    """Give the channels of a model on its grid; `others` are further contrasts by suffix."""
    missing = [suffix for suffix in card.input.contrasts[1:] if suffix not in others]
    if missing:
        raise InputError(
            f"model {card.name!r} needs {' and '.join(missing)} of {reference.name} as well; give them as "
            "contrasts, in the same place in the world"
        )
    grid = card.input.grid
    if grid.is_conformed:
        first = conformed.volume
    else:
        first = on_models_grid(grid, conformed.volume, read_image(reference, prefer_affine).volume)
    images = (read_image(others[suffix], prefer_affine).volume for suffix in card.input.contrasts[1:])
    return (first, *(conform_to(image, first.grid, raw=grid.values == "raw") for image in images))
