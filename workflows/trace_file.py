"""From a file back to what it was made of, and whether that is still the same."""

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from brainchop_pipe.bids.publish import image_path, sidecar_path
from brainchop_pipe.bids.sidecar import ModelRecord, ProvenanceRecord
from brainchop_pipe.bids.uris import Places, output_of
from brainchop_pipe.errors import InputError, MissingInputError, UsageError
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.zoo.catalog import Model, find_model
from brainchop_pipe.zoo.fetch import ModelStore


@dataclass(frozen=True)
class Traced:
    """A file of an output, and where it is from.

    Parameters
    ----------
    image : Path
    output_dir : Path
        That it lies in.
    record : ProvenanceRecord
    source : Path or None
        The image that it was made of; None where it is of no dataset, or the output does
        not say where that is.
    """

    image: Path
    output_dir: Path
    record: ProvenanceRecord
    source: Path | None


@dataclass(frozen=True)
class Check:
    """Whether something is what was recorded of it: "same", "changed" or "not here", and what it is."""

    what: str
    status: str


def trace(file: Path, bids_dir: Path | None = None, source: Path | None = None) -> Traced:
    """Read how a file came about.

    Parameters
    ----------
    file : Path
        An image that this program wrote, or its sidecar.
    bids_dir : Path or None
        The raw dataset; None: where the output's description says it is.
    source : Path or None
        The image that it was made of, where that is in no dataset.

    Raises
    ------
    MissingInputError
        The file is not there.
    InputError
        It has no sidecar of this program.
    """
    image = image_path(file) if file.name.endswith(".json") else file
    if not image.is_file():
        raise MissingInputError(f"{image} is not there; name an image that brainchop wrote, or its sidecar")
    try:
        content = json.loads(sidecar_path(image).read_text(encoding="utf-8"))["Provenance"]
        record = ProvenanceRecord.model_validate(content)
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise InputError(
            f"{image.name} has no sidecar that says how it was made; name an image that brainchop wrote"
        ) from error
    output_dir = output_of(image) or image.resolve().parent
    found = source or Places.of(output_dir, bids_dir).resolve(record.input.uri)
    return Traced(image, output_dir, record, found)


def check_digests(traced: Traced) -> tuple[Check, ...]:
    """Compare input, models and output of a file with what was recorded of them."""
    record = traced.record
    recorded = record.output.sha256 if record.output else ""
    checks = [
        Check("output", "same" if sha256_of_file(traced.image) == recorded else "changed"),
        Check(f"input {record.input.uri}", _status(traced.source, record.input.sha256)),
    ]
    return (*checks, *(Check(f"model {model.name}", _model_status(model)) for model in record.models))


def recorded_model(recorded: ModelRecord, cards: tuple[str, ...]) -> Model:
    """Find the model that a record means: a shipped one, or one of a user's cards.

    Raises
    ------
    UsageError
        There is no such model.
    """
    own = {model.card.name: model for model in map(find_model, cards)}
    try:
        return own.get(recorded.name) or find_model(recorded.name)
    except UsageError as error:
        raise UsageError(
            f"the model {recorded.name!r} is none that the package ships; give its card (--model CARD.json)"
        ) from error


def _model_status(recorded: ModelRecord) -> str:
    try:
        model = find_model(recorded.name)
    except UsageError:
        return "not here"
    if model.card.weights.onnx_sha256 != recorded.sha256:
        return "changed"
    return _status(ModelStore.from_environment().path_of(model), recorded.sha256)


def _status(path: Path | None, sha256: str) -> str:
    if path is None or not path.is_file():
        return "not here"
    return "same" if sha256_of_file(path) == sha256 else "changed"
