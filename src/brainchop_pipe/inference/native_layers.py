"""The only user of `native`: layers over volumes whose rows are filled up to whole registers."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.chain import Activation, Layer, Norm

try:
    from brainchop_pipe.inference.native import _convolution
except ImportError:  # Built where there was no compiler.
    _convolution: Any = None  # type: ignore[no-redef]

# As in native/convolution.c.
MOST_CHANNELS = 1024
_MOST_OUTPUTS = 6
_ACTIVATIONS: dict[Activation, int] = {"linear": 0, "relu": 1, "elu": 2, "gelu": 3}

# Parts of a layer for each thread, so that one that is held up leaves work to the others.
_PARTS = 4

# Planes that are made together.
FOUR = 4

# Three weights in a row to the six that Winograd's F(4, 3) multiplies, for its points
# 0, sqrt(1/2), -sqrt(1/2), sqrt(2), -sqrt(2) and infinity; and 3 x 3 across rows to 6 x 6.
_HALF = np.sqrt(0.5)
_WINOGRAD = np.array(
    [
        [1, 0, 0],
        [-2 / 3, -2 / 3 * _HALF, -1 / 3],
        [-2 / 3, 2 / 3 * _HALF, -1 / 3],
        [1 / 6, 1 / 3 * _HALF, 1 / 3],
        [1 / 6, -1 / 3 * _HALF, 1 / 3],
        [0, 0, 1],
    ]
)
_ACROSS_ROWS = np.kron(_WINOGRAD, _WINOGRAD)


def is_installed() -> bool:
    """Tell whether the compiled part is there, and knows this processor."""
    return bool(_instructions())


def _instructions() -> tuple[tuple[str, int], ...]:
    """Name the processor's instruction sets, best first, and the voxels that each takes at a time."""
    return () if _convolution is None else _convolution.instructions()


class Rows(NamedTuple):
    """A volume of channels whose rows have room behind them.

    Parameters
    ----------
    voxels : float32, shape (channels, depth, height, row)
        Rows are without gaps, and 0 from `width` on; it may be a part of a larger array.
    width : int
    """

    voxels: np.ndarray
    width: int

    @property
    def inside(self) -> np.ndarray:
        """The volume without the room, as a view."""
        return self.voxels[..., : self.width]

    @property
    def shape(self) -> tuple[int, ...]:
        """Depth, height, width."""
        return (*self.voxels.shape[1:3], self.width)

    def planes(self, first: int, behind: int) -> "Rows":
        """Give some of the planes, as a view."""
        return Rows(self.voxels[:, first:behind], self.width)


