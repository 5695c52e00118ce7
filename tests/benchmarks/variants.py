"""Disturbed variants of a head: contrast, orientation, resolution, field of view, noise, by a seed."""

from dataclasses import dataclass

import numpy as np
from nibabel import orientations
from scipy import ndimage

from brainchop_pipe.core.grid import Grid, Volume

_CODES = ("LIA", "RAS", "LPS", "ASR", "PIL", "SAR", "RPI", "IAL")


@dataclass(frozen=True, eq=False)
class Variant:
    """A disturbed head.

    Parameters
    ----------
    image : Volume
    seen : bool, shape of the head that it was made of
        Which voxels of that head are in the field of view.
    moved : float64, shape (4, 4)
        Where a point of the head's world lies in the variant's.
    words : str
        What was done.
    """

    image: Volume
    seen: np.ndarray
    moved: np.ndarray
    words: str


def vary(head: Volume, seed: tuple[int, ...]) -> Variant:
    """Disturb a head of about 1 mm; the same seed does the same."""
    rng = np.random.default_rng(seed)
    voxels, words = _contrast(head.voxels.astype(np.float32), rng)
    voxels, said = _noise(voxels, rng)
    seen, cut = _field_of_view(head.voxels.shape, rng)
    moved, turned = _tilt(head.grid, rng)
    image, sampled = _resolution(Volume(voxels * seen, Grid(head.grid.shape, moved @ head.grid.affine)), rng)
    stored, axes = _axes(image, rng)
    return Variant(stored, seen, moved, ", ".join((words, said, cut, turned, sampled, axes)))


def _contrast(voxels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Change the grey levels: gamma, turned round within the head, or bent; then uneven light."""
    top = float(np.percentile(voxels[voxels > 0], 99.5))
    level = (voxels / top).clip(0, 1.2)
    way = rng.choice(["gamma", "turned round", "bent"])
    if way == "gamma":
        exponent = rng.uniform(0.5, 1.8)
        level, words = level**exponent, f"gamma {exponent:.2f}"
    elif way == "turned round":
        # Air stays dark, as it does in every kind of image.
        level, words = (
            np.where(level > 0.08, (1.2 - level).clip(0.02), level * 0.3),
            "grey levels turned round",
        )
    else:
        middle = rng.uniform(0.3, 0.7)
        level, words = np.abs(level - middle) * (level > 0.05), f"grey levels bent at {middle:.2f}"
    knots = rng.normal(0, 0.25, (4, 4, 4))
    light = ndimage.zoom(knots, np.array(voxels.shape) / 4, order=1)
    return (level * np.exp(light)).astype(np.float32) * 1000, words


def _noise(voxels: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    share = rng.choice([0, 0.02, 0.05, 0.08])
    parts = [rng.normal(0, share * 1000, voxels.shape).astype(np.float32) for _ in range(2)]
    return np.hypot(voxels + parts[0], parts[1]), f"noise {share:.0%}"


def _field_of_view(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Blacken up to 15 % of the lattice at one end of an axis, in half of the variants."""
    seen = np.ones(shape, bool)
    if rng.random() < 0.5:
        return seen, "whole"
    axis, share = int(rng.integers(3)), rng.uniform(0.05, 0.3)
    size = shape[axis]
    gone = slice(0, int(share * size)) if rng.random() < 0.5 else slice(size - int(share * size), size)
    index = [slice(None)] * 3
    index[axis] = gone
    seen[tuple(index)] = False
    return seen, f"{share:.0%} of axis {axis} cut off"


def _tilt(grid: Grid, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Turn the head about its middle, as it lies in the scanner."""
    degrees = rng.normal(0, 8, 3)
    turned = np.eye(4)
    for (first, second), angle in zip(((0, 1), (0, 2), (1, 2)), np.deg2rad(degrees), strict=True):
        one = np.eye(4)
        one[np.ix_((first, second), (first, second))] = [
            [np.cos(angle), -np.sin(angle)],
            [np.sin(angle), np.cos(angle)],
        ]
        turned = turned @ one
    middle = (grid.affine @ [*(np.array(grid.shape) / 2), 1])[:3]
    turned[:3, 3] = middle - turned[:3, :3] @ middle
    return turned, f"turned by {np.abs(degrees).max():.0f} degrees"


def _resolution(image: Volume, rng: np.random.Generator) -> tuple[Volume, str]:
    """Sample with larger voxels: thick slices, large cubes, or as it is."""
    way = rng.choice(["as it is", "slices", "cubes"])
    step = np.ones(3)
    if way == "slices":
        step[rng.integers(3)] = rng.uniform(2, 6)
    elif way == "cubes":
        step[:] = rng.uniform(1.2, 3)
    if way == "as it is":
        return image, str(way)
    smooth = ndimage.gaussian_filter(image.voxels, np.where(step > 1, step / 2.355, 0))
    shape = tuple(int(n // s) for n, s in zip(image.grid.shape, step, strict=True))
    voxels = ndimage.affine_transform(smooth, step, 0, shape, order=1)
    affine = image.grid.affine.copy()
    affine[:3, :3] *= step
    return Volume(voxels, Grid(shape, affine)), f"{way} of {step.max():.1f} voxels"


def _axes(image: Volume, rng: np.random.Generator) -> tuple[Volume, str]:
    """Store the voxels along other axes; the world stays."""
    axes = str(rng.choice(_CODES))
    current = orientations.io_orientation(image.grid.affine)
    change = orientations.ornt_transform(current, orientations.axcodes2ornt(axes))
    voxels = orientations.apply_orientation(image.voxels, change)
    affine = image.grid.affine @ orientations.inv_ornt_aff(change, image.grid.shape)
    return Volume(voxels, Grid(voxels.shape, affine)), f"stored as {axes}"
