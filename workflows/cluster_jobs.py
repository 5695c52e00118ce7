"""Jobs that are with a scheduler, as somebody who waits for them sees them."""

from pathlib import Path
from typing import Protocol

from brainchop_pipe.workflows import cluster_slurm as slurm
from brainchop_pipe.workflows.cluster_record import Submission
from brainchop_pipe.workflows.cluster_report import TaskReport, report_tasks


class Jobs(Protocol):
    """Jobs of one submission."""

    @property
    def name(self) -> str:
        """What they are called, for people."""

    def look(self) -> tuple[bool, tuple[TaskReport, ...]]:
        """Tell whether any waits or runs, and how all tasks are; ClusterError where nobody answers."""

    def cancel(self) -> None:
        """End them."""

    def leave(self) -> None:
        """Have them go on without this process."""


class SlurmJobs:
    """Jobs in SLURM's queue.

    Parameters
    ----------
    folder : Path
        Of the submission.
    submission : Submission
    """

    def __init__(self, folder: Path, submission: Submission) -> None:
        self._folder, self._jobs = folder, submission.jobs
        self.name = f"job {', '.join(self._jobs)}"

    def look(self) -> tuple[bool, tuple[TaskReport, ...]]:
        """See `Jobs`."""
        return bool(slurm.active_tasks(self._jobs)), report_tasks(self._folder)

    def cancel(self) -> None:
        """See `Jobs`."""
        slurm.cancel(self._jobs)

    def leave(self) -> None:
        """See `Jobs`: SLURM does so anyway."""
