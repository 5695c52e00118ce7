"""A view of an image through a network: labels and probabilities on the model's grid."""

from dataclasses import dataclass, replace

import numpy as np

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.resample import Box
from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.filters import filter_labels
from brainchop_pipe.inference.network import Network, Scores, allowed_precision
from brainchop_pipe.inference.runner import Precision
from brainchop_pipe.inference.session import Device, Execution, first_choice
from brainchop_pipe.inference.view import View
from brainchop_pipe.inference.ways import OPENVINO_MEMORY, FieldOfView, need_gb, run_way


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of an image.

    Parameters
    ----------
    labels : Volume
        uint8, or uint16 for more than 256 labels; on the model's grid.
    confidence : float32, shape of the box, 0 to 1
        The probability of the label, or its share of the votes.
    probabilities : float32, shape (labels, *box), or None
        Outside of the box the background has 1.
    box : tuple of three slices
        Part of the grid that the network answered for: the field of view, or less.
    field_of_view : FieldOfView
    execution : Execution
    removed_components : int
        By the post-filter.
    """

    labels: Volume
    confidence: np.ndarray
    probabilities: np.ndarray | None
    box: Box
    field_of_view: FieldOfView
    execution: Execution
    removed_components: int = 0

    @property
    def grid(self) -> Grid:
        """The model's grid."""
        return self.labels.grid

    def probability(self, *labels: int) -> Volume:
        """Give the probability of one or any of several labels on the whole grid, float32.

        Raises
        ------
        ModelError
            Probabilities were not asked for.
        """
        if self.probabilities is None:
            raise ModelError("this prediction holds labels only; ask predict() for probabilities")
        whole = np.full(self.grid.shape, 1.0 if 0 in labels else 0.0, np.float32)
        # Sums of roundings may be a little more than 1.
        whole[self.box] = self.probabilities[list(labels)].sum(axis=0).clip(max=1)
        return Volume(whole, self.grid)


def predict(
    view: View,
    model: bytes,
    card: ModelCard,
    *,
    device: Device = "auto",
    threads: int = 1,
    precision: Precision = "float32",
    mem_gb: float | None = None,
    with_probabilities: bool = False,
) -> Prediction:
    """Run a network on what it is to see.

    Parameters
    ----------
    view : View
    model : bytes
        ONNX file of the card.
    card : ModelCard
    device, threads, precision
        See `open_session`. A precision that the card does not name is not used.
    mem_gb : float or None
        Most that the network may take; a volume is cut into tiles to keep it, where the
        card says that it can be.
    with_probabilities : bool
        Keep the probability of each label as well.

    Returns
    -------
    Prediction
        Before any post-filter. The lowest label wins ties.

    Raises
    ------
    ModelError
        The network's output does not fit the card, or is not finite.
    ProviderError
        The device that was asked for by name failed.
    UsageError
        The network does not fit into `mem_gb`.
    """
    fitting, reason = _fitting_device(model, card, view, device, precision, mem_gb)
    network = Network(model, card, fitting, threads, precision, with_probabilities=with_probabilities)
    scores, seen = run_way(network, view.channels, view.grid, view.box, mem_gb)
    box = _box_of(scores, seen)
    labels = np.zeros(view.grid.shape, scores.labels.dtype)
    labels[box] = scores.labels
    return Prediction(
        Volume(labels, view.grid),
        scores.confidence,
        scores.probabilities if with_probabilities else None,
        box,
        seen,
        replace(network.execution, requested=device, fallbacks=(*network.execution.fallbacks, *reason)),
    )


def _box_of(scores: Scores, seen: FieldOfView) -> Box:
    """Give the part of the grid that a network answered for: what it saw, or a box within."""
    first = (s.start + c for s, c in zip(seen.box, scores.corner, strict=True))
    i, j, k = (slice(f, f + n) for f, n in zip(first, scores.labels.shape, strict=True))
    return i, j, k


def _fitting_device(
    model: bytes, card: ModelCard, view: View, device: Device, precision: Precision, mem_gb: float | None
) -> tuple[Device, tuple[str, ...]]:
    """Choose onnxruntime where the memory is not enough for OpenVINO in one piece, and say so."""
    if device != "auto" or mem_gb is None:
        return device, ()
    if first_choice(device, model, allowed_precision(card, precision)) != "openvino":
        return device, ()
    need = OPENVINO_MEMORY * need_gb(card, float(np.prod(view.channels.shape[1:])))
    if need <= mem_gb:
        return device, ()
    return "cpu", (f"OpenVINO may take {need:.1f} GB for this; {mem_gb:.1f} GB are allowed",)


def post_filter(prediction: Prediction, card: ModelCard) -> Prediction:
    """Apply a card's post-filter to labels and probabilities alike.

    Where a label changes, the new one gets probability 1, so that the arg-max of the
    probabilities stays the label map.
    """
    before = prediction.labels.voxels
    after, removed_components = filter_labels(before, prediction.grid.voxel_volume_mm3, card)
    if after is before:
        return prediction
    probabilities = prediction.probabilities
    if probabilities is not None:
        box = prediction.box
        changed, new = (after != before)[box], after[box]
        probabilities = np.where(changed, np.float32(0), probabilities)
        for label in np.unique(new[changed]):
            probabilities[label][changed & (new == label)] = 1
    return replace(
        prediction,
        labels=Volume(after, prediction.grid),
        probabilities=probabilities,
        removed_components=removed_components,
    )
