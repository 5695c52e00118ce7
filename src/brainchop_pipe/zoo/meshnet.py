"""What a MeshNet is, whatever file its weights come from: a plain chain of 3-D convolutions."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

ActivationKind: TypeAlias = Literal["relu", "elu", "gelu"]
NormKind: TypeAlias = Literal["none", "batch", "instance"]

ACTIVATIONS: tuple[ActivationKind, ...] = ("relu", "elu", "gelu")


@dataclass(frozen=True, eq=False)
class Convolution:
    """A 3-D convolution of stride 1 whose zero padding keeps the size of its input.

    Parameters
    ----------
    name : str
        Unique within the network.
    kernel : float32, shape (out, in, kd, kh, kw)
        Of odd sizes.
    bias : float32, shape (out,), or None
    dilation : tuple of three int
    has_instance_norm : bool
        Its output is normalised per channel over the whole field of view: no affine
        part, epsilon 1e-5, biased variance.
    """

    name: str
    kernel: np.ndarray
    bias: np.ndarray | None
    dilation: tuple[int, int, int]
    has_instance_norm: bool = False


@dataclass(frozen=True)
class Activation:
    """A function of single values; GELU is the exact one, ELU has alpha 1."""

    name: str
    kind: ActivationKind


Layer: TypeAlias = Convolution | Activation


@dataclass(frozen=True)
class MeshNetPlan:
    """What PyTorch's names and shapes of weights do not tell of a MeshNet.

    Parameters
    ----------
    dilations : tuple of int
        Of each convolution but the last, which is 1×1×1.
    activation : {"relu", "elu", "gelu"}
        After each convolution but the last.
    norm : {"none", "batch", "instance"}
        Between convolution and activation. The statistics of "batch" are in the weight
        file; "instance" has no parameters.
    epsilon : float
        Of "batch"; PyTorch's is 1e-5.
    """

    dilations: tuple[int, ...]
    activation: ActivationKind
    norm: NormKind = "none"
    epsilon: float = 1e-5
