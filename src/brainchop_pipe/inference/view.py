"""What a network gets to see of an image: its channels in the scale of its training, cropped to the head."""

from dataclasses import dataclass

import numpy as np

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.intensity import scale_by_quantiles, scale_by_range
from brainchop_pipe.core.resample import Box
from brainchop_pipe.core.scaling import scale_by_deviation, scale_by_foreground_quantiles, scale_by_window
from brainchop_pipe.core.tiles import full_box, head_box
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.card_input import (
    Intensity,
    QuantileScaling,
    RangeScaling,
    WindowScaling,
    ZScoreScaling,
)

_EIGHT_BITS = 255


@dataclass(frozen=True, eq=False)
class View:
    """What a network gets to see.

    Parameters
    ----------
    channels : real numbers, shape (channels, *box)
        In the scale that the network was trained with.
    grid : Grid
        Of the whole volume.
    box : tuple of three slices
        The part of it that is run.
    """

    channels: np.ndarray
    grid: Grid
    box: Box


def view_of(volumes: tuple[Volume, ...], card: ModelCard, *, full_volume: bool = False) -> View:
    """Scale an image's channels as a card says, and find the head.

    Parameters
    ----------
    volumes : tuple of Volume
        One a channel, on one grid; the first decides the crop.
    card : ModelCard
    full_volume : bool
        No crop.
    """
    first = volumes[0]
    box = crop_box(_to_eight_bits(first.voxels), card, full_volume=full_volume)
    return View(as_channels([scaled(v.voxels, card.input.intensity, box) for v in volumes]), first.grid, box)


def as_channels(volumes: list[np.ndarray]) -> np.ndarray:
    """Put volumes of one shape behind each other along a first axis; a single one is not copied."""
    return volumes[0][np.newaxis] if len(volumes) == 1 else np.stack(volumes)


def crop_box(head: np.ndarray, card: ModelCard, *, full_volume: bool = False) -> Box:
    """Give the part of a volume that a card wants to see.

    Parameters
    ----------
    head : uint8, shape (I, J, K)
    card : ModelCard
    full_volume : bool
        All of it, whatever the card says.
    """
    crop = card.input.crop
    if crop is None or full_volume:
        return full_box(head.shape)
    return head_box(head, crop.threshold, crop.margin_voxels)


def scaled(voxels: np.ndarray, scaling: Intensity, box: Box | None = None) -> np.ndarray:
    """Scale an image, or a part of it, as a card says, by the grey values of all of it: float32."""
    if voxels.dtype == np.uint8:
        if isinstance(scaling, QuantileScaling) and scaling.over == "volume":
            return scale_by_quantiles(voxels, scaling.low, scaling.high, scaling.epsilon, box)
        if isinstance(scaling, RangeScaling):
            return scale_by_range(voxels, box)
    whole = _scaled(voxels, scaling)
    return whole if box is None else whole[box]


def _scaled(voxels: np.ndarray, scaling: Intensity) -> np.ndarray:
    if isinstance(scaling, QuantileScaling):
        if scaling.over == "volume":
            bottom, top = np.quantile(voxels, (scaling.low, scaling.high))
            return scale_by_window(voxels, float(bottom), float(top + scaling.epsilon))
        return scale_by_foreground_quantiles(voxels, scaling.low, scaling.high, scaling.epsilon)
    if isinstance(scaling, RangeScaling):
        low, high = float(voxels.min()), float(voxels.max())
        return scale_by_window(voxels, low, high if high > low else low + 1)
    if isinstance(scaling, ZScoreScaling):
        return scale_by_deviation(voxels, foreground_only=scaling.over == "foreground")
    if isinstance(scaling, WindowScaling):
        return scale_by_window(voxels, scaling.low, scaling.high)
    return voxels.astype(np.float32)


def _to_eight_bits(voxels: np.ndarray) -> np.ndarray:
    """Give grey levels of 0 to 255 for finding the head."""
    if voxels.dtype == np.uint8:
        return voxels
    return (_scaled(voxels, RangeScaling(method="minmax")) * _EIGHT_BITS).astype(np.uint8)
