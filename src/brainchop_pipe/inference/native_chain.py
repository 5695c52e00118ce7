"""Chains of convolutions, MeshNets above all, by code of our own: in half of the libraries' time or less."""

import numpy as np

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.chain import Layer
from brainchop_pipe.inference.native_layers import MOST_CHANNELS, NativeThreads, PackedLayer


class NativeChain:
    """A chain of layers that is ready to run.

    Parameters
    ----------
    layers : tuple of Layer
    threads : int
    """

    def __init__(self, layers: tuple[Layer, ...], threads: int) -> None:
        self._layers = [PackedLayer(layer) for layer in layers]
        self._threads = threads

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network over one volume, float32, shape (1, C, D, H, W)."""
        count, channels, *shape = batch.shape
        if count != 1 or channels != self._layers[0].inputs:
            raise ModelError(
                f"shape {batch.shape} was given; one volume of {self._layers[0].inputs} channels is needed"
            )
        widest = max(layer.inputs for layer in self._layers)
        with NativeThreads(self._threads) as native:
            seen, made = (native.rows(widest, tuple(shape)) for _ in range(2))
            seen.inside[:channels] = batch[0]
            *inner, last = self._layers
            for layer in inner:
                native.apply(layer, seen, made)
                seen, made = made, seen
            del made
            scores = native.apply(last, seen)
        return [scores.inside[np.newaxis]]


def fits_native(layers: tuple[Layer, ...]) -> bool:
    """Tell whether the compiled code takes layers as wide as these."""
    return all(max(layer.weights.shape[:2]) <= MOST_CHANNELS for layer in layers)
