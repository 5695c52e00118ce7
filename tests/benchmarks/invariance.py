"""How little the tissue volumes depend on the image: ``python -m tests.benchmarks.invariance [HEAD...]``.

Each head is turned, shifted, resampled and lit unevenly in ways that leave its brain
where it is in the world, and goes through a pipeline again. A JSON line for
each head and variant: volumes (mL), and their change (%) against the unchanged head,
which no label is needed for. Where voxels are larger than the models' (`xa30`, `oblique`:
2 mm), linear interpolation blurs and cubic interpolation sharpens: a change of the image,
not of its place alone. A minute for each on two cores. Needs the folder of real data
(BRAINCHOP_SHARED).
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from nibabel import orientations
from scipy import ndimage
from tests.benchmarks.quality import DATASET

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.file_steps import conform_file, extract_brain_file, segment_tissues_file
from brainchop_pipe.images import image_bytes, read_image
from brainchop_pipe.record import StepRecord
from brainchop_pipe.settings import available_cpus
from brainchop_pipe.zoo.catalog import find_model
from brainchop_pipe.zoo.plan import DEFAULT_MASK_MODEL, is_mask_model

HEADS = ("uih", "xa30", "oblique")
TISSUES = {"GM": ("1",), "WM": ("2",), "CSF": ("3",), "brain": ("1", "2")}

# What is brighter than this share of the 99th percentile is head, but for a few voxels.
_HEAD_ABOVE = 0.15
_FIELD = 0.4

Change = Callable[[Volume], Volume]


def turn(image: Volume, axes: str) -> Volume:
    """Store the same voxels along other axes, such as "ASR"; the world stays."""
    current = orientations.io_orientation(image.grid.affine)
    to_axes = orientations.ornt_transform(current, orientations.axcodes2ornt(axes))
    voxels = orientations.apply_orientation(image.voxels, to_axes)
    affine = image.grid.affine @ orientations.inv_ornt_aff(to_axes, image.grid.shape)
    return Volume(voxels, Grid(voxels.shape, affine))


def crop(image: Volume) -> Volume:
    """Leave out the first voxel of each axis: the models' grid moves by half a voxel, the image stays."""
    affine = image.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3].sum(axis=1)
    voxels = image.voxels[1:, 1:, 1:]
    return Volume(voxels, Grid(voxels.shape, affine))


def shift(image: Volume, order: int) -> Volume:
    """Interpolate half a voxel further along each axis, by splines of an order."""
    i, j, k = image.grid.shape
    return _sample(image, (i - 1, j - 1, k - 1), np.full(3, 0.5), np.ones(3), order)


def resample(image: Volume, spacing_mm: float, order: int) -> Volume:
    """Interpolate onto cubes of an edge by splines of an order, smoothed first where the cubes are larger."""
    step = spacing_mm / np.array(image.grid.spacing_mm)
    last = np.array(image.grid.shape) - 1
    i, j, k = (last // step).astype(int) + 1
    start = (last - (np.array((i, j, k)) - 1) * step) / 2
    return _sample(image, (i, j, k), start, step, order)


def light(image: Volume, field: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]) -> Volume:
    """Multiply by a field of x, y, z, each from -1 to 1 over the head."""
    bright = np.argwhere(image.voxels > _HEAD_ABOVE * np.percentile(image.voxels, 99))
    matrix, origin = image.grid.affine[:3, :3], image.grid.affine[:3, 3]
    low, high = np.percentile(bright @ matrix.T + origin, (1, 99), axis=0)
    ijk = np.indices(image.grid.shape, np.float32, sparse=True)
    xyz = (sum(row[a] * ijk[a] for a in range(3)) + start for row, start in zip(matrix, origin, strict=True))
    sides = [
        np.clip((2 * world - a - b) / (b - a), -1, 1) for world, a, b in zip(xyz, low, high, strict=True)
    ]
    return Volume((image.voxels * field(*sides)).astype(np.float32), image.grid)


