"""The BIDS-App: walk a dataset, run what is missing, confine what fails."""

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from brainchop_pipe.workflows.segment_image import Outcome, ReadyModel, segment_image
from filelock import FileLock, Timeout

from brainchop_pipe.bids.dataset import check_dataset, find_images
from brainchop_pipe.bids.derivatives import check_tissue_model, write_dataset_files
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.provenance import code_record
from brainchop_pipe.bids.publish import prepare_output_dir
from brainchop_pipe.errors import OutputError, UsageError
from brainchop_pipe.settings import Settings
from brainchop_pipe.zoo.catalog import Model, find_models
from brainchop_pipe.zoo.fetch import ModelStore

logger = logging.getLogger(__name__)

# How long to wait between looks at a lock that another run holds.
_POLL_SECONDS = 1.0

Report = Callable[[int, int, list[Outcome]], None]


def run_participants(settings: Settings, report: Report) -> list[Outcome]:
    """Run the participant level over a dataset.

    Parameters
    ----------
    settings : Settings
        With a dataset.
    report : callable
        Told after each image: images finished, images in all, the image's outcomes.

    Returns
    -------
    list of Outcome
        One an image and model.

    Raises
    ------
    PipeError
        Dataset, output folder or a model cannot be used; nothing was written then
        but an empty output folder.
    """
    if settings.bids_dir is None:
        raise UsageError("the participant level needs a BIDS dataset")
    bids_dir = settings.bids_dir.resolve()
    check_dataset(bids_dir, skip_validation=settings.skip_bids_validation)
    sources = find_images(bids_dir, settings.query)
    jobs = {source: bids_dir / source.folder / source.name for source in sources}
    return run_images(jobs, settings, report)


def run_images(jobs: dict[Source, Path], settings: Settings, report: Report) -> list[Outcome]:
    """Run a set of images, one group (participant) after the other.

    Two runs on the same output folder share the work: each takes the groups that the
    other does not hold, and looks again at those at the end.
    """
    models = find_models(settings.processing.models)
    check_tissue_model(models, settings.processing.tissue_model)
    _check_memory(models, settings)
    prepare_output_dir(settings.output_dir, settings.bids_dir)
    store = ModelStore.from_environment()
    ready = tuple(ReadyModel(model, store.load(model)) for model in models)
    if settings.bids_dir is not None:
        write_dataset_files(settings.output_dir, settings.bids_dir, code_record())
    uses = Counter(source.key for source in jobs)
    groups: dict[str, list[Source]] = {}
    for source in jobs:
        groups.setdefault(source.group, []).append(source)
    outcomes: list[Outcome] = []
    finished = 0
    for group in _claimed(groups, settings.output_dir):
        for source in groups[group]:
            reason = _cannot_be_named(source, uses[source.key])
            if reason:
                result = [Outcome(source, r.model.card.name, "failed", reason=reason) for r in ready]
            else:
                result = segment_image(source, jobs[source], ready, settings)
            finished += 1
            outcomes += result
            report(finished, len(jobs), result)
            if settings.stop_on_first_crash and any(o.status == "failed" for o in result):
                return outcomes
    return outcomes


def _cannot_be_named(source: Source, inputs_of_that_name: int) -> str:
    """Why an image's derivatives cannot have names of their own; empty where they can."""
    if source.uri.startswith("bids:") and not source.entities:
        return f"{source.name} has a name that is not that of a raw BIDS image; rename it"
    if inputs_of_that_name > 1:
        return f"another input (.nii beside .nii.gz?) would write the same files as {source.name}; remove one"
    return ""


def _claimed(groups: dict[str, list[Source]], output_dir: Path) -> Iterator[str]:
    """Give the groups one by one, each under its lock; those that another run holds come last."""
    waiting = deque(groups)
    passed_over = 0
    while waiting:
        group = waiting.popleft()
        # Once all that is left is held by others, wait for them instead of going round.
        patience = _POLL_SECONDS if passed_over >= len(waiting) + 1 else 0.0
        with _try_lock(output_dir, group, patience) as locked:
            if locked:
                passed_over = 0
                yield group
            else:
                passed_over += 1
                waiting.append(group)


@contextmanager
def _try_lock(output_dir: Path, group: str, patience_seconds: float) -> Iterator[bool]:
    """Hold a group's lock if it can be had in time; the kernel frees it when its holder dies."""
    folder = output_dir / ".brainchop" / "locks"
    lock = FileLock(folder / f"{group}.lock", timeout=patience_seconds)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        logger.info("%s is being worked on by another run", group)
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"{folder.name} below {output_dir} cannot be locked ({error}); it must be writable for you, "
            "on a file system with locks"
        ) from error
    try:
        yield True
    finally:
        lock.release()


def _check_memory(models: tuple[Model, ...], settings: Settings) -> None:
    """Refuse a model that needs more memory than was allowed, before any image is read."""
    for model in models:
        card = model.card
        whole = settings.processing.full_volume or card.input.crop is None
        need = card.memory.full_gb if whole else card.memory.cropped_gb
        if settings.mem_gb is not None and need > settings.mem_gb:
            raise UsageError(
                f"model {card.name!r} needs {need} GB; --mem-gb allows {settings.mem_gb}. "
                "Allow more, or choose a smaller model"
            )
