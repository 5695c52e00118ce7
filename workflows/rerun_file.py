"""The same work once more, from what a sidecar recorded, compared with what it made then."""

from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from brainchop_pipe.workflows.bids_app import run_images
from brainchop_pipe.workflows.trace_file import Traced, recorded_model, trace

from brainchop_pipe.bids.dataset import source_of
from brainchop_pipe.bids.names import CONFORMED, Source, is_on_conformed_grid, parse_name
from brainchop_pipe.bids.sidecar import ProvenanceRecord
from brainchop_pipe.errors import ChecksumError, InputError, UsageError
from brainchop_pipe.images import read_image
from brainchop_pipe.settings import Processing, Query, Settings, pascal_case
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.zoo.catalog import Model
from brainchop_pipe.zoo.plan import DEFAULT_MASK_MODEL

# Of the range of an image: a difference that no picture shows.
_SMALL = 1e-3


@dataclass(frozen=True)
class Comparison:
    """A file against its rerun.

    Parameters
    ----------
    name : str
    same_bytes : bool
    agreement : float
        Share of the voxels with a label in either that have the same in both, or, of
        other images, of the voxels that differ by less than a thousandth of the range;
        1 for the same bytes.
    """

    name: str
    same_bytes: bool
    agreement: float


@dataclass(frozen=True)
class Rerun:
    """What came out, and what is not as it was then."""

    comparisons: tuple[Comparison, ...]
    differences: tuple[str, ...]


