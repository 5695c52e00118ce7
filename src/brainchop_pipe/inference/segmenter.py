"""What `models.train` exports, read back as layers: a body at 2 mm, a refinement at 1 mm near the brain."""

import re
from collections.abc import Iterator
from itertools import count, takewhile
from typing import Any, NamedTuple

import numpy as np

from brainchop_pipe.inference.chain import Activation, Layer, Norm
from brainchop_pipe.inference.onnx_file import array_of, is_sealed, parse_model, settings_of

# Under this name the exporter says that it wrote the file, and nobody since.
SEAL = "brainchop_pipe.segmenter.1"
# Voxels of the image along the edge of one that the body sees.
SPACING = 2
# Voxels of 2 mm around what the coarse scores call brain, so that refinement can still move its border.
MARGIN = 3

# Weights are called as in training, behind these: the first slab's refinement is that of all.
_PREFIX = re.compile(r"(slab/0/|around/|)network\.")
_EPSILON = "level/eps"


class UNet(NamedTuple):
    """A body of levels, each of half the spacing of the next; ways across are added.

    Parameters
    ----------
    first : Layer
    down : tuple of tuple of Layer
        From each level to the next: a layer of two taps, and others.
    across : tuple of Layer
        From each level back to the one before, of one tap.
    up : tuple of Layer
        On each level but the last, when what comes back was added.
    """

    first: Layer
    down: tuple[tuple[Layer, ...], ...]
    across: tuple[Layer, ...]
    up: tuple[Layer, ...]


class Segmenter(NamedTuple):
    """A network in layers.

    Parameters
    ----------
    epsilon : float
        Added to the variance of the image, to whose mean and deviation it is brought to 0 and 1.
    stem : Layer
        Two taps, from the image to the body.
    body : UNet or tuple of Layer
    coarse : Layer
        From the body to scores.
    context : Layer
        From the body to what refinement adds to `detail`.
    detail : Layer
        From the image to the refinement, before its first activation, a ReLU.
    refine : tuple of Layer
    fine : Layer
        From the refinement to what is added to the coarse scores.
    """

    epsilon: float
    stem: Layer
    body: UNet | tuple[Layer, ...]
    coarse: Layer
    context: Layer
    detail: Layer
    refine: tuple[Layer, ...]
    fine: Layer


def segmenter_of(model: bytes) -> Segmenter | None:
    """Read a network that `models.train` exported; None where it is another one, or was changed since.

    Raises
    ------
    ModelError
        These bytes are no ONNX model.
    """
    return _read(_Weights(parse_model(model).graph)) if is_sealed(model, SEAL) else None


class _Weights:
    """The layers of a graph by their names in training."""

    def __init__(self, graph: Any) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._settings: dict[str, dict[str, Any]] = {}
        for tensor in graph.initializer:
            name, found = _PREFIX.subn("", tensor.name, count=1)
            if found or name == _EPSILON:
                self._arrays[name] = array_of(tensor)
        for node in graph.node:
            for name in node.input[1:2]:
                self._settings[_PREFIX.sub("", name, count=1)] = settings_of(node)

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self._arrays

    def number(self, name: str) -> float:
        return float(self._arrays[name])

    def plain(self, name: str, activation: Activation = "linear") -> Layer:
        """Give a convolution with a bias, or without."""
        weights = self._arrays[f"{name}.weight"]
        bias = self._arrays.get(f"{name}.bias", np.zeros(len(weights), np.float32))
        dilation = self._settings[f"{name}.weight"].get("dilations", [1])[0]
        return Layer(weights, bias, dilation, None, activation)

    def unit(self, name: str) -> Layer:
        """Give a convolution with an instance norm and a ReLU behind it."""
        norm = f"{name}.1.weight"
        epsilon = self._settings[norm].get("epsilon", 1e-5)
        found = Norm(self._arrays[norm], self._arrays[f"{name}.1.bias"], epsilon)
        return self.plain(f"{name}.0", "relu")._replace(norm=found)

    def units(self, name: str) -> tuple[Layer, ...]:
        return tuple(self.unit(f"{name}.{i}") for i in self._numbers(name, ".0"))

    def unet(self) -> UNet:
        levels = list(self._numbers("body.across"))
        return UNet(
            self.unit("body.first"),
            tuple(self.units(f"body.down.{i}") for i in levels),
            tuple(self.plain(f"body.across.{i}") for i in levels),
            tuple(self.unit(f"body.up.{i}") for i in levels),
        )

    def _numbers(self, name: str, behind: str = "") -> Iterator[int]:
        return takewhile(lambda i: self.has(f"{name}.{i}{behind}"), count())


def _read(weights: _Weights) -> Segmenter:
    return Segmenter(
        epsilon=weights.number(_EPSILON),
        stem=weights.unit("stem"),
        body=weights.unet() if weights.has("body.first.0") else weights.units("body"),
        coarse=weights.plain("coarse"),
        context=weights.plain("context"),
        detail=weights.plain("detail"),
        refine=tuple(weights.plain(f"refine.{i}", "relu") for i in (1, 3)),
        fine=weights.plain("fine"),
    )
