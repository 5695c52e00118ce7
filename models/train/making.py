"""Make images of heads from label maps: domain randomisation.

Sources: Billot et al. (2023) SynthSeg, doi:10.1016/j.media.2023.102789; Hoopes et al. (2022)
SynthStrip, doi:10.1016/j.neuroimage.2022.119474. What differs: a share of the images has
the order of grey levels of a kind of image, and matter outside of the brain is made of
two levels each, in smooth patches.
"""

from dataclasses import dataclass

import numpy as np
import torch
from brainchop_pipe.models.train.contrast import grey_levels
from brainchop_pipe.models.train.corruption import as_conformed, corrupt, crop_view, remove_parts
from brainchop_pipe.models.train.fields import (
    Shape,
    look_up,
    random_affine,
    smooth_field,
    source_coordinates,
    take_linear,
    take_nearest,
    white_noise,
)
from brainchop_pipe.models.train.settings import Kind, Making
from brainchop_pipe.models.train.structures import INDEX, TISSUE_OF
from torch import Tensor

# The network halves its lattice four times.
MULTIPLE = 16


@dataclass(frozen=True, eq=False)
class Example:
    """An image and what is to be found in it.

    Parameters
    ----------
    image : float32, shape (I, J, K), 0 to 1
        1 mm, in the orientation of conformed images.
    tissues : uint8, same shape
        Indices of `TISSUES`.
    """

    image: Tensor
    tissues: Tensor


def make_example(structures: Tensor, making: Making, seed: tuple[int, ...]) -> Example:
    """Make an image from a label map.

    Parameters
    ----------
    structures : uint8, shape (I, J, K)
        See `structures_of`; 1 mm, conformed. The image is made on the device that it lies on.
    making : Making
    seed : tuple of int
        The same seed gives the same image, on one kind of device.
    """
    rng = np.random.default_rng(seed)
    kind = str(rng.choice(list(making.kinds), p=_shares(making.kinds)))
    coordinates = _place(structures, making, rng)
    found = take_nearest(structures, coordinates)
    image = _paint(found, kind, making, rng)
    found, image = remove_parts(found, image, making, rng)
    tissues = look_up(TISSUE_OF, found)
    image, tissues = crop_view(corrupt(image, making, rng), tissues, making, rng)
    return Example(as_conformed(image), tissues)


def vary_pair(image: Tensor, tissues: Tensor, making: Making, seed: tuple[int, ...]) -> Example:
    """Make a variant of an image that has labels: moved, deformed and disturbed, its contrast kept.

    Parameters
    ----------
    image : float32, shape (I, J, K)
        Conformed.
    tissues : uint8, same shape
    making, seed
        As for `make_example`.
    """
    rng = np.random.default_rng(seed)
    coordinates = _place(tissues, making, rng)
    moved, labels = take_linear(image, coordinates), take_nearest(tissues, coordinates)
    moved, labels = crop_view(corrupt(moved / 255, making, rng), labels, making, rng)
    return Example(as_conformed(moved), labels)


def _shares(kinds: dict[Kind, float]) -> np.ndarray:
    shares = np.array(list(kinds.values()))
    return np.asarray(shares / shares.sum())


def _place(source: Tensor, making: Making, rng: np.random.Generator) -> list[Tensor]:
    """Choose what part of a head is seen, from where, and how it is deformed."""
    steps = [
        rng.integers(low // MULTIPLE, high // MULTIPLE + 1)
        for low, high in zip(making.least_shape, making.most_shape, strict=True)
    ]
    shape: Shape = (int(steps[0]) * MULTIPLE, int(steps[1]) * MULTIPLE, int(steps[2]) * MULTIPLE)
    brain = _brain_box(source)
    center = brain.mean(axis=0) + rng.normal(0, 1, 3) * making.shift_mm * rng.choice([0.3, 1.0])
    turned = making.rotation_deg * rng.choice([1.0, 2.5], p=[0.85, 0.15])
    matrix = random_affine(rng, turned, making.scaling, making.shear)
    displacement = smooth_field(shape, 7, 3, rng, source.device) * (making.deformation_mm * rng.random())
    finer = smooth_field(shape, 16, 3, rng, source.device) * (0.35 * making.deformation_mm * rng.random())
    return source_coordinates(shape, matrix, center, displacement.add_(finer))


def _brain_box(source: Tensor) -> np.ndarray:
    """Give the corners of what is brain; sampled, since only its middle is needed."""
    coarse = source[::4, ::4, ::4].cpu().numpy()
    points = np.argwhere(TISSUE_OF[coarse] > 0 if coarse.max() > 3 else coarse > 0) * 4.0
    if not len(points):
        return np.array([[0, 0, 0], source.shape])
    return np.array([points.min(axis=0), points.max(axis=0)])


def _paint(found: Tensor, kind: str, making: Making, rng: np.random.Generator) -> Tensor:
    """Give each structure its grey level, with texture, and patches of another level outside of the brain."""
    shape = (found.shape[0], found.shape[1], found.shape[2])
    levels = grey_levels(kind, rng)
    patchy = levels.copy()
    outside = np.flatnonzero(TISSUE_OF == 0)[1:]
    patchy[outside] = np.clip(levels[outside] + rng.normal(0, 0.25, len(outside)), 0, 3)
    if rng.random() < making.lesions:
        patchy[INDEX["white matter"]] = rng.uniform(0, 1.2)
    patches = smooth_field(shape, int(rng.integers(8, 28)), 1, rng, found.device)[0]
    in_brain = look_up(TISSUE_OF, found) > 0
    chosen = torch.where(in_brain, patches > 2.0, patches > rng.normal(0, 0.4))
    image = torch.where(chosen, look_up(patchy, found), look_up(levels, found))
    roughness = rng.uniform(0.0, 0.09, len(levels)).astype(np.float32) * rng.choice([0.4, 1.0])
    roughness[0] *= 0.3
    grain = white_noise(shape, rng, found.device)
    return image.add_(grain.mul_(look_up(roughness, found))).clamp_(min=0)