def rerun(traced: Traced, folder: Path, cards: tuple[str, ...] = (), mask: Path | None = None) -> Rerun:
    """Make a file again, with all that was made together with it, and compare.

    Parameters
    ----------
    traced : Traced
    folder : Path
        For what is made; empty.
    cards : tuple of str
        Paths of cards of the models that the package does not ship.
    mask : Path or None
        The brain mask, if one was given then.

    Raises
    ------
    InputError
        The image is not there, or is another now; or making it failed.
    ChecksumError
        A model is another now.
    UsageError
        A mask or a card that is needed is not given.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"{folder} is not empty; name a new folder to keep what is made again")
    source_path = _checked_source(traced)
    settings = _settings(traced, folder, cards, mask)
    source = _source(traced, source_path)
    outcomes = run_images({source: source_path}, settings, lambda *_: None)
    failed = [f"{outcome.model}: {outcome.reason}" for outcome in outcomes if outcome.status != "done"]
    if failed:
        raise InputError(f"{source_path.name} cannot be made again: {'; '.join(failed)}")
    below = traced.image.resolve().relative_to(traced.output_dir).parent
    made = sorted((folder / below).glob("*.nii.gz"))
    comparisons = tuple(_compare(traced.output_dir / below / new.name, new) for new in made)
    return Rerun(comparisons, _differences(traced.record, trace(folder / below / traced.image.name).record))


def _checked_source(traced: Traced) -> Path:
    source, recorded = traced.source, traced.record.input
    if source is None or not source.is_file():
        raise InputError(
            f"{recorded.uri} is not there; give the dataset that it is of (--bids-dir), or the image "
            "(--input)"
        )
    if sha256_of_file(source) != recorded.sha256:
        raise InputError(f"{source.name} has another content than the image that {traced.image.name} is of")
    return source


def _settings(traced: Traced, folder: Path, cards: tuple[str, ...], mask: Path | None) -> Settings:
    """Give the settings of the run that is recorded."""
    record = traced.record
    if record.given_mask is not None and (mask is None or sha256_of_file(mask) != record.given_mask.sha256):
        raise UsageError("it was made with a brain mask that was given; give the same one again (--mask)")
    models = _checked_models(record, cards)
    last = models[-1]
    execution = record.execution[last.card.name]
    names = {pascal_case(f.name): f.name for f in fields(Processing)}
    parameters: dict[str, Any] = {names[k]: value for k, value in record.parameters.items() if k in names}
    # Checked by the card and the settings of then.
    device: Any = execution.requested_device
    # The image within a mask has the bare name whichever model made that.
    is_tissue_set = "_seg-" not in traced.image.name and last.card.output.role == "tissue"
    # Of two, the second told tissues apart for their contrast, and is found again by the first.
    mask_models = [model.asked_as for model in models[:-1]][:1]
    if is_tissue_set and record.given_mask is not None and not mask_models:
        # Not run: the mask takes its place.
        mask_models = [DEFAULT_MASK_MODEL]
    processing = Processing(
        models=(*mask_models, last.asked_as) if is_tissue_set else (last.asked_as,),
        tissue_model=last.card.name if is_tissue_set else None,
        mask_model=mask_models[0] if mask_models and not is_tissue_set else None,
        mask=mask,
        device=device,
        **parameters,
    )
    return Settings(
        output_dir=folder,
        processing=processing,
        query=Query(modalities=(_contrast(traced),)),
        nprocs=execution.threads,
        omp_nthreads=execution.threads,
        command=record.command,
        extras=_extras(traced.image.name),
    )


def _checked_models(record: ProvenanceRecord, cards: tuple[str, ...]) -> list[Model]:
    """Find the models that ran, and refuse others of their names."""
    models = [recorded_model(model, cards) for model in record.models]
    for model, recorded in zip(models, record.models, strict=True):
        if model.card.weights.onnx_sha256 != recorded.sha256:
            raise ChecksumError(
                f"the model {recorded.name} is another now (version {model.card.version}, then "
                f"{recorded.version}); install the version of brainchop_pipe that made the file, "
                f"{record.code.get('Version')}"
            )
    return models


def _source(traced: Traced, path: Path) -> Source:
    """Name the image as it was named then, so that the same files are written."""
    uri = traced.record.input.uri
    if uri.startswith("bids:"):
        # Named by where it was, wherever it is now.
        root = Path("/")
        return source_of(root / uri.rpartition(":")[2], root)
    parsed = parse_name(path.name)
    entities = parsed[0] if parsed else ()
    return Source(PurePosixPath(), path.name, uri, path.name, entities, _contrast(traced))


def _contrast(traced: Traced) -> str:
    """Give the contrast of the image: other ones than T1w stand in the names of what is made of them."""
    parts = (part.partition("-") for part in traced.image.name.split("_"))
    space = next((value for key, _, value in parts if key == "space"), "T1w")
    return space.removesuffix(CONFORMED) or "T1w"


def _extras(name: str) -> tuple[str, ...]:
    """Give what has to be asked for to have a file of this name written."""
    if "_desc-biascorr_" in name:
        return ("prepared",)
    if is_on_conformed_grid(name):
        return ("conformed",)
    is_extracted = "_desc-brain_" in name and not name.endswith(("_mask.nii.gz", "_dseg.nii.gz"))
    return ("brain",) if is_extracted else ()


def _compare(then: Path, now: Path) -> Comparison:
    if sha256_of_file(then) == sha256_of_file(now):
        return Comparison(then.name, True, 1.0)
    old, new = (read_image(path, allow_constant=True).volume.voxels for path in (then, now))
    if old.shape != new.shape:
        return Comparison(then.name, False, 0.0)
    if old.dtype.kind in "iu":
        either = (old > 0) | (new > 0)
        agreement = (old == new)[either].mean() if either.any() else 1.0
    else:
        agreement = (np.abs(old - new) <= _SMALL * np.ptp(old)).mean()
    return Comparison(then.name, False, float(agreement))


def _differences(then: ProvenanceRecord, now: ProvenanceRecord) -> tuple[str, ...]:
    """Say what was not the same in the making of a file and of its rerun."""
    pairs = {
        "program": (then.code.get("Version"), now.code.get("Version")),
        "commit": (then.code.get("Commit"), now.code.get("Commit")),
        **{name: (version, now.versions.get(name)) for name, version in then.versions.items()},
        **{name: (value, now.hardware.get(name)) for name, value in then.hardware.items()},
    }
    for name, execution in then.execution.items():
        again = now.execution.get(name)
        pairs[f"provider of {name}"] = (execution.provider, again.provider if again else None)
        pairs[f"threads of {name}"] = (execution.threads, again.threads if again else None)
    return tuple(f"{what}: {old}, now {new}" for what, (old, new) in pairs.items() if old != new)
