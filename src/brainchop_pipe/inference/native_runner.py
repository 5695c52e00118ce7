"""The only user of `native`: MeshNets of few channels on processors, in half of the libraries' time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.chain import Activation, Layer, layers_of
from brainchop_pipe.inference.runner import Precision

try:
    from brainchop_pipe.inference.native import _convolution
except ImportError:  # Built where there was no compiler.
    _convolution: Any = None  # type: ignore[no-redef]

PROVIDER = "Native"

# Libraries fill a register with the channels of a voxel: with more of them than these they are as fast.
_FEW_CHANNELS = 12
# All scores are there at once.
_FEW_CLASSES = 8

# As in native/convolution.c.
_MOST_OUTPUTS = 6
_MOST_CHANNELS = 64
_ACTIVATIONS: dict[Activation, int] = {"linear": 0, "relu": 1, "elu": 2}

# Voxels of a row that are read at once, at most: a row's margins have room for the last of them.
_READ_AT_ONCE = 32
# Parts of a layer for each thread, so that one that is held up leaves work to the others.
_PARTS = 4

_CACHED_MODELS = 8
# No network of few channels is as large.
_MOST_BYTES = 1 << 20


class NativeRunner:
    """A chain of convolutions that runs by code of our own.

    Parameters
    ----------
    model : bytes
        ONNX file.
    threads : int

    Raises
    ------
    ModelError
        The network is no such chain, or too wide.
    """

    provider = PROVIDER
    precision: Precision = "float32"

    def __init__(self, model: bytes, threads: int) -> None:
        layers = layers_of(model)
        if layers is None or _width(layers) > _MOST_CHANNELS or _classes(layers) > _FEW_CLASSES:
            raise ModelError(
                "the network is no chain of 3 x 3 x 3 and 1 x 1 x 1 convolutions of up to "
                f"{_MOST_CHANNELS} channels and {_FEW_CLASSES} classes, each with ReLU, ELU or nothing "
                "behind it; choose another device"
            )
        self._layers = [_Packed(layer) for layer in layers]
        self._threads = threads
        self._instructions = _instructions()[0]

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network over one volume, float32, shape (1, C, D, H, W)."""
        count, channels, depth, height, width = batch.shape
        if count != 1 or channels != self._layers[0].inputs:
            raise ModelError(
                f"shape {batch.shape} was given; one volume of {self._layers[0].inputs} channels is needed"
            )
        margin = max(layer.margin for layer in self._layers)
        row = margin + -(-width // _READ_AT_ONCE) * _READ_AT_ONCE + margin
        widest = max(layer.inputs for layer in self._layers)
        # Margins are never written, and stay 0.
        seen, made = (np.zeros((widest, depth, height, row), np.float32) for _ in range(2))
        seen[:channels, ..., margin : margin + width] = batch[0]
        *inner, last = self._layers
        with ThreadPoolExecutor(self._threads) as threads:
            for layer in inner:
                self._convolve(threads, layer, seen, made[: layer.outputs], (margin, margin), width)
                seen, made = made, seen
            del made
            scores = np.empty((last.outputs, depth, height, width), np.float32)
            self._convolve(threads, last, seen, scores, (margin, 0), width)
        return [scores[np.newaxis]]

    def _convolve(
        self,
        threads: ThreadPoolExecutor,
        layer: "_Packed",
        seen: np.ndarray,
        made: np.ndarray,
        margins: tuple[int, int],
        width: int,
    ) -> None:
        convolve = partial(
            _convolution.convolve,
            self._instructions,
            seen[: layer.inputs],
            made,
            layer.weights,
            layer.bias,
            margins,
            width,
            layer.taps,
            layer.dilation,
            layer.activation,
        )
        for _ in threads.map(convolve, _parts(made.shape[1], layer.dilation, self._threads)):
            pass


class _Packed:
    """A layer as the compiled code reads it: blocks of outputs, in each the outputs of a tap side by side."""

    def __init__(self, layer: Layer) -> None:
        self.outputs, self.inputs, self.taps = layer.weights.shape[:3]
        blocks = np.array_split(layer.weights, -(-self.outputs // _MOST_OUTPUTS))
        packed = [np.moveaxis(block, 0, -1).ravel() for block in blocks]
        self.weights = np.concatenate(packed).astype(np.float32)
        self.bias = np.ascontiguousarray(layer.bias, np.float32)
        self.dilation = layer.dilation
        self.margin = self.taps // 2 * layer.dilation
        self.activation = _ACTIVATIONS[layer.activation]


def is_installed() -> bool:
    """Tell whether the compiled part is there, and knows this processor."""
    return bool(_instructions())


def _instructions() -> tuple[str, ...]:
    """Name the processor's instruction sets that there is code for, best first."""
    return () if _convolution is None else _convolution.instructions()


def pays_for(model: bytes) -> bool:
    """Tell whether a network runs sooner here than with a library: chains of few channels."""
    return len(model) < _MOST_BYTES and is_installed() and _is_small_chain(model)


@lru_cache(_CACHED_MODELS)
def _is_small_chain(model: bytes) -> bool:
    try:
        layers = layers_of(model)
    except ModelError:
        return False
    return (
        layers is not None
        and _width(layers) <= _FEW_CHANNELS
        and _classes(layers) <= _FEW_CLASSES
        and any(layer.weights.shape[-1] > 1 for layer in layers)
    )


def _width(layers: tuple[Layer, ...]) -> int:
    return max(int(layer.weights.shape[1]) for layer in layers)


def _classes(layers: tuple[Layer, ...]) -> int:
    return len(layers[-1].weights)


def _parts(depth: int, dilation: int, threads: int) -> Iterator[tuple[int, int, int]]:
    """Share planes out: first, behind the last, and step, for planes that see the same ones."""
    parts, dilation = _PARTS * threads, min(dilation, depth)
    if dilation >= parts:
        yield from ((first, depth, dilation) for first in range(dilation))
        return
    edges = [depth * part // parts for part in range(parts + 1)]
    for begin, end in pairwise(edges):
        yield from ((begin + rest, end, dilation) for rest in range(min(dilation, end - begin)))
