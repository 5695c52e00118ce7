"""Networks that code of our own runs: chains of convolutions, and what `models.train` makes."""

from functools import lru_cache

import numpy as np

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference import native_layers
from brainchop_pipe.inference.chain import layers_of
from brainchop_pipe.inference.native_chain import NativeChain, fits_native
from brainchop_pipe.inference.native_layers import MOST_CHANNELS
from brainchop_pipe.inference.native_segmenter import NativeSegmenter
from brainchop_pipe.inference.onnx_file import is_sealed
from brainchop_pipe.inference.runner import Precision
from brainchop_pipe.inference.segmenter import SEAL, segmenter_of

PROVIDER = "Native"

_CACHED_MODELS = 8
# No network of this kind is as large.
_MOST_BYTES = 32 << 20


class NativeRunner:
    """A network that runs by code of our own.

    Parameters
    ----------
    model : bytes
        ONNX file.
    threads : int

    Raises
    ------
    ModelError
        The network is of another kind, or too wide.
    """

    provider = PROVIDER
    precision: Precision = "float32"

    def __init__(self, model: bytes, threads: int) -> None:
        network = _network(model, threads)
        if network is None:
            raise ModelError(
                "the network is no chain of 3 x 3 x 3 and 1 x 1 x 1 convolutions of up to "
                f"{MOST_CHANNELS} channels, behind each an instance norm or none, and ReLU, ELU, GELU or "
                "nothing, and none that brainchop_pipe.models.train exported; choose another device"
            )
        self._network = network

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network over one volume, float32, shape (1, C, D, H, W)."""
        return self._network.run(batch)


def _network(model: bytes, threads: int) -> NativeChain | NativeSegmenter | None:
    segmenter = segmenter_of(model)
    if segmenter is not None:
        return NativeSegmenter(segmenter, threads)
    layers = layers_of(model)
    return NativeChain(layers, threads) if layers is not None and fits_native(layers) else None


def pays_for(model: bytes) -> bool:
    """Tell whether a network runs sooner here than with a library."""
    return len(model) <= _MOST_BYTES and native_layers.is_installed() and _has_wide_kernels(model)


@lru_cache(_CACHED_MODELS)
def _has_wide_kernels(model: bytes) -> bool:
    # Whatever was exported has; its digest is enough to know it.
    if is_sealed(model, SEAL):
        return True
    try:
        layers = layers_of(model)
    except ModelError:
        return False
    return layers is not None and fits_native(layers) and any(layer.weights.shape[-1] > 1 for layer in layers)
