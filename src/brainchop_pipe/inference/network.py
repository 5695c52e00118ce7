"""A model on a device, as the ways of running see it: channels in, labels and their probability out."""

import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from brainchop_pipe.errors import ModelError, ProviderError
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.card_input import Slices
from brainchop_pipe.inference.native_runner import pays_for
from brainchop_pipe.inference.reduce import labels_model, split_model
from brainchop_pipe.inference.runner import Precision
from brainchop_pipe.inference.session import (
    Device,
    Execution,
    Session,
    first_choice,
    open_session,
    replace_with_cpu,
)

logger = logging.getLogger(__name__)

# OpenVINO holds all logits at once, and what the arg-max makes of them: so many values for each
# class and voxel, and for each voxel. Where that is more than the two layers that it holds before,
# the last layer is run on slabs, each with at most so many logits. So it is with `native`, which
# holds them once, where classes are more than hidden channels.
_FOR_EACH_CLASS, _FOR_ALL_CLASSES = 3, 6
_SLAB_LOGITS = 1 << 21

# Where a network is cut in two, the part that gives labels.
_LAST = "last"

# So many scores and what is made of them stay in the cache.
_BLOCK_VALUES = 1 << 19


@dataclass(frozen=True, eq=False)
class Scores:
    """What a network says of each voxel.

    Parameters
    ----------
    labels : uint8 or uint16, spatial shape
        The most probable label; the lowest wins ties.
    confidence : float32, same shape, 0 to 1
        Its probability, or its share of the votes.
    probabilities : float32, shape (labels, *spatial), or None
    corner : tuple of int
        Voxel of what the network saw that is the first of these; beyond them all is background.
    """

    labels: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None
    corner: tuple[int, ...] = (0, 0, 0)


def label_dtype(card: ModelCard) -> type[np.unsignedinteger]:
    """Give the smallest type that holds a card's labels."""
    return np.uint8 if len(card.output.labels) <= 256 else np.uint16


def allowed_precision(card: ModelCard, precision: Precision) -> Precision:
    """Give the precision that is asked for where a card names it, else float32."""
    return precision if card.allows(precision) else "float32"


