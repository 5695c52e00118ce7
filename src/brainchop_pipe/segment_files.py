"""The steps that segment an image from file to file; see `file_steps` for what they have in common."""

from pathlib import Path

from brainchop_pipe.brain import Brain
from brainchop_pipe.core.conform import LabelInterpolation, conform_to
from brainchop_pipe.core.grid import Volume
from brainchop_pipe.errors import InputError, UsageError
from brainchop_pipe.headers import AffineChoice
from brainchop_pipe.images import Image, read_image
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.numbering import LabelScheme
from brainchop_pipe.inference.runner import Precision
from brainchop_pipe.inference.session import Device
from brainchop_pipe.settings import Orientation, Preparation, Processing
from brainchop_pipe.step_files import (
    LabelFiles,
    TissueFiles,
    read_brain,
    read_conformed,
    target_place,
    write_segmentation,
)
from brainchop_pipe.steps import (
    load_model,
    on_models_grid,
    segment_brain_and_tissues,
    segment_labels,
    segment_tissues,
)
from brainchop_pipe.zoo.plan import needs_brain, preparing_of


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
    precision: Precision = "float32",
    threads: int = 1,
    mem_gb: float | None = None,
    full_volume: bool = False,
    interpolation: LabelInterpolation = "linear",
    label_scheme: LabelScheme = "compact",
    orientation: Orientation = "ras",
    keep_conformed: bool = False,
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
    prepare : {"auto", "none", "head", "mask", "brain"}
        What the model sees. "auto": as its card says; "none": the whole head; "head": the
        same, evenly lit; "mask": what lies within the mask; "brain": the same, evenly lit.
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
    interpolation : {"linear", "nearest"}
        On the way back to the image's grid; "linear" weighs the labels around.
    label_scheme : {"compact", "freesurfer"}
        Numbers as the model has them, or those of FreeSurfer's colour table, left and
        right apart, where the card has them.
    orientation : {"ras", "native"}
        Order of voxels: nearest to RAS+, or the image's own.
    keep_conformed : bool
        Also write the labels on the conformed grid, ``conformed.nii.gz``.
    prefer_affine : {"sform", "qform"} or None
        As for `conform_file`.

    Returns
    -------
    LabelFiles
        The label map, that on the conformed grid or None, and a `StepRecord`.
    """
    processing = Processing(
        prefer_affine=prefer_affine,
        prepare=prepare,
        full_volume=full_volume,
        output_orientation=orientation,
        label_interpolation=interpolation,
        label_scheme=label_scheme,
        device=device,
        precision=precision,
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
    written = write_segmentation(
        [labels], record, result, image, target.placement, keep_conformed=keep_conformed
    )
    return LabelFiles(*written)  # type: ignore[arg-type]  # only the place in the middle may be None


def segment_tissues_file(
    in_file: Path,
    reference: Path,
    out_dir: Path,
    *,
    tissue_model: str,
    mask: Path | None = None,
    brain: Path | None = None,
    prepare: Preparation = "auto",
    device: Device = "auto",
    precision: Precision = "float32",
    threads: int = 1,
    mem_gb: float | None = None,
    full_volume: bool = False,
    orientation: Orientation = "ras",
    keep_conformed: bool = False,
    prefer_affine: AffineChoice | None = None,
) -> TissueFiles:
    """Combine a tissue model on a conformed image with a brain mask, into maps that agree with each other.

    Parameters
    ----------
    in_file : Path
        As `conform_file` writes it.
    reference : Path
        The image that it was made of.
    out_dir : Path
        Folder for ``mask``, ``dseg``, ``GM``, ``WM``, ``CSF`` (``.nii.gz``) and ``tissues.json``.
    tissue_model : str
        A model of grey and white matter: name of a shipped card, or path of a card.
    mask : Path or None
        As `extract_brain_file` writes it; None: the tissue model finds the brain as well.
    brain : Path or None
        As `extract_brain_file` writes it; None: the tissue model finds the brain as well.
    prepare : {"auto", "none", "head", "mask", "brain"}
        As for `segment_labels_file`.
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
    orientation : {"ras", "native"}
        Order of voxels: nearest to RAS+, or the image's own.
    keep_conformed : bool
        Also write the labels on the conformed grid, ``conformed.nii.gz``.
    prefer_affine : {"sform", "qform"} or None
        As for `conform_file`.

    Returns
    -------
    TissueFiles
        Mask, dseg (1 = GM, 2 = WM, 3 = CSF), three probability maps, the dseg on the
        conformed grid or None, and a `StepRecord`.
    """
    processing = Processing(
        prefer_affine=prefer_affine,
        prepare=prepare,
        full_volume=full_volume,
        output_orientation=orientation,
        device=device,
        precision=precision,
        threads=threads,
        mem_gb=mem_gb,
    )
    ready = load_model(tissue_model)
    image, target = read_conformed(in_file), target_place(reference, prefer_affine, orientation)
    heads = _heads(ready.card, image, reference, prefer_affine, {})
    if mask is None or brain is None:
        result = segment_brain_and_tissues(image.volume, heads[0], target.grid, ready, processing)
    else:
        seen = read_brain(mask, brain, image.volume.grid)
        result = segment_tissues(heads, target.grid, ready, processing, seen)
    paths = [out_dir / f"{name}.nii.gz" for name in result.maps]
    record = out_dir / "tissues.json"
    written = write_segmentation(
        paths, record, result, image, target.placement, keep_conformed=keep_conformed
    )
    return TissueFiles(*written)  # type: ignore[arg-type]  # only the last place but one may be None


def _brain_for(
    card: ModelCard, processing: Processing, mask: Path | None, brain: Path | None, conformed: Image
) -> Brain | None:
    """Read the brain that a model is to see; None where it sees a whole head, unless it made the mask."""
    if mask is not None and brain is not None:
        return read_brain(mask, brain, conformed.volume.grid)
    way = preparing_of(card, processing.prepare)
    if needs_brain(way):
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
