"""The network: a body that sees the head at 2 mm, and a refinement at 1 mm near the brain.

Both bodies, MeshNet and U-Net, get the same features and give the same, so that they can
be compared. Sources: Ronneberger et al. (2015) U-Net, arXiv:1505.04597; Fedorov et al.
(2017) MeshNet, doi:10.1109/IJCNN.2017.7966333.
"""

from itertools import pairwise
from typing import cast

import torch
from brainchop_pipe.models.train import settings
from torch import Tensor, nn

from brainchop_pipe.inference.segmenter import SPACING

# Background has the score 0; each tissue a score relative to it.
SCORES = 3


class Norm(nn.InstanceNorm3d):
    """Instance norm with a weight and a bias for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=True)

    def forward(self, features: Tensor) -> Tensor:
        """Give each channel the mean 0 and the variance 1, then its weight and bias."""
        if not self.training:
            return super().forward(features)
        # Of a batch of one the batch norm is the same, and keeps the order in memory, which halves the time.
        return nn.functional.batch_norm(
            features, None, None, self.weight, self.bias, training=True, eps=self.eps
        )


class Unit(nn.Sequential):
    """Convolution, instance norm, ReLU."""

    def __init__(self, before: int, after: int, dilation: int = 1) -> None:
        super().__init__(
            nn.Conv3d(before, after, 3, padding=dilation, dilation=dilation, bias=False),
            Norm(after),
            nn.ReLU(inplace=True),
        )


class Halve(nn.Sequential):
    """To half the lattice, with other channels."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__(
            nn.Conv3d(before, after, 2, stride=2, bias=False),
            Norm(after),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """A small 3-D U-Net whose ways across are added, not stacked: half the work on the way up."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        steps = list(pairwise(widths))
        self.first = Unit(widths[0], widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(Halve(low, high), Unit(high, high), Unit(high, high)) for low, high in steps
        )
        self.across = nn.ModuleList(nn.Conv3d(high, low, 1) for low, high in steps)
        self.up = nn.ModuleList(Unit(low, low) for low, _ in steps)

    def forward(self, features: Tensor) -> Tensor:
        """Give features of the same shape; each edge is a multiple of 2 to the number of steps."""
        levels = [self.first(features)]
        for down in self.down:
            levels.append(down(levels[-1]))
        found = levels.pop()
        for across, up in zip(reversed(self.across), reversed(self.up), strict=True):
            found = up(repeated_onto(levels.pop(), across(found), self.training))
        return cast(Tensor, found)


class MeshNet(nn.Sequential):
    """A chain of dilated convolutions on one lattice."""

    def __init__(self, width: int, dilations: tuple[int, ...]) -> None:
        super().__init__(*(Unit(width, width, dilation) for dilation in dilations))


class Segmenter(nn.Module):
    """Scores of white matter, grey matter and CSF against background, at 2 mm and at 1 mm."""

    def __init__(self, chosen: settings.Network) -> None:
        super().__init__()
        width, refining = chosen.widths[0], chosen.refining
        self.level = nn.InstanceNorm3d(1)
        self.stem = Halve(1, width)
        self.body = UNet(chosen.widths) if chosen.body == "unet" else MeshNet(width, chosen.dilations)
        self.coarse = nn.Conv3d(width, SCORES, 1)
        self.context = nn.Conv3d(width, refining, 1)
        self.detail = nn.Conv3d(1, refining, 3, padding=1)
        self.refine = nn.Sequential(
            nn.ReLU(inplace=True),
            nn.Conv3d(refining, refining, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv3d(refining, refining, 3, padding=1),
            nn.ReLU(inplace=True),
        )
        self.fine = nn.Conv3d(refining, SCORES, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the evened image (1 mm), features and coarse scores (2 mm).

        Parameters
        ----------
        image : float32, shape (1, 1, I, J, K)
            Each edge a multiple of 16.
        """
        even = self.level(image)
        return even, *self.seen(even)

    def seen(self, even: Tensor) -> tuple[Tensor, Tensor]:
        """Give features and coarse scores (2 mm) of the evened image."""
        features = self.body(self.stem(even))
        return features, self.coarse(features)

    def refined(self, even: Tensor, features: Tensor, coarse: Tensor) -> Tensor:
        """Give scores at 1 mm for a part of the head; parameters as `forward` gives them, cut to it."""
        return self.sharpened(even, self.around(features, coarse))

    def around(self, features: Tensor, coarse: Tensor) -> Tensor:
        """Give what refinement takes from 2 mm: features of its own, then the scores."""
        return torch.cat([self.context(features), coarse], dim=1)

    def sharpened(self, even: Tensor, around: Tensor) -> Tensor:
        """Give scores at 1 mm for a part of the head that `around` describes at 2 mm."""
        width = self.detail.out_channels
        found = self.refine(repeated_onto(self.detail(even), around[:, :width], self.training))
        return repeated_onto(self.fine(found), around[:, width:], self.training)


def repeated_onto(fine: Tensor, coarse: Tensor, training: bool) -> Tensor:
    """Add each voxel of a coarse lattice to the eight that it covers in one of half the spacing."""
    if training:
        return fine + nn.functional.interpolate(coarse, scale_factor=2, mode="nearest")
    # The same, in operators that onnxruntime is many times as fast with: only rows are
    # repeated, planes and lines are broadcast and never take memory.
    rows = torch.stack([coarse, coarse], dim=5).flatten(4)
    planes = fine.unflatten(3, (-1, SPACING)).unflatten(2, (-1, SPACING))
    return (planes + rows[:, :, :, None, :, None]).flatten(4, 5).flatten(2, 3)


def with_background(scores: Tensor) -> Tensor:
    """Put the background's score, 0, before those of the tissues."""
    return torch.cat([torch.zeros_like(scores[:, :1]), scores], dim=1)


def parameter_count(network: nn.Module) -> int:
    """Count the numbers that training fits."""
    return sum(parameter.numel() for parameter in network.parameters())
