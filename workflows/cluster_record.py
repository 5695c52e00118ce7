"""What a task of a job array leaves behind of itself, for those who ask what became of it.

A task rewrites its own file after each image, and no two tasks share one: what a killed
task had not finished can be told without SLURM's accounting.
"""

import hashlib
import logging
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ValidationError

from brainchop_pipe.errors import OutputError
from brainchop_pipe.record import utc_now
from brainchop_pipe.storage import write_whole

logger = logging.getLogger(__name__)

# Below an output folder: a folder for each submission.
FOLDER = Path(".brainchop") / "cluster"

MANIFEST = "manifest.tsv"
_TASKS = "tasks"


class FinishedImage(BaseModel):
    """An image that a task is done with; reasons by model where models failed."""

    participant: str
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
