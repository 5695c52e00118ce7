"""The ways of running a network over a volume: in one go, in tiles, by votes of pieces, slice by slice."""

from dataclasses import dataclass

import numpy as np

from brainchop_pipe.core.grid import Grid
from brainchop_pipe.core.resample import Box
from brainchop_pipe.core.tiles import Tile, full_box, plan_tiles, smallest_tile_voxels
from brainchop_pipe.core.voting import Votes, sub_volume_boxes
from brainchop_pipe.errors import UsageError
from brainchop_pipe.inference import openvino_runner
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.card_input import Plane, Slices, SubVolumes, WholeVolume
from brainchop_pipe.inference.network import Network, Scores, label_dtype

# Of a model's memory, what does not grow with the volume: libraries, session, weights.
_FIXED_GB = 0.25

# OpenVINO takes up to so many times the memory that a card states, which is onnxruntime's.
OPENVINO_MEMORY = 2.5

# Which ends of the body an axis of each plane's slices connects.
_ACROSS: dict[Plane, str] = {"sagittal": "LR", "coronal": "AP", "axial": "IS"}


@dataclass(frozen=True)
class FieldOfView:
    """What a network saw, and in which pieces.

    Parameters
    ----------
    box : tuple of three slices
        Part of the grid.
    description : str
        For people.
    """

    box: Box
    description: str


def run_way(
    network: Network, channels: np.ndarray, grid: Grid, box: Box, mem_gb: float | None
) -> tuple[Scores, FieldOfView]:
    """Run a network over a box of a volume in the way that its card names.

    Parameters
    ----------
    network : Network
    channels : real numbers, shape (channels, *box)
    grid : Grid
        Of the volume that the box is a part of.
    box : tuple of three slices
    mem_gb : float or None
        Most that the network may take; a whole volume is cut into tiles to keep it.

    Returns
    -------
    (Scores, FieldOfView)
        Scores have the shape of the box.

    Raises
    ------
    UsageError
        The network does not fit into `mem_gb`, even in tiles.
    """
    run = network.card.input.run
    size = " x ".join(str(n) for n in channels.shape[1:])
    if isinstance(run, Slices):
        return _run_slices(network, channels, grid, run), FieldOfView(
            box, f"{size}, slice by slice ({', '.join(run.planes)})"
        )
    if isinstance(run, SubVolumes):
        scores, count = _run_sub_volumes(network, channels, run)
        return scores, FieldOfView(box, f"{size}, votes of {count} pieces of {run.shape}")
    if mem_gb is not None and network.execution.provider == openvino_runner.PROVIDER:
        mem_gb = max(mem_gb / OPENVINO_MEMORY, least_gb(network.card))
    tiles = _tiles(network.card, channels.shape[1:], run, mem_gb)
    if len(tiles) == 1:
        return network.run(channels), FieldOfView(box, size)
    described = f"{size}, in {len(tiles)} tiles with a halo of {run.halo}"
    return _run_tiles(network, channels, tiles), FieldOfView(box, described)


def need_gb(card: ModelCard, voxels: float) -> float:
    """Give the memory that a network takes for a number of voxels at once, gigabytes."""
    share = voxels / np.prod(card.input.grid.shape)
    return float(_FIXED_GB + max(card.memory.full_gb - _FIXED_GB, 0) * share)


def least_gb(card: ModelCard, *, full_volume: bool = False) -> float:
    """Give the memory with which a network runs at all: in the smallest tiles, where it may be tiled."""
    run = card.input.run
    if isinstance(run, WholeVolume) and run.halo is not None:
        return need_gb(card, smallest_tile_voxels(card.input.grid.shape, run.halo))
    whole = full_volume or card.input.crop is None
    return card.memory.full_gb if whole else card.memory.cropped_gb