class PackedLayer:
    """A layer as the compiled code reads it: blocks of outputs, in each the outputs of a tap side by side.

    Parameters
    ----------
    layer : Layer
        Of 1, 2 or 3 taps along each axis; two are two voxels apart, and halve the volume.
    """

    def __init__(self, layer: Layer) -> None:
        self.outputs, self.inputs, self.taps = layer.weights.shape[:3]
        blocks = np.array_split(layer.weights, -(-self.outputs // _MOST_OUTPUTS))
        if self.taps == 3:
            # Of each place across rows: of inputs, of taps along them, of outputs.
            across = [block.transpose(2, 3, 1, 4, 0).reshape(9, -1) for block in blocks]
            weights = _ACROSS_ROWS @ np.concatenate(across, axis=1).astype(np.float64)
        else:
            weights = np.concatenate([np.moveaxis(block, 0, -1).ravel() for block in blocks])
        self.weights = weights.astype(np.float32).ravel()
        self.bias = np.ascontiguousarray(layer.bias, np.float32)
        self.dilation = layer.dilation
        self.norm = layer.norm
        self.activation = layer.activation


class NativeThreads:
    """Threads that run layers; a context manager."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._instructions, self._across = _instructions()[0]

    def __enter__(self) -> "NativeThreads":
        self._pool = ThreadPoolExecutor(self.count)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def rows(self, channels: int, shape: tuple[int, ...]) -> Rows:
        """Give a volume of zeros."""
        *planes, width = shape
        row = -(-width // self._across) * self._across
        return Rows(np.zeros((channels, *planes, row), np.float32), width)

    def rows_of(self, volume: np.ndarray) -> Rows:
        """Copy channels, shape (C, D, H, W)."""
        made = self.rows(len(volume), volume.shape[1:])
        made.inside[:] = volume
        return made

    def apply(
        self, layer: PackedLayer, seen: Rows, made: Rows | None = None, planes: tuple[int, int] | None = None
    ) -> Rows:
        """Run a layer; into `made`, of which the first channels are taken, or into a new volume.

        Of a layer of the dilation 1 without norm, `planes` alone can be made: the first of
        them, a multiple of `FOUR`, and the one behind the last. The last four is made whole.
        """
        if planes is not None and (layer.dilation != 1 or layer.norm is not None or planes[0] % FOUR):
            raise ValueError(f"planes {planes} alone need the dilation 1, no norm, and a multiple of {FOUR}")
        if made is None:
            shape = tuple(n // 2 for n in seen.shape) if layer.taps == 2 else seen.shape
            made = self.rows(layer.outputs, shape)
        made = Rows(made.voxels[: layer.outputs], made.width)
        norm, depth = layer.norm, made.shape[0]
        # Beyond the longest edge each tap but the middle one sees nothing, however far it is.
        dilation = min(layer.dilation, max(made.shape))
        fours = _count_fours(depth, dilation)
        sums = None if norm is None else np.zeros((fours, layer.outputs, 2))
        convolve = partial(
            _convolution.convolve,
            self._instructions,
            seen.voxels[: layer.inputs],
            made.voxels,
            layer.weights,
            layer.bias,
            sums,
            made.width,
            layer.taps,
            dilation,
            _ACTIVATIONS[layer.activation if norm is None else "linear"],
        )
        first, behind = (0, fours) if planes is None else (planes[0] // FOUR, -(-planes[1] // FOUR))
        self._run_all(convolve, _parts(first, behind, dilation, self.count))
        if norm is not None and sums is not None:
            numbers = _scale_and_shift(norm, sums, int(np.prod(made.shape)))
            scale = partial(_convolution.scale, self._instructions, made.voxels, *numbers, made.width)
            self._run_on_planes(scale, depth, layer.activation)
        return made

    def add_repeated(self, coarse: Rows, fine: Rows, activation: Activation = "linear") -> None:
        """Add each voxel to the eight that it covers in a volume of half the spacing, in place."""
        if fine.shape != tuple(2 * n for n in coarse.shape):
            raise ModelError(
                f"levels of {coarse.shape} and {fine.shape} voxels do not fit each other; each edge of the "
                "volume must be a multiple of 2 to the number of levels"
            )
        repeat = partial(_convolution.repeat, self._instructions, coarse.voxels, fine.voxels, fine.width)
        self._run_on_planes(repeat, fine.shape[0], activation)

    def _run_on_planes(self, function: Callable[..., None], depth: int, activation: Activation) -> None:
        run = partial(function, _ACTIVATIONS[activation])
        self._run_all(run, pairwise(_edges(depth, _PARTS * self.count)))

    def _run_all(self, function: Callable[[Any], None], parts: Iterable[Any]) -> None:
        for _ in self._pool.map(function, parts):
            pass


def _scale_and_shift(norm: Norm, sums: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Give what a norm multiplies voxels with, and adds, where they and their squares sum up to `sums`.

    Right to a thousandth of the deviation up to means of a thousand deviations.
    """
    mean, power = sums.sum(axis=0).T / count
    scale = norm.scale / np.sqrt(np.maximum(power - mean * mean, 0) + norm.epsilon)
    return scale.astype(np.float32), (norm.shift - mean * scale).astype(np.float32)


def _count_fours(depth: int, dilation: int) -> int:
    """Give the number of fours of planes a dilation apart; some at the end are less than four."""
    return depth // (FOUR * dilation) * dilation + min(depth % (FOUR * dilation), dilation)


def _edges(length: int, parts: int) -> list[int]:
    return [length * part // parts for part in range(parts + 1)]


def _parts(first: int, behind: int, dilation: int, threads: int) -> Iterator[tuple[int, int, int]]:
    """Share fours out: first, behind the last, and step, for fours that see the same planes."""
    parts, count = _PARTS * threads, behind - first
    dilation = min(dilation, count)
    if dilation >= parts:
        yield from ((first + rest, behind, dilation) for rest in range(dilation))
        return
    for begin, end in pairwise(first + edge for edge in _edges(count, parts)):
        yield from ((begin + rest, end, dilation) for rest in range(min(dilation, end - begin)))
