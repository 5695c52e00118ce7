"""A task of a job array: the app over one slice of a manifest, and nothing that two tasks would write."""

import os
import re
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from brainchop_pipe.workflows.bids_app import Report, run_images
from brainchop_pipe.workflows.cluster_manifest import read_slice
from brainchop_pipe.workflows.cluster_record import MANIFEST, FinishedImage, TaskFile, submission_folder
from brainchop_pipe.workflows.outcome import Outcome

from brainchop_pipe.bids.dataset import check_dataset, find_images
from brainchop_pipe.bids.publish import prepare_output_dir
from brainchop_pipe.errors import EXIT_INTERRUPTED, EXIT_SOME_FAILED, PipeError, UsageError
from brainchop_pipe.settings import Settings
from brainchop_pipe.storage import write_new


def run_slice(settings: Settings, manifest: Path, index: int, report: Report) -> list[Outcome]:
    """Run the participants of one slice.

    Only their own folders of the dataset are looked at, which is not validated again. A
    participant that has no image any more is passed over. Files that stand once in the
    output folder are left to the planner and the group level.

    Parameters
    ----------
    settings : Settings
        With a dataset; participants that it names are overruled.
    manifest : Path
    index : int
        Slice of the manifest.
    report : callable
        As of `run_participants`.

    Returns
    -------
    list of Outcome

    Raises
    ------
    PipeError
        As of `run_participants`, or the manifest cannot be used.
    """
    if settings.bids_dir is None:
        raise UsageError("a manifest is of a BIDS dataset")
    labels = read_slice(manifest, index)
    bids_dir = settings.bids_dir.resolve()
    check_dataset(bids_dir, skip_validation=True)
    prepare_output_dir(settings.output_dir, bids_dir)
    own = _settings_of_task(settings, index)
    folder = submission_folder(settings.output_dir, manifest)
    task = TaskFile(folder, index)
    # Of a manifest from elsewhere, for who asks later what became of its tasks.
    write_new(folder / MANIFEST, manifest.read_bytes())
    try:
        query = replace(settings.query, participant_labels=labels, names_must_exist=False)
        sources = find_images(bids_dir, query)
        task.record.images = dict(Counter(source.participant for source in sources))
        task.try_save()
        jobs = {source: bids_dir / source.folder / source.name for source in sources}
        outcomes = run_images(jobs, own, _noted(task, report))
    except BaseException as error:
        task.end(_exit_code(error))
        raise
    finally:
        _remove_if_empty(own.work_dir)
    task.end(EXIT_SOME_FAILED if any(outcome.status == "failed" for outcome in outcomes) else 0)
    return outcomes


def _settings_of_task(settings: Settings, index: int) -> Settings:
    """Give a task a work folder of its own: it clears what earlier goes left without a look at others."""
    parent = settings.output_dir / ".brainchop" / "work"
    if settings.work_dir is not None:
        parent = Path(_with_variables(str(settings.work_dir)))
    return replace(settings, work_dir=parent / f"slice-{index}", writes_dataset_files=False)


def _with_variables(text: str) -> str:
    """Put in the variables of a task's node, such as ``$TMPDIR``.

    Raises
    ------
    UsageError
        One is not set.
    """
    expanded = os.path.expandvars(text)
    unset = re.search(r"\$\w+|\$\{\w+\}", expanded)
    if unset:
        raise UsageError(f"--work-dir {text}: {unset[0]} is not set where the task runs; name another folder")
    return expanded


def _remove_if_empty(folder: Path | None) -> None:
    if folder is not None:
        with suppress(OSError):
            folder.rmdir()


def _noted(task: TaskFile, report: Report) -> Report:
    """Note each image before it is reported."""

    def note(finished: int, total: int, outcomes: list[Outcome]) -> None:
        source = outcomes[0].source
        failed = {o.model: o.reason for o in outcomes if o.status == "failed"}
        image = FinishedImage(participant=source.participant, image=source.uri, failed=failed)
        task.record.finished.append(image)
        task.try_save()
        report(finished, total, outcomes)

    return note


def _exit_code(error: BaseException) -> int:
    if isinstance(error, PipeError):
        return error.exit_code
    return EXIT_INTERRUPTED if isinstance(error, KeyboardInterrupt) else PipeError.exit_code
