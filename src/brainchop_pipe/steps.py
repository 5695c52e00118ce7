"""The steps from an image to its label maps: each once for arrays in memory, once file to file.

The file forms are what engines wrap; their borders are the borders of the array
forms, so that both give the same bytes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from brainchop_pipe.core.bias import correct_bias
from brainchop_pipe.core.conform import (
    Conformed,
    LabelInterpolation,
    conform,
    restore_labels,
)
from brainchop_pipe.core.grid import Grid, Volume, canonical_grid, is_conformed
from brainchop_pipe.core.tissue import TissueMaps, csf_probability
from brainchop_pipe.errors import InputError
from brainchop_pipe.headers import AffineChoice, Placement
from brainchop_pipe.images import Image, image_bytes, read_image
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.predict import Prediction, filter_labels, post_filter, predict
from brainchop_pipe.inference.session import Device
from brainchop_pipe.settings import Orientation, Processing
from brainchop_pipe.storage import write_whole
from brainchop_pipe.zoo.catalog import Model, find_model
from brainchop_pipe.zoo.fetch import ModelStore

# Share of grey and white matter in the mask. In adults CSF takes 15 to 35 %, in severe
# atrophy nearly half; below the first figure the tissue model did not see the brain.
_FAILED_TISSUE_SHARE = 0.4
_LOW_TISSUE_SHARE = 0.6


@dataclass(frozen=True, eq=False)
class Prepared:
    """An image that is ready for any number of models."""

    image: Image
    conformed: Conformed

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the image and of its way onto the models' grid."""
        return self.image.notes + self.conformed.notes

    def output_grid(self, orientation: Orientation) -> Grid:
        """Give the grid that outputs lie on."""
        return output_grid(self.image.volume.grid, orientation)


def output_grid(grid: Grid, orientation: Orientation) -> Grid:
    """Give the grid that an image's outputs lie on: its voxels, RAS+ or in the file's order."""
    return canonical_grid(grid) if orientation == "ras" else grid


def prepare(path: Path, prefer_affine: AffineChoice | None = None) -> Prepared:
    """Read an image and conform it, once for all models."""
    image = read_image(path, prefer_affine)
    try:
        return Prepared(image, conform(image.volume))
    except InputError as error:
        raise InputError(f"{path.name}: {error}") from error


def run_model(
    prepared: Prepared,
    model: Model,
    content: bytes,
    processing: Processing,
    mask: Prediction | None = None,
) -> Prediction:
    """Predict and post-filter; probabilities come with models of masks and tissues.

    Parameters
    ----------
    content : bytes
        The model's ONNX file.
    mask : Prediction or None
        Brain mask: for models whose cards ask for it, what lies outside is set to 0 and
        the bias field within is corrected.

    Raises
    ------
    InputError
        The model finds nothing at all.
    """
    volume = prepared.conformed.volume
    if mask is not None and wants_brain(model, processing):
        brain = mask.labels.voxels > 0
        volume = Volume(correct_bias(volume.voxels, brain, processing.threads), volume.grid)
    prediction = predict(
        volume,
        content,
        model.card,
        device=processing.device,
        threads=processing.threads,
        full_volume=processing.full_volume,
        with_probabilities=model.card.output.role != "regions",
    )
    if not prediction.labels.voxels.any():
        raise InputError(
            f"model {model.card.name!r} finds nothing in this image; is it a head, upright in its own "
            f"coordinates, in a contrast that the model knows ({', '.join(model.card.modalities)})?"
        )
    return post_filter(prediction, model.card)


def wants_brain(model: Model, processing: Processing) -> bool:
    """Tell whether a model is to see the evenly lit brain only, where a mask is at hand."""
    return processing.prepare == "auto" and model.card.input.prepare == "brain"


def tissue_probabilities(mask: Prediction, tissue: Prediction, card: ModelCard) -> tuple[Volume, ...]:
    """Give the probabilities of brain, GM, WM and CSF on the models' grid.

    Parameters
    ----------
    mask, tissue : Prediction
        With probabilities, on the same grid.
    card : ModelCard
        Of the tissue model.
    """
    brain = mask.probability(1)
    gm = tissue.probability(*card.output.indices_of("GM"))
    wm = tissue.probability(*card.output.indices_of("WM"))
    # A CSF class of the tissue model is among what is neither.
    csf = csf_probability(brain.voxels, (1 - gm.voxels - wm.voxels).clip(0, 1))
    return brain, gm, wm, Volume(csf, mask.grid)


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


def conform_file(in_file: Path, out_file: Path, *, prefer_affine: AffineChoice | None = None) -> Path:
    """Conform an image: 256³ voxels of 1 mm, LIA, uint8.

    Parameters
    ----------
    in_file : Path
        See `read_image`.
    out_file : Path
        ``.nii`` or ``.nii.gz``; replaced if it is there.
    prefer_affine : {"sform", "qform"} or None
    """
    prepared = prepare(in_file, prefer_affine)
    return _write(out_file, prepared.conformed.volume, prepared.image.placement)


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
    model : str
        Name of a shipped card, or path of a card.
    device : str
    threads : int
    full_volume : bool
        No crop to the head.
    """
    image = _read_conformed(in_file)
    found = find_model(model)
    content = ModelStore.from_environment().load(found)
    prediction = predict(
        image.volume, content, found.card, device=device, threads=threads, full_volume=full_volume
    )
    return _write(out_file, prediction.labels, image.placement, labels=True)


def post_filter_file(in_file: Path, out_file: Path, *, model: str) -> Path:
    """Apply the post-filter of a model's card to a label map.

    Parameters
    ----------
    in_file : Path
        As `infer_file` writes it.
    out_file : Path
    model : str
        Name of a shipped card, or path of a card.
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
    interpolation : {"linear", "nearest"}
    orientation : {"ras", "native"}
    prefer_affine : {"sform", "qform"} or None
        As for `conform_file`.
    """
    labels = _read_conformed(in_file).volume
    image = read_image(reference, prefer_affine)
    grid = output_grid(image.volume.grid, orientation)
    restored = restore_labels(labels, grid, interpolation)
    return _write(out_file, Volume(restored, grid), image.placement, labels=True)


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


def _write(path: Path, volume: Volume, placement: Placement, *, labels: bool = False) -> Path:
    if not path.name.endswith((".nii", ".nii.gz")):
        raise InputError(f"{path.name} cannot be written; give a name that ends in .nii or .nii.gz")
    compress = path.name.endswith(".gz")
    write_whole(path, image_bytes(volume, placement, labels=labels, compress=compress))
    return path
