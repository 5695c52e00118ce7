"""A conformed volume through a network: label map and probabilities on the models' grid."""

import logging
from dataclasses import dataclass

import numpy as np

from brainchop_pipe.core.components import largest_component
from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.intensity import scale_by_quantiles, scale_by_range
from brainchop_pipe.core.resample import Box
from brainchop_pipe.core.tiles import full_box, head_box
from brainchop_pipe.errors import ModelError, ProviderError
from brainchop_pipe.inference.card import ModelCard, QuantileScaling
from brainchop_pipe.inference.session import Device, Execution, Session, open_session, replace_with_cpu

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a network says of a volume.

    Parameters
    ----------
    labels : Volume
        uint8, or uint16 for more than 256 classes; on the models' grid.
    probabilities : float32, shape (classes, *box), or None
        Soft-max over the classes inside `box`; outside of it the background has 1.
    box : tuple of three slices
        The part of the grid that the network saw.
    execution : Execution
    """

    labels: Volume
    probabilities: np.ndarray | None
    box: Box
    execution: Execution

    @property
    def grid(self) -> Grid:
        """The models' grid."""
        return self.labels.grid

    def probability(self, *classes: int) -> Volume:
        """Give the probability of one or any of several classes on the whole grid, float32.

        Raises
        ------
        ModelError
            Probabilities were not asked for.
        """
        if self.probabilities is None:
            raise ModelError("this prediction holds labels only; ask predict() for probabilities")
        whole = np.full(self.grid.shape, 1.0 if 0 in classes else 0.0, np.float32)
        whole[self.box] = self.probabilities[list(classes)].sum(axis=0)
        return Volume(whole, self.grid)


def predict(
    conformed: Volume,
    model: bytes,
    card: ModelCard,
    *,
    scaled: np.ndarray | None = None,
    device: Device = "auto",
    threads: int = 1,
    full_volume: bool = False,
    with_probabilities: bool = False,
) -> Prediction:
    """Run a network on a conformed volume.

    Parameters
    ----------
    conformed : Volume
        uint8, on the models' grid.
    model : bytes
        ONNX file of the card.
    card : ModelCard
    scaled : float32, shape of the volume, or None
        What the network is to see, where it was prepared already; `conformed` then
        decides the crop alone. None: scaled as the card says.
    device, threads
        See `open_session`.
    full_volume : bool
        Let the network see all of the volume, where the card would crop it to the head.
    with_probabilities : bool
        Keep the soft-max as well as its arg-max.

    Returns
    -------
    Prediction
        Before any post-filter. The lowest class wins ties.

    Raises
    ------
    ModelError
        The network's output does not fit the card, or is not finite.
    ProviderError
        The device that was asked for by name failed.
    """
    crop = card.input.crop
    box = full_box(conformed.grid.shape)
    if crop is not None and not full_volume:
        box = head_box(conformed.voxels, crop.threshold, crop.margin_voxels)
    whole = _scale(conformed.voxels, card) if scaled is None else scaled
    inside = np.ascontiguousarray(whole[box])
    digest = card.weights.onnx_sha256
    session = open_session(model, digest, device, threads)
    logits, session = _run(session, inside[np.newaxis, np.newaxis], model, digest)
    _check_output(logits, card, inside.shape)
    labels = np.zeros(conformed.grid.shape, np.uint8 if len(card.output.labels) <= 256 else np.uint16)
    labels[box] = _argmax(logits[0], labels.dtype)
    probabilities = _softmax_in_place(logits[0]) if with_probabilities else None
    return Prediction(Volume(labels, conformed.grid), probabilities, box, session.execution)


def post_filter(prediction: Prediction, card: ModelCard) -> Prediction:
    """Apply a card's post-filter to labels and probabilities alike.

    Where a label is removed its voxel becomes background with probability 1, so
    that the arg-max of the probabilities stays the label map.
    """
    if not card.post_filter.largest_component:
        return prediction
    kept = filter_labels(prediction.labels.voxels, card)
    removed = (prediction.labels.voxels != kept)[prediction.box]
    probabilities = prediction.probabilities
    if probabilities is not None:
        probabilities = np.where(removed, np.float32(0), probabilities)
        probabilities[0][removed] = 1
    return Prediction(Volume(kept, prediction.grid), probabilities, prediction.box, prediction.execution)


def filter_labels(labels: np.ndarray, card: ModelCard) -> np.ndarray:
    """Apply a card's post-filter to a label map alone; dtype and shape stay."""
    if not card.post_filter.largest_component:
        return labels
    return np.asarray(labels * largest_component(labels, card.post_filter.connectivity))


def _scale(voxels: np.ndarray, card: ModelCard) -> np.ndarray:
    scaling = card.input.intensity
    if isinstance(scaling, QuantileScaling):
        return scale_by_quantiles(voxels, scaling.low, scaling.high, scaling.epsilon)
    return scale_by_range(voxels)


def _run(session: Session, volume: np.ndarray, model: bytes, digest: str) -> tuple[np.ndarray, Session]:
    """Run, and once more on the CPU where a provider that was not asked for by name fails."""
    try:
        return session.run(volume), session
    except ProviderError as error:
        if session.execution.requested != "auto" or session.execution.provider == "CPUExecutionProvider":
            raise
        logger.warning("%s; trying again on the CPU", error)
        session = replace_with_cpu(session, model, digest, str(error))
        return session.run(volume), session


def _check_output(logits: np.ndarray, card: ModelCard, shape: tuple[int, ...]) -> None:
    expected = (1, len(card.output.labels), *shape)
    if logits.shape != expected:
        raise ModelError(f"model {card.name!r} gave shape {logits.shape}; its card makes it {expected}")
    # One sum over all finds a NaN or an infinity anywhere, at a tenth of the cost of isfinite.
    if not np.isfinite(logits.sum(dtype=np.float64)):
        raise ModelError(f"model {card.name!r} gave values that are not finite; its weights are damaged")


def _argmax(logits: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Arg-max over the first axis without a volume of int64; the lowest index wins ties."""
    best = logits[0].copy()
    labels = np.zeros(best.shape, dtype)
    for index in range(1, len(logits)):
        better = logits[index] > best
        labels[better] = index
        np.maximum(best, logits[index], out=best)
    return labels


def _softmax_in_place(logits: np.ndarray) -> np.ndarray:
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return logits
