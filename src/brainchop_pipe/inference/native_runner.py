"""The only user of `native`: MeshNets on processors, in half of the libraries' time or less."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.chain import Activation, Layer, Norm, layers_of
from brainchop_pipe.inference.runner import Precision

try:
    from brainchop_pipe.inference.native import _convolution
except ImportError:  # Built where there was no compiler.
    _convolution: Any = None  # type: ignore[no-redef]

PROVIDER = "Native"

# As in native/convolution.c.
_MOST_OUTPUTS = 6
_MOST_CHANNELS = 256
_ACTIVATIONS: dict[Activation, int] = {"linear": 0, "relu": 1, "elu": 2, "gelu": 3}

# Parts of a layer for each thread, so that one that is held up leaves work to the others.
_PARTS = 4

_CACHED_MODELS = 8
# No MeshNet is as large.
_MOST_BYTES = 16 << 20

# Three weights in a row to the four that Winograd's F(2, 3) multiplies.
_WINOGRAD = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


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
        if layers is None or not _fits(layers):
            raise ModelError(
                "the network is no chain of 3 x 3 x 3 and 1 x 1 x 1 convolutions of up to "
                f"{_MOST_CHANNELS} channels, each with an instance norm, ReLU, ELU, GELU or nothing behind "
                "it; choose another device"
            )
        self._layers = [_Packed(layer) for layer in layers]
        self._threads = threads
        self._instructions, self._across = _instructions()[0]

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network over one volume, float32, shape (1, C, D, H, W)."""
        count, channels, depth, height, width = batch.shape
        if count != 1 or channels != self._layers[0].inputs:
            raise ModelError(
                f"shape {batch.shape} was given; one volume of {self._layers[0].inputs} channels is needed"
            )
        # Rows are read in whole registers; what is behind their width is never written, and stays 0.
        row = -(-width // self._across) * self._across
        widest = max(layer.inputs for layer in self._layers)
        seen, made = (np.zeros((widest, depth, height, row), np.float32) for _ in range(2))
        seen[:channels, ..., :width] = batch[0]
        *inner, last = self._layers
        with ThreadPoolExecutor(self._threads) as threads:
            for layer in inner:
                self._run_layer(threads, layer, seen, made[: layer.outputs], width)
                seen, made = made, seen
            del made
            scores = np.empty((last.outputs, depth, height, row), np.float32)
            self._run_layer(threads, last, seen, scores, width)
        return [scores[np.newaxis, ..., :width]]

    def _run_layer(
        self,
        threads: ThreadPoolExecutor,
        layer: "_Packed",
        seen: np.ndarray,
        made: np.ndarray,
        width: int,
    ) -> None:
        depth = made.shape[1]
        pairs = _count_pairs(depth, layer.dilation)
        norm = layer.norm
        sums = None if norm is None else np.zeros((pairs, layer.outputs, 2))
        convolve = partial(
            _convolution.convolve,
            self._instructions,
            seen[: layer.inputs],
            made,
            layer.weights,
            layer.bias,
            sums,
            width,
            layer.taps,
            layer.dilation,
            layer.activation if norm is None else _ACTIVATIONS["linear"],
        )
        _run_all(threads, convolve, _parts(pairs, layer.dilation, self._threads))
        if norm is None or sums is None:
            return
        scale = partial(
            _convolution.scale,
            self._instructions,
            made,
            *_scale_and_shift(norm, sums, depth * made.shape[2] * width),
            width,
            layer.activation,
        )
        _run_all(threads, scale, pairwise(_edges(depth, _PARTS * self._threads)))


class _Packed:
    """A layer as the compiled code reads it: blocks of outputs, in each the outputs of a tap side by side."""

    def __init__(self, layer: Layer) -> None:
        self.outputs, self.inputs, self.taps = layer.weights.shape[:3]
        positions = _positions(layer.weights) if self.taps > 1 else [layer.weights]
        blocks = [np.array_split(weights, -(-self.outputs // _MOST_OUTPUTS)) for weights in positions]
        packed = [np.moveaxis(block, 0, -1).ravel() for position in blocks for block in position]
        self.weights = np.concatenate(packed).astype(np.float32)
        self.bias = np.ascontiguousarray(layer.bias, np.float32)
        self.dilation = layer.dilation
        self.norm = layer.norm
        self.activation = _ACTIVATIONS[layer.activation]


def _positions(weights: np.ndarray) -> np.ndarray:
    """Give what is multiplied in the place of 3 x 3 weights across rows: (16, outputs, inputs, 3)."""
    made = np.einsum("az,by,oizyx->aboix", _WINOGRAD, _WINOGRAD, weights.astype(np.float64))
    return made.reshape(-1, *made.shape[2:])


def _scale_and_shift(norm: Norm, sums: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Give what a norm multiplies voxels with, and adds, where they and their squares sum up to `sums`."""
    mean, power = sums.sum(axis=0).T / count
    scale = norm.scale / np.sqrt(np.maximum(power - mean * mean, 0) + norm.epsilon)
    return scale.astype(np.float32), (norm.shift - mean * scale).astype(np.float32)


def _run_all(threads: ThreadPoolExecutor, function: Callable[[Any], None], parts: Iterable[Any]) -> None:
    for _ in threads.map(function, parts):
        pass


def is_installed() -> bool:
    """Tell whether the compiled part is there, and knows this processor."""
    return bool(_instructions())


def _instructions() -> tuple[tuple[str, int], ...]:
    """Name the processor's instruction sets, best first, and the voxels that each takes at a time."""
    return () if _convolution is None else _convolution.instructions()


def pays_for(model: bytes) -> bool:
    """Tell whether a network runs sooner here than with a library: chains of 3 x 3 x 3 convolutions."""
    return len(model) < _MOST_BYTES and is_installed() and _is_chain_of_27_taps(model)


@lru_cache(_CACHED_MODELS)
def _is_chain_of_27_taps(model: bytes) -> bool:
    try:
        layers = layers_of(model)
    except ModelError:
        return False
    return layers is not None and _fits(layers) and any(layer.weights.shape[-1] > 1 for layer in layers)


def _fits(layers: tuple[Layer, ...]) -> bool:
    return all(max(layer.weights.shape[:2]) <= _MOST_CHANNELS for layer in layers)


def _count_pairs(depth: int, dilation: int) -> int:
    """Give the number of pairs of planes a dilation apart; some at the end have no second one."""
    return depth // (2 * dilation) * dilation + min(depth % (2 * dilation), dilation)


def _edges(length: int, parts: int) -> list[int]:
    return [length * part // parts for part in range(parts + 1)]


def _parts(pairs: int, dilation: int, threads: int) -> Iterator[tuple[int, int, int]]:
    """Share pairs out: first, behind the last, and step, for pairs that see the same planes."""
    parts, dilation = _PARTS * threads, min(dilation, pairs)
    if dilation >= parts:
        yield from ((first, pairs, dilation) for first in range(dilation))
        return
    for begin, end in pairwise(_edges(pairs, parts)):
        yield from ((begin + rest, end, dilation) for rest in range(min(dilation, end - begin)))
