"""Whether an ONNX file is what its card says: from the file alone, and by running it on a made head."""

import time
from dataclasses import dataclass

import numpy as np

from brainchop_pipe.core.grid import Volume, grid_around
from brainchop_pipe.errors import ModelError, PipeError
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.card_input import Slices, SubVolumes, WholeVolume
from brainchop_pipe.inference.predict import predict
from brainchop_pipe.inference.session import Device
from brainchop_pipe.inference.view import view_of
from brainchop_pipe.record import peak_memory_mb
from brainchop_pipe.zoo.catalog import Model
from brainchop_pipe.zoo.inspect import ModelFacts, TensorFacts, inspect_model

# Grey levels of a made head: an ellipsoid of tissue with a brighter one inside.
_SKIN, _TISSUE, _BRIGHT = 60, 120, 200


@dataclass(frozen=True)
class Trial:
    """What came of running a model on a made head.

    Parameters
    ----------
    seconds : float
    memory_gb : float
        Peak of this process, all that it did before included.
    field_of_view : str
        What the network saw, and in which pieces.
    provider : str
        Where it ran.
    labels : tuple of int
        Those that it gave.
    """

    seconds: float
    memory_gb: float
    field_of_view: str
    provider: str
    labels: tuple[int, ...]


def check_file(model: Model, content: bytes, limit_bytes: int | None = None) -> ModelFacts:
    """Compare an ONNX file with its card, without running it.

    Parameters
    ----------
    model : Model
    content : bytes
        The ONNX file.
    limit_bytes : int or None
        Most that its weights may take.

    Raises
    ------
    ModelError
        The file is none that can be run from memory without code of its own (see
        `inspect_model`), or does not fit the card; the message names every difference.
    """
    card = model.card
    facts = inspect_model(content, card.weights.files[0].path, limit_bytes)
    wrong = [*_input_findings(card, facts), *_output_findings(card, facts)]
    if wrong:
        raise ModelError(f"the ONNX file of model {card.name!r} does not fit its card: {'; '.join(wrong)}")
    return facts


def try_model(model: Model, content: bytes, device: Device = "auto", threads: int = 1) -> Trial:
    """Run a model on a made head that fills its grid.

    Raises
    ------
    ModelError
        It does not run, or what it gives does not fit its card.
    """
    card = model.card
    head = _made_head(card)
    start = time.perf_counter()
    view = view_of((head,) * max(1, len(card.input.contrasts)), card, full_volume=True)
    try:
        prediction = predict(view, content, card, device=device, threads=threads)
    except PipeError as error:
        raise ModelError(f"model {card.name!r} does not run on a made head: {error}") from error
    return Trial(
        seconds=time.perf_counter() - start,
        memory_gb=peak_memory_mb() / 1000,
        field_of_view=prediction.field_of_view.description,
        provider=prediction.execution.provider,
        labels=tuple(int(label) for label in np.unique(prediction.labels.voxels)),
    )


def _made_head(card: ModelCard) -> Volume:
    grid = card.input.grid
    lattice = grid_around(np.zeros(3), grid.shape, grid.spacing_mm, grid.orientation)
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in grid.shape)]
    radius = np.sqrt(sum(axis**2 for axis in axes))
    voxels = np.zeros(grid.shape, np.uint8)
    for below, level in ((0.9, _SKIN), (0.7, _TISSUE), (0.4, _BRIGHT)):
        voxels[radius < below] = level
    return Volume(voxels if grid.values == "uint8" else voxels.astype(np.float32), lattice)


def _input_findings(card: ModelCard, facts: ModelFacts) -> list[str]:
    """Say how the file's input differs from the card's."""
    if len(facts.inputs) != 1:
        return [f"it has the inputs {[tensor.name for tensor in facts.inputs]}; one is needed"]
    tensor = facts.inputs[0]
    wanted = _wanted_shapes(card)
    findings = []
    if tensor.dtype != card.input.dtype:
        findings.append(f"its input is {tensor.dtype}; input.dtype says {card.input.dtype}")
    if not any(_fits(tensor, shape) for shape in wanted):
        findings.append(
            f"its input has shape {_shown(tensor.shape)}; by the card it gets "
            f"{' or '.join(_shown(shape) for shape in wanted)} ({card.input.layout})"
        )
    sizes = tensor.shape[1:-1] if card.input.layout.endswith("C") else tensor.shape[2:]
    fixed = any(isinstance(size, int) for size in sizes)
    if fixed and card.input.crop is not None:
        findings.append("its input has a fixed size, so that it cannot be cropped; leave out input.crop")
    if fixed and isinstance(card.input.run, WholeVolume) and card.input.run.halo is not None:
        findings.append("its input has a fixed size, so that it cannot be tiled; leave out input.run.halo")
    return findings


def _output_findings(card: ModelCard, facts: ModelFacts) -> list[str]:
    """Say how the file's output differs from the card's, as far as the file tells."""
    count, needed = {"whole": (1, "one"), "box": (2, "two, of a box and of its first voxel,")}[
        card.output.extent
    ]
    if len(facts.outputs) != count:
        return [f"it has the outputs {[tensor.name for tensor in facts.outputs]}; {needed} is needed"]
    shape, output = facts.outputs[0].shape, card.output
    without_channel = output.values == "labels" and len(shape) == len(card.input.layout) - 1
    if not shape or without_channel:
        return []
    if len(shape) != len(card.input.layout):
        return [f"its output has shape {_shown(shape)}; {len(card.input.layout)} axes are needed"]
    channels = shape[-1 if card.input.layout.endswith("C") else 1]
    if isinstance(channels, int) and channels != output.channel_count:
        return [
            f"its output has {channels} channels; the card's {len(output.labels)} labels with values "
            f"{output.values!r} make it {output.channel_count}"
        ]
    return []


def _wanted_shapes(card: ModelCard) -> list[tuple[int | str, ...]]:
    """Give the shapes that a network is shown by its card; a name stands for any size."""
    given = card.input
    channels = max(1, len(given.contrasts))
    shown = given.run.shape if isinstance(given.run, SubVolumes) else given.grid.shape
    sizes = [-(-n // given.multiple_of) * given.multiple_of for n in shown]
    shapes: list[tuple[int | str, ...]]
    if isinstance(given.run, Slices):
        shapes = [(a, b) for a, b in ((sizes[1], sizes[2]), (sizes[0], sizes[2]), (sizes[0], sizes[1]))]
        batch: int | str = given.run.batch if given.run.batch == 1 else "N"
    else:
        shapes = [tuple(sizes)]
        batch = 1
    if given.layout.endswith("C"):
        return [(batch, *shape, channels) for shape in shapes]
    return [(batch, channels, *shape) for shape in shapes]


def _fits(tensor: TensorFacts, wanted: tuple[int | str, ...]) -> bool:
    """Tell whether a shape with open sizes takes a wanted one; a named size is open in both."""
    if not tensor.shape:
        return True
    return len(tensor.shape) == len(wanted) and all(
        found == want or isinstance(found, str) or (isinstance(want, str) and found != 1)
        for found, want in zip(tensor.shape, wanted, strict=True)
    )


def _shown(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
