"""SLURM's own commands: submit, ask, cancel. The one module that knows their words."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from brainchop_pipe.errors import ClusterError

# Number of a job, and index in its array; None for a job that is no array.
TaskKey = tuple[str, int | None]

# SLURM's own default, where it does not say.
_MAX_ARRAY_SIZE = 1001

_ACTIVE = frozenset(
    (
        *("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING"),
        *("COMPLETING", "STAGE_OUT", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"),
    )
)

_CAUSES = {
    "TIMEOUT": "out of time",
    "DEADLINE": "out of time (deadline)",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node failed to start",
    "PREEMPTED": "preempted by another job",
    "CANCELLED": "cancelled",
    "REVOKED": "cancelled",
    "FAILED": "ended with an error",
}


@dataclass(frozen=True)
class TaskState:
    """What SLURM says of a task.

    Parameters
    ----------
    word : str
        SLURM's own, such as ``OUT_OF_MEMORY``.
    """

    word: str

    @property
    def is_active(self) -> bool:
        """Whether it runs or will."""
        return self.word in _ACTIVE

    @property
    def cause(self) -> str:
        """What ended it early, in words; empty where it ended well, or has not ended."""
        if self.is_active or self.word == "COMPLETED":
            return ""
        return _CAUSES.get(self.word, self.word.lower().replace("_", " "))


def is_here() -> bool:
    """Tell whether SLURM's commands are on this machine."""
    return shutil.which("squeue") is not None


def check_slurm() -> None:
    """Refuse to go on where there is no SLURM.

    Raises
    ------
    ClusterError
    """
    if shutil.which("sbatch") is None:
        raise ClusterError(
            "there is no sbatch on this machine; submit from a login node of the cluster, or make the "
            "manifest with --cluster plan and submit it with containers/brainchop.sbatch"
        )


def max_array_size() -> int:
    """Give the site's MaxArraySize: indices of an array stay below it."""
    answer = _ask("scontrol", "show", "config")
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", answer, re.MULTILINE)
    return int(found[1]) if found else _MAX_ARRAY_SIZE


def submit(options: Sequence[str], script: Path, *arguments: str) -> str:
    """Submit a script; gives the job's number.

    Raises
    ------
    ClusterError
        SLURM does not take it; the message has SLURM's reason.
    """
    command = ["sbatch", "--parsable", *options, str(script), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise ClusterError(
            f"sbatch did not take the job: {result.stderr.strip()}. Options of your site (account, "
            "partition, memory, time) can be given with --sbatch-args"
        )
    # "12", or "12;cluster".
    return result.stdout.strip().partition(";")[0]


def time_limit_seconds(job: str) -> int | None:
    """Give the time limit of a job in the queue, whoever set it; None where it has none, or is gone."""
    limit = _ask("squeue", "-h", "-j", job, "-o", "%l").partition("\n")[0]
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", limit.strip())
    if not found:
        return None
    days, hours, minutes, seconds = (int(number or 0) for number in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs with all their tasks; those that have ended do not mind."""
    if jobs:
        _ask("scancel", *jobs)


def states_of(jobs: Sequence[str]) -> dict[TaskKey, TaskState]:
    """Ask for the states of jobs' tasks: of the controller, and of the accounting where there is one.

    Parameters
    ----------
    jobs : sequence of str
        Numbers of jobs.

    Returns
    -------
    dict
        Tasks are missing that ended longer ago than the controller remembers
        (``MinJobAge``), if there is no accounting.

    Raises
    ------
    ClusterError
        The controller does not answer.
    """
    if not jobs:
        return {}
    ended = {key: state for key, state in _recorded(jobs).items() if not state.is_active}
    return ended | _listed(jobs, "-t", "all")


def active_tasks(jobs: Sequence[str]) -> set[TaskKey]:
    """Ask the controller which tasks of jobs run or will; errors as of `states_of`."""
    return {key for key, state in _listed(jobs).items() if state.is_active} if jobs else set()


def _listed(jobs: Sequence[str], *options: str) -> dict[TaskKey, TaskState]:
    """Give what the controller knows of jobs; what it has forgotten is missing."""
    try:
        listed = _ask("squeue", "-h", "-r", *options, "-j", ",".join(jobs), "-o", "%F|%K|%T")
    except ClusterError as error:
        # Its way of saying that it has forgotten a job, where that is the only one.
        if "Invalid job id" in str(error):
            return {}
        raise
    found = {}
    for line in listed.splitlines():
        job, index, word = line.split("|")
        found[job, int(index) if index.isdecimal() else None] = TaskState(word)
    return found


def _recorded(jobs: Sequence[str]) -> dict[TaskKey, TaskState]:
    """Give what the accounting has; nothing where a site has none."""
    try:
        listed = _ask("sacct", "-X", "-n", "-P", "-j", ",".join(jobs), "-o", "JobID,State")
    except ClusterError:
        return {}
    found = {}
    for line in listed.splitlines():
        job, _, state = line.partition("|")
        name = re.fullmatch(r"(\d+)(?:_(\d+))?", job)
        if name and state:
            # "CANCELLED by 1000"
            found[name[1], int(name[2]) if name[2] else None] = TaskState(state.split()[0])
    return found


def _ask(*command: str) -> str:
    """Run one of SLURM's commands and give what it prints.

    Raises
    ------
    ClusterError
        It is not there, or fails.
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ClusterError(f"there is no {command[0]} on this machine") from None
    if result.returncode:
        raise ClusterError(f"{command[0]} failed: {result.stderr.strip()}; try again later")
    return result.stdout
