"""Smooth random fields and transforms, on the lattice of an image to be made."""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Shape = tuple[int, int, int]

# Below this width, in voxels, smoothing changes nothing that noise would not hide.
_LEAST_SIGMA = 0.2


def smooth_field(
    shape: Shape, knots: int, channels: int, rng: np.random.Generator, device: torch.device
) -> Tensor:
    """Draw smooth random fields: normal values on a few knots, interpolated.

    Parameters
    ----------
    shape : tuple of three ints
    knots : int
        Along each axis.
    channels : int
    rng : numpy.random.Generator
    device : torch.device
        Where the fields are to lie.

    Returns
    -------
    float32, shape (channels, I, J, K)
    """
    values = torch.from_numpy(rng.standard_normal((1, channels, knots, knots, knots), np.float32))
    return functional.interpolate(values.to(device), shape, mode="trilinear", align_corners=True)[0]


def white_noise(shape: Shape, rng: np.random.Generator, device: torch.device) -> Tensor:
    """Draw normal values on a device, by a seed from a generator: float32, `shape`."""
    generator = torch.Generator(device).manual_seed(int(rng.integers(2**62)))
    return torch.randn(shape, generator=generator, device=device)


def look_up(table: np.ndarray, index: Tensor) -> Tensor:
    """Give the value of a table for each voxel of a volume of indices, where that volume lies."""
    return torch.from_numpy(table).to(index.device)[index.int()]


def random_affine(rng: np.random.Generator, rotation_deg: float, scaling: float, shear: float) -> np.ndarray:
    """Draw the 3×3 part of a transform: rotations about three axes, scaling, shear, and a flip of the sides.

    Parameters
    ----------
    rotation_deg, scaling, shear : float
        Standard deviation of angles and shear; largest deviation of a scale from 1.
    """
    matrix = np.eye(3)
    for axes in ((0, 1), (0, 2), (1, 2)):
        angle = np.deg2rad(rng.normal(0, rotation_deg))
        turn = np.eye(3)
        turn[np.ix_(axes, axes)] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        matrix = matrix @ turn
    sheared = np.eye(3) + np.triu(rng.normal(0, shear, (3, 3)), 1)
    common = rng.uniform(1 - scaling, 1 + scaling)
    scales = common * rng.uniform(1 - scaling / 3, 1 + scaling / 3, 3)
    flip = np.diag([rng.choice([-1.0, 1.0]), 1.0, 1.0])
    return np.asarray(flip @ matrix @ sheared @ np.diag(scales))


def source_coordinates(
    shape: Shape, matrix: np.ndarray, center: np.ndarray, displacement: Tensor
) -> list[Tensor]:
    """Give for each voxel to be made where it lies in the source, in voxels of the source.

    Parameters
    ----------
    shape : tuple of three ints
    matrix : float64, shape (3, 3)
    center : float64, shape (3,)
        Point of the source that comes to lie in the middle.
    displacement : float32, shape (3, I, J, K)
        Added, in voxels of the source.

    Returns
    -------
    list of three float32 arrays of `shape`
    """
    along = [torch.arange(n, dtype=torch.float32, device=displacement.device) - (n - 1) / 2 for n in shape]
    i, j, k = along[0][:, None, None], along[1][None, :, None], along[2][None, None, :]
    found = []
    for row in range(3):
        a, b, c = (float(v) for v in matrix[row])
        plane = (b * j + c * k) + float(center[row])
        found.append((a * i + plane).add_(displacement[row]))
    return found


def take_nearest(source: Tensor, coordinates: list[Tensor]) -> Tensor:
    """Read a volume at the nearest voxels; 0 outside of it."""
    index = torch.zeros_like(coordinates[0], dtype=torch.int32)
    inside = torch.ones_like(coordinates[0], dtype=torch.bool)
    for size, along in zip(source.shape, coordinates, strict=True):
        nearest = along.round().to(torch.int32)
        inside &= (nearest >= 0) & (nearest < size)
        index = index.mul_(size).add_(nearest.clamp_(0, size - 1))
    return torch.take(source, index.long()) * inside


def take_linear(source: Tensor, coordinates: list[Tensor]) -> Tensor:
    """Read a volume between its voxels; 0 outside of it."""
    scaled = [2 * c / max(n - 1, 1) - 1 for c, n in zip(coordinates, source.shape, strict=True)]
    grid = torch.stack(scaled[::-1], dim=-1)[None]
    return functional.grid_sample(source[None, None], grid, align_corners=True)[0, 0]


def blur(image: Tensor, sigmas: tuple[float, float, float]) -> Tensor:
    """Smooth a volume with a Gaussian of another width, in voxels, along each axis; what lies beyond is 0."""
    for axis, sigma in enumerate(sigmas):
        if sigma >= _LEAST_SIGMA:
            image = _blur_along(image, axis, sigma)
    return image


def _blur_along(image: Tensor, axis: int, sigma: float) -> Tensor:
    # Sums of shifted volumes take a tenth of the time that a convolution of one channel takes on a CPU.
    radius = max(1, round(2.5 * sigma))
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
    weights = weights / (2 * weights.sum() - weights[0])
    smooth = image * float(weights[0])
    size = image.shape[axis]
    for offset, weight in enumerate(weights[1:].tolist(), start=1):
        smooth.narrow(axis, 0, size - offset).add_(image.narrow(axis, offset, size - offset), alpha=weight)
        smooth.narrow(axis, offset, size - offset).add_(image.narrow(axis, 0, size - offset), alpha=weight)
    return smooth
