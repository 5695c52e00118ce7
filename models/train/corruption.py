"""What happens to an image on its way from the body to a file."""

import numpy as np
import torch
from brainchop_pipe.models.train.fields import Shape, blur, look_up, smooth_field, white_noise
from brainchop_pipe.models.train.settings import Making
from brainchop_pipe.models.train.structures import TISSUE_OF
from torch import Tensor
from torch.nn import functional

# As conforming does: the level below which this share of what is not 0 lies becomes the brightest.
_TOP = 0.999
_SAMPLING = 4


def corrupt(image: Tensor, making: Making, rng: np.random.Generator) -> Tensor:
    """Disturb an image: uneven light, gamma, blur, large voxels, thick slices, noise; float32, not negative.

    Parameters
    ----------
    image : float32, shape (I, J, K)
        About 0 to 1.
    making : Making
    rng : numpy.random.Generator
    """
    strength = making.bias * abs(float(rng.normal()))
    light = torch.exp(
        smooth_field(_shape(image), int(rng.integers(2, 6)), 1, rng, image.device)[0].mul_(strength)
    )
    image = image * light
    image = image.clamp_(min=1e-4).pow_(float(np.exp(rng.normal(0, making.gamma))))
    noise = making.noise * float(rng.random()) ** 2
    if rng.random() < making.low_resolution:
        return _resample(image, _voxel_size(making, rng), noise, rng)
    image = blur(image, _sigmas(rng.uniform(0.2, 0.7), rng))
    return _add_noise(image, noise, rng)


def as_conformed(image: Tensor) -> Tensor:
    """Spread an image over 256 grey levels as conforming does, and give it as 0 to 1."""
    sampled = image[::_SAMPLING, ::_SAMPLING, ::_SAMPLING]
    lit = sampled[sampled > 0]
    top = float(torch.quantile(lit, _TOP)) if lit.numel() else 1.0
    return image.mul(255 / max(top, 1e-6)).clamp_(0, 255).round_().div_(255)


def remove_parts(
    found: Tensor, image: Tensor, making: Making, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Take the face away, or all that is not brain, in a share of the images."""
    chance = rng.random()
    if chance < making.brain_only:
        brain = look_up(TISSUE_OF, found) > 0
        grown = blur(brain.float(), (0.6, 0.6, 0.6)) > 0.02 if rng.random() < 0.5 else brain
        return found, image * grown
    if chance < making.brain_only + making.faceless:
        # Conformed images lie in L, I, A: the face is at the end of the second and the third axis.
        size = found.shape
        down = torch.arange(size[1], device=found.device)[None, :, None] > size[1] * rng.uniform(0.5, 0.7)
        front = torch.arange(size[2], device=found.device)[None, None, :] > size[2] * rng.uniform(0.5, 0.75)
        face = down & front & (look_up(TISSUE_OF, found) == 0)
        return found, image.masked_fill_(face, 0)
    return found, image


def crop_view(
    image: Tensor, tissues: Tensor, making: Making, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Blacken what lies beyond the field of view, in a share of the images; nothing is to be found there."""
    if rng.random() >= making.cropped:
        return image, tissues
    seen = torch.ones_like(image, dtype=torch.bool)
    for axis in rng.choice(3, int(rng.integers(1, 3)), replace=False):
        size = image.shape[axis]
        first, last = int(size * rng.uniform(0, 0.3)), int(size * rng.uniform(0.7, 1.0))
        along = torch.arange(size, device=image.device)
        inside = (along >= first * int(rng.integers(0, 2))) & (along < last)
        seen &= inside.view([-1 if a == axis else 1 for a in range(3)])
    return image * seen, tissues * seen


def _shape(image: Tensor) -> Shape:
    return image.shape[0], image.shape[1], image.shape[2]


def _voxel_size(making: Making, rng: np.random.Generator) -> np.ndarray:
    """Draw voxel sizes, mm: slices that are thick along one axis, or large voxels all round."""
    if rng.random() < 0.6:
        size = rng.uniform(1.0, 1.4, 3)
        size[rng.integers(3)] = rng.uniform(1.2, making.thickest_mm)
        return np.asarray(size)
    return np.asarray(rng.uniform(1.0, 2.5) * rng.uniform(0.85, 1.15, 3)).clip(1.0)


def _sigmas(sigma: float, rng: np.random.Generator) -> tuple[float, float, float]:
    i, j, k = sigma * rng.uniform(0.7, 1.3, 3)
    return float(i), float(j), float(k)


def _resample(image: Tensor, size_mm: np.ndarray, noise: float, rng: np.random.Generator) -> Tensor:
    """Measure an image with larger voxels, add noise, and bring it back to 1 mm."""
    shape = image.shape
    # A slice of that thickness, as a Gaussian of the same full width at half maximum.
    i, j, k = np.where(size_mm > 1.05, size_mm / 2.355 * rng.uniform(0.6, 1.1), 0.3)
    smooth = blur(image, (float(i), float(j), float(k)))
    coarse = [max(int(n / s), 2) for n, s in zip(shape, size_mm, strict=True)]
    small = functional.interpolate(smooth[None, None], coarse, mode="trilinear", align_corners=False)
    noisy = _add_noise(small[0, 0], noise, rng)
    back = functional.interpolate(noisy[None, None], shape, mode="trilinear", align_corners=False)
    return back[0, 0]


def _add_noise(image: Tensor, noise: float, rng: np.random.Generator) -> Tensor:
    """Add Rician noise, the magnitude of a complex signal; `noise` is the standard deviation of each part."""
    if noise < 0.003:
        return image.clamp_(min=0)
    real = white_noise(_shape(image), rng, image.device).mul_(noise)
    if rng.random() < 0.3:
        # Many programs blacken the air.
        return image.add_(real).clamp_(min=0)
    imaginary = white_noise(_shape(image), rng, image.device).mul_(noise)
    return real.add_(image).square_().add_(imaginary.square_()).sqrt_()
