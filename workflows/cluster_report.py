"""What became of the tasks of a submission, and whom the ones hit that ended early."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from brainchop_pipe.workflows import cluster_slurm as slurm
from brainchop_pipe.workflows.cluster_manifest import read_manifest
from brainchop_pipe.workflows.cluster_record import (
    MANIFEST,
    Submission,
    TaskRecord,
    read_submission,
    read_tasks,
    submission_folders,
)

from brainchop_pipe.errors import EXIT_INTERRUPTED

TaskStatus = Literal["waiting", "running", "done", "hit"]

# From SLURM's start of a task to the task's own record of it, at most.
_START_SECONDS = 30


@dataclass(frozen=True)
class TaskReport:
    """What became of one task.

    Parameters
    ----------
    slice : int
    status : {"waiting", "running", "done", "hit"}
        "hit": it ended before all its participants were finished.
    participants : tuple of str
        Without ``sub-``.
    unfinished : tuple of str
        Those of them that no go of the task finished.
    failed : dict
        What is wrong with images that were finished and failed, by participant.
    cause : str
        What ended it early; empty unless it was hit.
    goes : int
        How often it was started; more than once where SLURM put it back into the queue.
    """

    slice: int
    status: TaskStatus
    participants: tuple[str, ...]
    unfinished: tuple[str, ...]
    failed: dict[str, str]
    cause: str
    goes: int


def report_tasks(folder: Path, at_work: Collection[int] = ()) -> tuple[TaskReport, ...]:
    """Tell what became of the tasks of a submission, by what SLURM and the tasks themselves say.

    Parameters
    ----------
    folder : Path
        Of the submission.
    at_work : collection of int
        Slices that another scheduler than SLURM has, and has not ended.

    Returns
    -------
    tuple of TaskReport
        In the order of slices.

    Raises
    ------
    ClusterError
        SLURM does not answer.
    """
    submission = read_submission(folder)
    slices = read_manifest(folder / MANIFEST)
    records: dict[int, list[TaskRecord]] = defaultdict(list)
    for record in read_tasks(folder):
        records[record.slice].append(record)
    tasks = _tasks_by_slice(submission, slices, records)
    states = slurm.states_of(sorted({job for job, _ in tasks.values()})) if slurm.is_here() else {}
    limit = submission.limit_seconds if submission else None
    known = {index: states.get(task) for index, task in tasks.items()}
    known |= {index: slurm.TaskState(_word(records[index])) for index in at_work}
    return tuple(
        _report(index, labels, records[index], known.get(index), limit)
        for index, labels in sorted(slices.items())
    )


def _word(records: list[TaskRecord]) -> str:
    """Give the state of a task that has not ended, in SLURM's word."""
    return "RUNNING" if records and records[-1].ended is None else "PENDING"


def participants_at_work(output_dir: Path) -> set[str]:
    """Give the participants, without ``sub-``, that jobs of earlier submissions have and will work on.

    Raises
    ------
    ClusterError
        SLURM is there, but does not answer.
    """
    found: set[str] = set()
    submissions = {folder: read_submission(folder) for folder in submission_folders(output_dir)}
    known = {folder: submission for folder, submission in submissions.items() if submission}
    jobs = [array.job for submission in known.values() for array in submission.arrays]
    active = slurm.active_tasks(jobs) if slurm.is_here() else set()
    for folder, submission in known.items():
        indices = {submission.slice_of(*key) for key in active} - {None}
        slices = read_manifest(folder / MANIFEST) if indices else {}
        found |= {label for index in indices if index is not None for label in slices.get(index, ())}
    return found


def _tasks_by_slice(
    submission: Submission | None,
    slices: Iterable[int],
    records: Mapping[int, list[TaskRecord]],
) -> dict[int, slurm.TaskKey]:
    """Give SLURM's names of tasks: as submitted here, else as the tasks themselves noted."""
    if submission is not None:
        return {
            array.first_slice + index: (array.job, index)
            for array in submission.arrays
            for index in range(array.tasks)
        }
    noted = {index: records[index][-1].job.partition("_") for index in slices if records.get(index)}
    return {index: (job, int(task) if task else None) for index, (job, _, task) in noted.items() if job}


def _report(
    index: int,
    labels: tuple[str, ...],
    records: list[TaskRecord],
    state: slurm.TaskState | None,
    limit_seconds: int | None,
) -> TaskReport:
    unfinished = tuple(label for label in labels if not _is_finished(f"sub-{label}", records))
    status: TaskStatus = "hit" if unfinished else "done"
    if unfinished and state is not None and state.is_active:
        status = "waiting" if state.word == "PENDING" else "running"
    return TaskReport(
        slice=index,
        status=status,
        participants=labels,
        unfinished=unfinished,
        failed=_failed(records),
        cause=_cause(state, records, limit_seconds) if status == "hit" else "",
        goes=len(records),
    )


def _is_finished(participant: str, records: Iterable[TaskRecord]) -> bool:
    """Tell whether all images of a participant were finished, or a task that ended well found none."""
    images: set[str] = set()
    wanted: int | None = None
    for record in records:
        images |= {image.image for image in record.finished if image.participant == participant}
        if record.images:
            wanted = record.images.get(participant, 0)
    return wanted is not None and len(images) >= wanted


def _failed(records: Iterable[TaskRecord]) -> dict[str, str]:
    """Give what is wrong with images that failed, by what the last go says of each."""
    last = {image.image: image for record in records for image in record.finished}
    told: dict[str, list[str]] = defaultdict(list)
    for image in last.values():
        for reason in dict.fromkeys(image.failed.values()):
            models = ", ".join(model for model, why in image.failed.items() if why == reason)
            told[image.participant.removeprefix("sub-")].append(f"{models}: {reason}")
    return {participant: "; ".join(reasons) for participant, reasons in sorted(told.items())}


def _cause(state: slurm.TaskState | None, records: list[TaskRecord], limit_seconds: int | None) -> str:
    """Say in words what ended a task early: SLURM's word, else what its last go left behind."""
    if state is not None and state.cause and state.word != "FAILED":
        return state.cause
    if not records:
        return "never started: cancelled, or its node failed"
    last = records[-1]
    if last.ended is None:
        return "killed without a warning: out of memory, or its node failed"
    if last.exit_code == EXIT_INTERRUPTED:
        is_late = limit_seconds is not None and last.seconds > limit_seconds - _START_SECONDS
        return "out of time" if is_late else "cancelled or preempted"
    return f"ended with exit code {last.exit_code}; its log says why"
