"""What submissions and their tasks leave behind of themselves, for those who ask what became of them.

A submission has a folder. A task rewrites its own file there after each image, and no two
tasks share one: what a killed task had not finished can be told without SLURM's accounting.
"""

import hashlib
import logging
import os
import secrets
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from brainchop_pipe.workflows.cluster_manifest import write_manifest
from pydantic import BaseModel, ValidationError

from brainchop_pipe.errors import MissingInputError, OutputError
from brainchop_pipe.record import utc_now
from brainchop_pipe.storage import write_whole

logger = logging.getLogger(__name__)

# Below an output folder: a folder for each submission.
FOLDER = Path(".brainchop") / "cluster"

MANIFEST = "manifest.tsv"
_SUBMISSION = "submission.json"
_TASKS = "tasks"


class ArrayJob(BaseModel):
    """A job array: its number, the slice that its index 0 has, how many tasks it has."""

    job: str
    first_slice: int
    tasks: int


class Submission(BaseModel):
    """What was submitted.

    Parameters
    ----------
    submitted : str
        When.
    limit_seconds : int or None
        Time limit of a task, None where there is none.
    arrays : list of ArrayJob
    group_job : str or None
        Number of the job of the group level.
    """

    submitted: str
    limit_seconds: int | None = None
    arrays: list[ArrayJob] = []
    group_job: str | None = None

    @property
    def jobs(self) -> list[str]:
        """Numbers of all jobs."""
        return [*(array.job for array in self.arrays), *filter(None, [self.group_job])]

    def slice_of(self, job: str, index: int | None) -> int | None:
        """Give the slice that a task of an array has; None for other jobs."""
        found = (a.first_slice for a in self.arrays if a.job == job)
        first = next(found, None)
        return None if first is None or index is None else first + index


def new_submission(output_dir: Path, slices: Sequence[Sequence[str]]) -> Path:
    """Make the folder of a submission, with its manifest.

    Parameters
    ----------
    output_dir : Path
    slices : sequence of sequence of str
        Participants without ``sub-``; no two slices share one.

    Returns
    -------
    Path
        The folder. Its name begins with the time, so that the last one sorts last.
    """
    stamp = utc_now().replace("-", "").replace(":", "")
    folder = output_dir.resolve() / FOLDER / f"{stamp}-{secrets.token_hex(3)}"
    folder.mkdir(parents=True)
    write_manifest(folder / MANIFEST, slices)
    return folder


def submission_folders(output_dir: Path) -> list[Path]:
    """List the folders of submissions, the oldest first."""
    return sorted(path for path in (output_dir / FOLDER).glob("*/"))


def last_submission(output_dir: Path) -> Path:
    """Give the folder of the last submission.

    Raises
    ------
    MissingInputError
        There is none.
    """
    folders = submission_folders(output_dir)
    if not folders:
        raise MissingInputError(f"{output_dir} has no jobs; submit some with --cluster slurm")
    return folders[-1]


def write_submission(folder: Path, submission: Submission) -> None:
    """Write what was submitted into the submission's folder."""
    write_whole(folder / _SUBMISSION, submission.model_dump_json(indent=2).encode())


def read_submission(folder: Path) -> Submission | None:
    """Read what was submitted; None where a site's own script submitted a manifest."""
    try:
        return Submission.model_validate_json((folder / _SUBMISSION).read_bytes())
    except (OSError, ValidationError):
        return None


class FinishedImage(BaseModel):
    """An image that a task is done with; reasons by model where models failed."""

    participant: str
    image: str
    failed: dict[str, str] = {}


class TaskRecord(BaseModel):
    """One go of one task.

    Parameters
    ----------
    slice : int
    job : str
        SLURM's name of it, such as ``12_3``; empty outside of SLURM.
    started : str
    images : dict
        How many images each participant has; empty until they were looked for.
    finished : list of FinishedImage
    ended : str or None
        When; None as long as it runs, and for ever if it was killed without a warning.
    exit_code : int or None
        With `ended`.
    """

    slice: int
    job: str
    started: str
    images: dict[str, int] = {}
    finished: list[FinishedImage] = []
    ended: str | None = None
    exit_code: int | None = None

    @property
    def seconds(self) -> float:
        """How long it took, as far as is known."""
        start, end = (datetime.fromisoformat(text) for text in (self.started, self.ended or self.started))
        return (end - start).total_seconds()


class TaskFile:
    """The file of one go of a task, kept up to date.

    Parameters
    ----------
    folder : Path
        Of the submission.
    index : int
        Slice.
    """

    def __init__(self, folder: Path, index: int) -> None:
        self.record = TaskRecord(slice=index, job=_job_name(), started=utc_now())
        stamp = self.record.started.replace("-", "").replace(":", "")
        self._path = folder / _TASKS / f"{index}-{stamp}-{secrets.token_hex(3)}.json"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self.save()
        except OSError as error:
            raise OutputError(f"{folder} cannot be written ({error}); check space and permissions") from error

    def save(self) -> None:
        """Write the record whole."""
        write_whole(self._path, self.record.model_dump_json().encode(), durable=False)

    def try_save(self) -> None:
        """Write the record if that can be done: a full disk must not end the work."""
        try:
            self.save()
        except OSError as error:
            logger.warning("the record of this task was not written: %s", error)

    def end(self, exit_code: int) -> None:
        """Note the end."""
        self.record.ended, self.record.exit_code = utc_now(), exit_code
        self.try_save()


def read_tasks(folder: Path) -> Iterator[TaskRecord]:
    """Read what tasks left in a submission's folder: by slice, and the first go of each first."""
    for path in sorted((folder / _TASKS).glob("*.json")):
        try:
            yield TaskRecord.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            logger.warning("%s cannot be read", path.name)


def submission_folder(output_dir: Path, manifest: Path) -> Path:
    """Give the folder of the submission that a manifest is of.

    It is the one that the manifest lies in, or has the digest of a manifest from elsewhere
    in its name.
    """
    folder = manifest.resolve().parent
    if folder.parent == (output_dir / FOLDER).resolve():
        return folder
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    return output_dir / FOLDER / f"{manifest.stem}-{digest[:12]}"


def _job_name() -> str:
    array, task = (os.environ.get(f"SLURM_ARRAY_{name}") for name in ("JOB_ID", "TASK_ID"))
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID", "")