class Network:
    """A model that is ready to run on a device.

    Parameters
    ----------
    model : bytes
        ONNX file of the card.
    card : ModelCard
    device, threads, precision
        See `open_session`. A precision that the card does not name is not used.
    with_probabilities : bool
        Give the probability of each label. Without, the arg-max happens inside the
        network: scores of all classes at once, seven gigabytes for 104 of them, never
        exist.
    """

    def __init__(
        self,
        model: bytes,
        card: ModelCard,
        device: Device,
        threads: int,
        precision: Precision = "float32",
        *,
        with_probabilities: bool,
    ) -> None:
        self.card = card
        self._threads = threads
        # Planes of slices are averaged by their probabilities.
        self.with_probabilities = with_probabilities or isinstance(card.input.run, Slices)
        allowed = allowed_precision(card, precision)
        self._not_allowed = () if allowed == precision else (f"its card does not name {precision}",)
        first = first_choice(device, model, allowed)
        parts = self._reduced_to_labels(model, first)
        self._is_reduced = bool(parts)
        digest = card.weights.onnx_sha256
        self._parts = [
            _Part(content, f"{digest}:{name}", _device_of(name, device, first), threads, allowed)
            for name, content in (parts or {"whole": model}).items()
        ]

    def _reduced_to_labels(self, model: bytes, device: Device) -> dict[str, bytes]:
        """Have the network give labels, in one or two parts; nothing where it cannot be changed so."""
        if self.with_probabilities or not _can_be_reduced(self.card):
            return {}
        classes = self.card.output.class_count
        try:
            is_native, is_openvino = device == "native", device == "openvino"
            most_channels = classes if is_native else _most_channels_of_openvino(classes)
            can_be_split = is_openvino or (is_native and pays_for(model))
            parts = split_model(model, classes, most_channels) if can_be_split else None
            if parts is not None:
                return dict(zip(("all but last", _LAST), parts, strict=True))
            if is_native:
                # Scores of all classes take less than its hidden layers.
                return {}
            name = "guarded labels" if is_openvino else "labels"
            return {name: labels_model(model, classes, guarded=is_openvino)}
        except ModelError as error:
            logger.info("model %r gives scores, which takes more memory: %s", self.card.name, error)
            return {}

    @property
    def execution(self) -> Execution:
        """Where it ran."""
        execution = self._parts[0].execution
        return replace(execution, fallbacks=(*execution.fallbacks, *self._not_allowed))

    def run(self, channels: np.ndarray) -> Scores:
        """Run the network.

        Parameters
        ----------
        channels : real numbers, shape (channels, D, H, W), or (slices, channels, H, W) for 2-D networks

        Returns
        -------
        Scores
            Of shape (D, H, W), or (slices, H, W); of a part of it where the card says so.

        Raises
        ------
        ModelError
            The output does not fit the card, or is not finite.
        ProviderError
            The device that was asked for by name failed.
        """
        batch = channels if "D" not in self.card.input.layout else channels[np.newaxis]
        batch, sizes = _padded(batch, self.card.input.multiple_of)
        if self.card.input.layout.endswith("C"):
            batch = np.moveaxis(batch, 1, -1)
        batch = np.ascontiguousarray(batch, self.card.input.dtype)
        outputs = self._run(batch)
        if self.card.output.extent == "box":
            return _cut(self._scores_of_box(outputs, batch.shape), sizes, is_volume=True)
        scores = self._reduced(outputs) if self._is_reduced else self._scores(outputs[0], batch.shape)
        return _cut(scores, sizes, is_volume="D" in self.card.input.layout)

    def _run(self, batch: np.ndarray) -> list[np.ndarray]:
        first, *last = self._parts
        outputs = first.run(batch)
        if not last:
            return outputs
        if outputs[0].shape[2:] != batch.shape[2:]:
            raise ModelError(
                f"model {self.card.name!r} makes {outputs[0].shape[2:]} voxels of {batch.shape[2:]}; a card "
                "is for networks that keep the shape"
            )
        return self._run_on_slabs(last[0], outputs[0])

    def _run_on_slabs(self, last: "_Part", hidden: np.ndarray) -> list[np.ndarray]:
        """Give what a last layer makes of hidden channels, (1, C, D, H, W), a few slices at a time."""
        depth, height, width = hidden.shape[2:]
        thickness = max(1, _SLAB_LOGITS // (self.card.output.class_count * height * width))
        slabs = [
            last.run(np.ascontiguousarray(hidden[:, :, start : start + thickness]))
            for start in range(0, depth, thickness)
        ]
        return [np.concatenate(each, axis=1) for each in zip(*slabs, strict=True)]

    def _reduced(self, outputs: list[np.ndarray]) -> Scores:
        """Take labels and confidence as the network gives them."""
        labels, confidence = outputs
        self._check_finite(confidence)
        return Scores(self._merged(labels), confidence)

    def _scores_of_box(self, outputs: list[np.ndarray], batch_shape: tuple[int, ...]) -> Scores:
        """Make labels and probabilities of what the network gives for a box."""
        output, corner = outputs
        whole, part = batch_shape[2:], output.shape[2:]
        first = tuple(int(c) for c in corner.ravel())
        if not len(first) == len(part) == len(whole) or any(
            c < 0 or c + n > m for c, n, m in zip(first, part, whole, strict=True)
        ):
            raise ModelError(
                f"model {self.card.name!r} gave a box of {part} voxels from {first}, which is no part of "
                f"the {whole} that it saw"
            )
        return replace(self._scores(output, (*batch_shape[:2], *part)), corner=first)

    def _scores(self, output: np.ndarray, batch_shape: tuple[int, ...]) -> Scores:
        """Make labels and probabilities of what the network gives, whatever that is."""
        values = self._with_channel_axis(output, batch_shape)
        self._check_finite(values)
        kind = self.card.output.values
        if kind == "labels":
            labels = self._known_labels(values[:, 0])
            return Scores(labels, np.ones(labels.shape, np.float32), self._one_hot(labels))
        values = _both_classes(values) if kind == "sigmoid" else values.astype(np.float32, copy=False)
        labels, confidence = _decide_in_place(
            values, self._class_dtype, self._threads, softmax=kind == "logits"
        )
        merged = self._merged_probabilities(values) if self.with_probabilities else None
        return Scores(self._merged(labels), confidence, merged)

    def _with_channel_axis(self, output: np.ndarray, batch_shape: tuple[int, ...]) -> np.ndarray:
        """Bring the output into the order (batch, channel, space), and check that it fits the card."""
        channels_last = self.card.input.layout.endswith("C")
        spatial = batch_shape[1:-1] if channels_last else batch_shape[2:]
        expected = (batch_shape[0], self.card.output.channel_count, *spatial)
        if self.card.output.values == "labels" and output.shape == (batch_shape[0], *spatial):
            output = output[:, np.newaxis]
        elif channels_last and output.ndim == len(expected):
            output = np.moveaxis(output, -1, 1)
        if output.shape != expected:
            raise ModelError(
                f"model {self.card.name!r} gave shape {output.shape}; its card makes it {expected}"
            )
        return output

    def _check_finite(self, values: np.ndarray) -> None:
        # One sum over all finds a NaN or an infinity anywhere, at a tenth of the cost of isfinite.
        if not np.isfinite(values.sum(dtype=np.float64)):
            raise ModelError(
                f"model {self.card.name!r} gave values that are not finite; its weights are damaged"
            )

    def _known_labels(self, values: np.ndarray) -> np.ndarray:
        largest = int(values.max(initial=0))
        if largest >= self.card.output.class_count or values.min(initial=0) < 0:
            raise ModelError(
                f"model {self.card.name!r} gave labels from {values.min():g} to {largest}; its card has "
                f"{self.card.output.class_count} classes"
            )
        return self._merged(values.astype(self._class_dtype))

    def _merged(self, classes: np.ndarray) -> np.ndarray:
        """Give the labels that classes of the network belong to."""
        if self._is_one_to_one:
            return classes.astype(label_dtype(self.card), copy=False)
        table = np.zeros(self.card.output.class_count, label_dtype(self.card))
        for label, members in enumerate(self.card.output.classes):
            table[list(members)] = label
        return np.asarray(table[classes])

    def _merged_probabilities(self, classes: np.ndarray) -> np.ndarray:
        """Give the probability of each label, labels first."""
        if self._is_one_to_one:
            return classes.swapaxes(0, 1)
        return np.stack([classes[:, list(members)].sum(axis=1) for members in self.card.output.classes])

    @property
    def _class_dtype(self) -> type[np.unsignedinteger]:
        return np.uint8 if self.card.output.class_count <= 256 else np.uint16

    @property
    def _is_one_to_one(self) -> bool:
        return all(members == (label,) for label, members in enumerate(self.card.output.classes))

    def _one_hot(self, labels: np.ndarray) -> np.ndarray | None:
        if not self.with_probabilities:
            return None
        return np.stack([labels == label for label in range(len(self.card.output.labels))]).astype(np.float32)


class _Part:
    """A network, or a part of one, in a session."""

    def __init__(self, model: bytes, digest: str, device: Device, threads: int, precision: Precision) -> None:
        self._model, self._digest = model, digest
        self._session: Session = open_session(model, digest, device, threads, precision)

    @property
    def execution(self) -> Execution:
        return self._session.execution

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run, and once more on the CPU where a provider that was not asked for by name fails."""
        try:
            return self._session.run(batch)
        except ProviderError as error:
            if self.execution.requested != "auto" or self.execution.provider == "CPUExecutionProvider":
                raise
            logger.warning("%s; trying again on the CPU", error)
            self._session = replace_with_cpu(self._session, self._model, self._digest, str(error))
            return self._session.run(batch)


def _most_channels_of_openvino(classes: int) -> float:
    """Give the width of hidden layers up to which the last layer, not they, takes the most memory."""
    return (_FOR_EACH_CLASS * classes + _FOR_ALL_CLASSES) / 2


def _device_of(part: str, device: Device, first: Device) -> Device:
    """Give the device of a part: one that has an arg-max is nothing for `native`."""
    return "cpu" if part == _LAST and first == "native" else device


def _can_be_reduced(card: ModelCard) -> bool:
    return card.output.values == "logits" and card.output.extent == "whole" and card.input.layout == "NCDHW"


def _padded(batch: np.ndarray, multiple: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Add zeros at the end of each spatial axis, to a multiple of a size; give the sizes before, too."""
    sizes = batch.shape[2:]
    missing = [(0, -size % multiple) for size in sizes]
    if not any(after for _, after in missing):
        return batch, sizes
    return np.pad(batch, [(0, 0), (0, 0), *missing]), sizes


def _cut(scores: Scores, sizes: tuple[int, ...], *, is_volume: bool) -> Scores:
    """Leave out what was padded, and the axis of the batch where it is one volume."""
    # As many sizes as there are axes of space: two of slices, whose corner is the volume's.
    keep = tuple(slice(0, size - c) for size, c in zip(sizes, scores.corner, strict=False))
    first: tuple[int | slice, ...] = (0,) if is_volume else (slice(None),)
    probabilities = scores.probabilities
    if probabilities is not None:
        probabilities = probabilities[(slice(None), *first, *keep)]
    labels, confidence = scores.labels[(*first, *keep)], scores.confidence[(*first, *keep)]
    return Scores(labels, confidence, probabilities, scores.corner)


def _both_classes(scores: np.ndarray) -> np.ndarray:
    """Give the probabilities of background and foreground along the second axis, from a sigmoid's scores."""
    foreground = 1 / (1 + np.exp(-scores.astype(np.float32)))
    return np.concatenate([1 - foreground, foreground], axis=1)


def _decide_in_place(
    values: np.ndarray, dtype: type[np.unsignedinteger], threads: int, *, softmax: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Give the arg-max over the second axis and its probability; the lowest index wins ties.

    `values` become probabilities, by a soft-max where they are none. A few planes at a time
    go through all steps while they are in the cache.
    """
    labels = np.zeros((values.shape[0], *values.shape[2:]), dtype)
    confidence = np.empty(labels.shape, np.float32)
    planes = max(1, _BLOCK_VALUES * values.shape[2] // values.size)

    def decide(start: int) -> None:
        part = slice(start, start + planes)
        _decide_block(values[:, :, part], labels[:, part], confidence[:, part], softmax=softmax)

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(decide, range(0, values.shape[2], planes)):
            pass
    return labels, confidence


def _decide_block(block: np.ndarray, labels: np.ndarray, best: np.ndarray, *, softmax: bool) -> None:
    best[:] = block[:, 0]
    # Before the soft-max, whose rounding makes ties; and without a volume of int64.
    for index in range(1, block.shape[1]):
        np.copyto(labels, labels.dtype.type(index), where=block[:, index] > best)
        np.maximum(best, block[:, index], out=best)
    if softmax:
        block -= best[:, np.newaxis]
        np.exp(block, out=block)
        block /= block.sum(axis=1, keepdims=True)
        block.max(axis=1, out=best)
