"""From a plan to jobs in SLURM's queue: manifest, array, and the group level after it."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from brainchop_pipe.workflows import cluster_slurm as slurm
from brainchop_pipe.workflows.cluster_plan import Choices, Plan
from brainchop_pipe.workflows.cluster_record import (
    MANIFEST,
    ArrayJob,
    Submission,
    new_submission,
    write_submission,
)

from brainchop_pipe.errors import ClusterError
from brainchop_pipe.record import utc_now
from brainchop_pipe.storage import write_whole

_GROUP_MEMORY_MB = 4000
_GROUP_MINUTES = 60

# How Python runs the app; not from the current folder, where a module could take the place of ours.
APP = ("-P", "-m", "brainchop_pipe.cli.main")

# The app takes the place of the shell, so that SLURM's signals reach it at once.
_TASK_SCRIPT = """\
#!/bin/bash
# One task of an array: the slice of the manifest that its index and the first argument give.
exec {python} --manifest {manifest} --manifest-slice $((SLURM_ARRAY_TASK_ID + $1)) {arguments}
"""

_GROUP_SCRIPT = """\
#!/bin/bash
# What became of the tasks, then the group level over all that is there.
{python} jobs {output_dir}
exec {python} {arguments}
"""


@dataclass(frozen=True)
class Commands:
    """Arguments of the app, as the jobs give them.

    Parameters
    ----------
    task : tuple of str
        Of the participant level, but for the manifest.
    group : tuple of str
        Of the group level.
    """

    task: tuple[str, ...]
    group: tuple[str, ...]


def submit_plan(
    plan: Plan, choices: Choices, commands: Commands, output_dir: Path
) -> tuple[Path, Submission]:
    """Submit a plan as one array, several where the site's are smaller, and the group level after them.

    Parameters
    ----------
    plan : Plan
        With at least one slice.
    choices : Choices
    commands : Commands
    output_dir : Path

    Returns
    -------
    (Path, Submission)
        The submission's folder, and what is in the queue.

    Raises
    ------
    ClusterError
        SLURM does not take it. What it had taken by then is cancelled, after Ctrl-C too.
    """
    largest = slurm.max_array_size()
    folder = new_submission(output_dir, plan.slices)
    task, group = _write_scripts(folder, commands, output_dir)
    submission = Submission(submitted=utc_now())
    starts = range(0, len(plan.slices), largest)
    # Several arrays share what may run at a time.
    limit = max(1, choices.array_limit // len(starts)) if choices.array_limit else None
    try:
        for first in starts:
            tasks = min(largest, len(plan.slices) - first)
            options = [_array_range(tasks, limit), *_task_options(plan, choices, folder)]
            job = slurm.submit(options, task, str(first))
            submission.arrays.append(ArrayJob(job=job, first_slice=first, tasks=tasks))
            write_submission(folder, submission)
        submission.limit_seconds = slurm.time_limit_seconds(submission.arrays[0].job)
        submission.group_job = slurm.submit(_group_options(submission, choices, folder), group)
        write_submission(folder, submission)
    except (ClusterError, OSError, KeyboardInterrupt):
        slurm.cancel(submission.jobs)
        raise
    return folder, submission


def _write_scripts(folder: Path, commands: Commands, output_dir: Path) -> tuple[Path, Path]:
    python = shlex.join((sys.executable, *APP))
    texts = {
        "task.sh": _TASK_SCRIPT.format(
            python=python,
            manifest=shlex.quote(str(folder / MANIFEST)),
            arguments=shlex.join(commands.task),
        ),
        "group.sh": _GROUP_SCRIPT.format(
            python=python,
            output_dir=shlex.quote(str(output_dir.resolve())),
            arguments=shlex.join(commands.group),
        ),
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    return folder / "task.sh", folder / "group.sh"


def _array_range(tasks: int, limit: int | None) -> str:
    return f"--array=0-{tasks - 1}" + (f"%{limit}" if limit else "")


def _task_options(plan: Plan, choices: Choices, folder: Path) -> list[str]:
    return [
        "--job-name=brainchop",
        f"--cpus-per-task={plan.needs.processors}",
        f"--mem={plan.needs.memory_mb}M",
        f"--time={plan.minutes}",
        # A task whose node died or that was preempted goes on where it stopped.
        "--requeue",
        "--open-mode=append",
        f"--output={_pattern(folder)}/task-%A_%a.log",
        *([f"--gres={choices.gres}"] if choices.gres else []),
        *choices.sbatch_args,
    ]


def _group_options(submission: Submission, choices: Choices, folder: Path) -> list[str]:
    return [
        "--job-name=brainchop-group",
        "--cpus-per-task=1",
        f"--mem={_GROUP_MEMORY_MB}M",
        f"--time={_GROUP_MINUTES}",
        f"--output={_pattern(folder)}/group-%j.log",
        *choices.sbatch_args,
        f"--dependency=afterany:{':'.join(array.job for array in submission.arrays)}",
    ]


def _pattern(folder: Path) -> str:
    """Give a folder as SLURM's patterns of file names want it."""
    return str(folder).replace("%", "%%")
