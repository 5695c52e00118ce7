"""Checks of a whole output: what a validator of BIDS does not see."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from brainchop_pipe.bids.names import is_on_conformed_grid, parse_name
from brainchop_pipe.bids.prov_files import is_described
from brainchop_pipe.bids.publish import image_path, sidecar_path
from brainchop_pipe.bids.results import find_files, read_table
from brainchop_pipe.bids.uris import Places
from brainchop_pipe.core.grid import Volume
from brainchop_pipe.errors import PipeError
from brainchop_pipe.images import read_image, read_place
from brainchop_pipe.settings import available_cpus
from brainchop_pipe.steps import output_grid
from brainchop_pipe.storage import is_leftover, sha256_of_file

# Float32 sums of three probabilities.
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file, in words; the file by its place below the output folder."""

    place: str
    found: str


def verify_output(
    output_dir: Path, bids_dir: Path | None = None, participants: tuple[str, ...] = ()
) -> tuple[int, tuple[Problem, ...]]:
    """Check all images of an output folder against their sidecars, tables, masks and inputs.

    Parameters
    ----------
    output_dir : Path
    bids_dir : Path or None
        The raw dataset; None: where the output's description says it is.
    participants : tuple of str
        Such as ``sub-01``; empty for all.

    Returns
    -------
    (int, tuple of Problem)
        How many images were checked, and what is wrong; nothing if the tuple is empty.
    """
    places = Places.of(output_dir, bids_dir)
    roots = [output_dir / name for name in participants] or [output_dir]
    files = [file for root in roots for file in find_files(root)]
    # Of each input once, however many images were made of it.
    sha256_of_input = cache(sha256_of_file)

    def check(image: Path) -> list[Problem]:
        return list(_check_image(image, output_dir, places, sha256_of_input))

    images = [file for file in files if file.name.endswith(".nii.gz")]
    with ThreadPoolExecutor(available_cpus()) as threads:
        found = threads.map(
            lambda image: list(_check_image(image, output_dir, places, sha256_of_input)), images
        )
        problems = [problem for each in found for problem in each]
        masks = [image for image in images if image.name.endswith("_desc-brain_mask.nii.gz")]
        together = threads.map(lambda mask: list(_check_tissue_set(mask, output_dir)), masks)
        problems += [problem for each in together for problem in each]
    for file in files:
        place = str(file.relative_to(output_dir))
        if is_leftover(file):
            problems.append(Problem(place, "is what a killed run left behind; run again"))
        elif file.suffix == ".json" and _lost_its_image(file):
            problems.append(Problem(place, "is the sidecar of an image that is not there any more"))
    return len(images), tuple(problems)


def _lost_its_image(sidecar: Path) -> bool:
    return not image_path(sidecar).is_file() and b'"Provenance"' in sidecar.read_bytes()


def _check_image(
    image: Path, output_dir: Path, places: Places, sha256_of_input: Callable[[Path], str]
) -> Iterator[Problem]:
    """Check one image against its own sidecar and input."""
    place = str(image.relative_to(output_dir))
    try:
        sidecar = json.loads(sidecar_path(image).read_text(encoding="utf-8"))
        provenance = sidecar["Provenance"]
        recorded, input_ = provenance["Output"], provenance["Input"]
        orientation = provenance["Parameters"]["OutputOrientation"]
        sources = [*sidecar["Sources"], sidecar["SpatialReference"]]
    except (OSError, ValueError, KeyError, TypeError):
        yield Problem(place, "has no sidecar that says how it was made")
        return
    if sha256_of_file(image) != recorded.get("SHA256"):
        yield Problem(place, "has another SHA-256 than its sidecar says: it was changed since, or damaged")
    if not is_described(output_dir, sidecar):
        yield Problem(place, "refers to a description in prov/ that is not there")
    try:
        volume = read_image(image, allow_constant=True).volume
    except PipeError as error:
        yield Problem(place, str(error))
        return
    # An image of no dataset is known by its name alone.
    for uri in (uri for uri in dict.fromkeys(sources) if str(uri).startswith("bids:")):
        path = places.resolve(uri)
        if path is None or not path.is_file():
            yield Problem(place, f"refers to {uri}, which is not there")
    source = places.resolve(input_.get("URI", ""))
    if source is not None and source.is_file():
        if sha256_of_input(source) != input_.get("SHA256"):
            yield Problem(place, f"was made of other content than {source.name} has now")
        if not is_on_conformed_grid(place):
            prefer = provenance["Parameters"].get("PreferAffine")
            yield from (Problem(place, found) for found in _check_grid(volume, source, prefer, orientation))
    yield from (Problem(place, found) for found in _check_values(image, volume))


def _check_grid(volume: Volume, source: Path, prefer: Any, orientation: Any) -> Iterator[str]:
    """Check that an image lies on the grid of the one that it was made of."""
    try:
        grid = read_place(source, prefer).grid
    except PipeError as error:
        yield str(error)
        return
    if not volume.grid.matches(output_grid(grid, orientation)):
        yield f"lies on another grid than {source.name}: {volume.grid.shape}, {volume.grid.orientation}"


def _check_values(image: Path, volume: Volume) -> Iterator[str]:
    """Check types and ranges of an image's voxels, by what its name says that it is."""
    voxels = volume.voxels
    parsed = parse_name(image.name, derivative=True)
    suffix = parsed[1] if parsed else image.name.removesuffix(".nii.gz").rpartition("_")[2]
    if suffix in ("dseg", "mask") and not np.issubdtype(voxels.dtype, np.integer):
        yield f"has the type {voxels.dtype}; labels are integers"
    elif suffix == "mask" and not np.isin(voxels, (0, 1)).all():
        yield "has other values than 0 and 1"
    elif suffix == "dseg":
        known = {row.index for row in read_table(image.with_name(image.name.replace(".nii.gz", ".tsv")))}
        unknown = sorted({int(n) for n in np.unique(voxels)} - known - {0})
        if unknown:
            yield f"has labels that its table lacks: {', '.join(map(str, unknown[:10]))}"
    elif suffix == "probseg" and not (voxels.min() >= 0 and voxels.max() <= 1):
        yield f"has values from {voxels.min()} to {voxels.max()}; probabilities lie from 0 to 1"


def _check_tissue_set(mask_file: Path, output_dir: Path) -> Iterator[Problem]:
    """Check that mask, labels and probabilities of tissues agree with each other."""
    stem = mask_file.name.removesuffix("_desc-brain_mask.nii.gz")

    def voxels(ending: str) -> np.ndarray:
        path = mask_file.with_name(f"{stem}_{ending}.nii.gz")
        return read_image(path, allow_constant=True).volume.voxels

    place = str(mask_file.relative_to(output_dir))
    try:
        mask = voxels("desc-brain_mask") > 0
        if (mask != (voxels("dseg") > 0)).any():
            yield Problem(place, "covers other voxels than the tissue labels")
        total = voxels("label-GM_probseg") + voxels("label-WM_probseg") + voxels("label-CSF_probseg")
        if np.abs(total[mask] - 1).max(initial=0) > _SUM_TOLERANCE:
            yield Problem(place, "has voxels in which the probabilities of GM, WM and CSF do not add up to 1")
    except (PipeError, ValueError) as error:
        yield Problem(place, f"has no tissue maps that fit it: {error}")