def _sample(
    image: Volume, shape: tuple[int, int, int], start: np.ndarray, step: np.ndarray, order: int
) -> Volume:
    """Interpolate at `start + step * index`."""
    smooth = ndimage.gaussian_filter(image.voxels.astype(np.float32), np.maximum(step - 1, 0) / 2)
    voxels = ndimage.affine_transform(smooth, step, start, shape, order=order, mode="nearest")
    affine = image.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ start
    affine[:3, :3] *= step
    # Splines swing over: air would become negative, where the raw image has none such.
    return Volume(voxels.clip(image.voxels.min(), image.voxels.max()), Grid(shape, affine))


VARIANTS: dict[str, Change] = {
    "turn ASR": partial(turn, axes="ASR"),
    "turn PIL": partial(turn, axes="PIL"),
    "half voxel, grid": crop,
    "half voxel, cubic": partial(shift, order=3),
    "half voxel, linear": partial(shift, order=1),
    "0.8 mm, linear": partial(resample, spacing_mm=0.8, order=1),
    "0.8 mm, cubic": partial(resample, spacing_mm=0.8, order=3),
    "1.3 mm, linear": partial(resample, spacing_mm=1.3, order=1),
    "1.3 mm, cubic": partial(resample, spacing_mm=1.3, order=3),
    "bias x": partial(light, field=lambda x, _y, _z: 1 + _FIELD * x),
    "bias y": partial(light, field=lambda _x, y, _z: 1 + _FIELD * y),
    "bias z": partial(light, field=lambda _x, _y, z: 1 + _FIELD * z),
    "bias -z": partial(light, field=lambda _x, _y, z: 1 - _FIELD * z),
    "bias cosine": partial(
        light,
        field=lambda x, y, z: 1 + _FIELD * np.cos(np.pi * (0.8 * y + 0.3 * z)) * np.cos(np.pi * 0.8 * x),
    ),
}


def tissue_volumes(image: Path, model: str, folder: Path) -> dict[str, float]:
    """Give the volumes (mL) that a tissue model finds on the models' grid."""
    threads = available_cpus()
    conformed = conform_file(image, folder / "conformed.nii")
    seen = {}
    if not is_mask_model(find_model(model).card):
        brain = extract_brain_file(conformed, folder, mask_model=DEFAULT_MASK_MODEL, threads=threads)
        seen = brain._asdict()
    files = segment_tissues_file(conformed, image, folder, tissue_model=model, threads=threads, **seen)
    found = StepRecord.model_validate_json(files.record.read_bytes()).volumes_mm3
    return {name: sum(found.get(i, 0.0) for i in indices) / 1000 for name, indices in TISSUES.items()}


def measure(head: str, model: str, variants: list[str], folder: Path) -> None:
    """Write a line for a head and for each of its variants."""
    path = DATASET / f"sub-{head}/anat/sub-{head}_T1w.nii.gz"
    image = read_image(path)
    unchanged = tissue_volumes(path, model, folder)
    _report({"head": head, "variant": "unchanged", "mL": _rounded(unchanged)})
    for name in variants:
        changed = folder / "changed.nii"
        changed.write_bytes(image_bytes(VARIANTS[name](image.volume), image.placement, compress=False))
        volumes = tissue_volumes(changed, model, folder)
        change = {tissue: 100 * (volumes[tissue] / unchanged[tissue] - 1) for tissue in TISSUES}
        _report({"head": head, "variant": name, "mL": _rounded(volumes), "percent": _rounded(change)})


def _rounded(values: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 1) for name, value in values.items()}


def _report(row: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("heads", nargs="*", default=HEADS)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--model", default="tissue", help="tissue model; alone, if it finds the brain too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        for head in given.heads:
            measure(head, given.model, given.variants, Path(name))


if __name__ == "__main__":
    main()