def _tiles(
    card: ModelCard, shape: tuple[int, ...], run: WholeVolume, mem_gb: float | None
) -> tuple[Tile, ...]:
    voxels = float(np.prod(shape))
    limits = [limit for limit in (mem_gb, run.most_gb) if limit is not None]
    mem_gb = min(limits, default=None)
    if mem_gb is None or run.halo is None or need_gb(card, voxels) <= mem_gb:
        return (Tile(full_box(shape), full_box(shape)),)
    most = voxels * (mem_gb - _FIXED_GB) / (need_gb(card, voxels) - _FIXED_GB)
    tiles = plan_tiles(shape, run.halo, most)
    if tiles is None:
        raise UsageError(
            f"model {card.name!r} needs {least_gb(card):.1f} GB in its smallest tiles; {mem_gb:.1f} GB are "
            "allowed for it. Allow more, or choose a smaller model"
        )
    return tiles


def _run_tiles(network: Network, channels: np.ndarray, tiles: tuple[Tile, ...]) -> Scores:
    first, *others = tiles
    scores = network.run(channels[(slice(None), *first.seen)])
    whole = _empty_like(scores, channels.shape[1:])
    _put(whole, first, scores)
    # They lie in onnxruntime's memory, which the next tile could not have else.
    del scores
    for tile in others:
        _put(whole, tile, network.run(channels[(slice(None), *tile.seen)]))
    return whole


def _put(whole: Scores, tile: Tile, scores: Scores) -> None:
    whole.labels[tile.core] = scores.labels[tile.inner]
    whole.confidence[tile.core] = scores.confidence[tile.inner]
    if whole.probabilities is not None and scores.probabilities is not None:
        whole.probabilities[(slice(None), *tile.core)] = scores.probabilities[(slice(None), *tile.inner)]


def _empty_like(scores: Scores, shape: tuple[int, ...]) -> Scores:
    probabilities = scores.probabilities
    return Scores(
        np.zeros(shape, scores.labels.dtype),
        np.zeros(shape, np.float32),
        None if probabilities is None else np.zeros((len(probabilities), *shape), np.float32),
    )


def _run_sub_volumes(network: Network, channels: np.ndarray, run: SubVolumes) -> tuple[Scores, int]:
    """Let pieces vote; probabilities are shares of the votes. A box smaller than a piece is padded."""
    shape = channels.shape[1:]
    missing = [(0, max(edge - size, 0)) for edge, size in zip(run.shape, shape, strict=True)]
    padded = np.pad(channels, [(0, 0), *missing])
    i, j, k = padded.shape[1:]
    votes, count = Votes((i, j, k), len(network.card.output.labels)), 0
    for box in sub_volume_boxes((i, j, k), run.shape, run.count, run.sd_share, run.seed):
        votes.add(box, network.run(padded[(slice(None), *box)]).labels)
        count += 1
    labels, confidence, shares = votes.result()
    keep = tuple(slice(0, size) for size in shape)
    labels = labels[keep].astype(label_dtype(network.card))
    probabilities = shares[(slice(None), *keep)] if network.with_probabilities else None
    return Scores(labels, confidence[keep], probabilities), count


def _run_slices(network: Network, channels: np.ndarray, grid: Grid, run: Slices) -> Scores:
    """Average the probabilities of all planes' slices."""
    total: np.ndarray | None = None
    for plane in run.planes:
        axis = next(a for a, code in enumerate(grid.orientation) if code in _ACROSS[plane])
        slices = np.moveaxis(channels, axis + 1, 0)
        found = [network.run(slices[low : low + run.batch]) for low in range(0, len(slices), run.batch)]
        probabilities = np.concatenate(
            [scores.probabilities for scores in found if scores.probabilities is not None], axis=1
        )
        along = np.moveaxis(probabilities, 1, axis + 1)
        total = along if total is None else total + along
    mean = np.asarray(total) / np.float32(len(run.planes))
    labels = mean.argmax(axis=0).astype(label_dtype(network.card))
    return Scores(labels, mean.max(axis=0), mean if network.with_probabilities else None)
