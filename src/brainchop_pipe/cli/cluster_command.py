"""``--cluster`` and ``brainchop jobs``: submit, wait, tell what became of the tasks."""

import argparse
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from brainchop_pipe.cli.arguments import Parser
from brainchop_pipe.cli.cluster_arguments import add_waiting
from brainchop_pipe.cli.display import JobsDisplay, say
from brainchop_pipe.errors import EXIT_SOME_FAILED, ClusterError, NoMatchError, UsageError
from brainchop_pipe.settings import Settings
from brainchop_pipe.workflows import cluster_slurm as slurm
from brainchop_pipe.workflows.cluster_dask import DaskJobs
from brainchop_pipe.workflows.cluster_jobs import Jobs, SlurmJobs
from brainchop_pipe.workflows.cluster_manifest import write_manifest
from brainchop_pipe.workflows.cluster_plan import Choices, Plan, plan_jobs
from brainchop_pipe.workflows.cluster_record import (
    MANIFEST,
    Submission,
    last_submission,
    new_submission,
    read_submission,
)
from brainchop_pipe.workflows.cluster_report import TaskReport, report_tasks
from brainchop_pipe.workflows.cluster_submit import Commands, submit_plan
from brainchop_pipe.workflows.group_level import run_group

# Between looks: soon at first, then so seldom that the controller does not notice.
_FIRST_LOOK_SECONDS, _LAST_LOOK_SECONDS, _SLOWER = 1.0, 30.0, 1.2


def run_cluster(given: argparse.Namespace, settings: Settings, command: list[str]) -> int:
    """Plan the participants that are not done, have it worked on or write it; returns the exit code.

    Parameters
    ----------
    given : Namespace
        Of the app's parser.
    settings : Settings
    command : list of str
        Arguments without the options for clusters.
    """
    _check(given)
    # Whether anybody is there is asked before a minute is spent on the plan.
    if given.cluster == "slurm":
        slurm.check_slurm()
    workers = DaskJobs(given.scheduler_address) if given.cluster == "dask" else None
    choices = Choices(
        task_minutes=given.task_minutes,
        array_size=given.array_size,
        array_limit=given.array_limit,
        processors=given.nprocs,
        gres=given.gres,
        sbatch_args=tuple(given.sbatch_args),
    )
    start = time.perf_counter()
    plan = plan_jobs(settings, choices)
    say(f"{_describe(plan)} ({time.perf_counter() - start:.1f} s)")
    if not plan.slices:
        return 0
    if given.cluster == "plan":
        return _write_plan(plan, given.manifest)
    commands = _commands(given, command)
    if workers is not None:
        return _run_on_dask(workers, plan, commands, given, settings)
    folder, submission = submit_plan(plan, choices, commands, settings.output_dir)
    say(_how_to_look(submission, folder, settings.output_dir))
    return _wait(folder, SlurmJobs(folder, submission), given.on_interrupt) if given.wait else 0


def _write_plan(plan: Plan, manifest: Path) -> int:
    """Write a plan for somebody who submits it; returns the exit code."""
    write_manifest(manifest, plan.slices)
    say(
        f"Submit {manifest} as an array of 0-{len(plan.slices) - 1}, such as with "
        "containers/brainchop.sbatch, and run the group level when it has ended"
    )
    return 0


def _run_on_dask(
    jobs: DaskJobs, plan: Plan, commands: Commands, given: argparse.Namespace, settings: Settings
) -> int:
    """Have workers do the tasks of a plan, wait, run the group level; returns the exit code of the tasks."""
    folder = new_submission(settings.output_dir, plan.slices)
    slice_of = ("--manifest", str(folder / MANIFEST), "--manifest-slice")
    jobs.submit(folder, {index: (*commands.task, *slice_of, str(index)) for index in range(len(plan.slices))})
    say(f"Logs:         {folder}")
    code = _wait(folder, jobs, given.on_interrupt)
    # Where nothing was made, what became of the tasks says why.
    with suppress(NoMatchError):
        run_group(settings.output_dir, given.bids_dir, settings.query)
    return code


def run_jobs(argv: list[str]) -> int:
    """Tell what became of the last submission's tasks; returns the exit code."""
    parser = Parser(
        prog="brainchop jobs",
        description="Tell what became of the jobs that --cluster slurm submitted last, and whom those hit "
        "that ended early. Exit code 0, or 75 if any participant is not done for that, or failed.",
    )
    parser.add_argument("output_dir", type=Path, metavar="OUT")
    add_waiting(parser, "wait until all have ended")
    given = parser.parse_args(argv)
    folder = last_submission(given.output_dir)
    submission = read_submission(folder)
    if given.wait and submission is not None:
        return _wait(folder, SlurmJobs(folder, submission), given.on_interrupt)
    return _tell(report_tasks(folder), folder)


def _check(given: argparse.Namespace) -> None:
    if given.manifest_slice is not None:
        raise UsageError("--manifest-slice is for the tasks of an array; leave it out with --cluster")
    if (given.cluster == "plan") != (given.manifest is not None):
        raise UsageError("--cluster plan writes the file that --manifest names; slurm and dask need none")
    if (given.cluster == "dask") != (given.scheduler_address is not None):
        raise UsageError("--cluster dask and --scheduler-address go together")
    of_slurm = [name for name in ("array_limit", "gres", "sbatch_args") if getattr(given, name)]
    if given.cluster == "dask" and of_slurm:
        option = of_slurm[0].replace("_", "-")
        raise UsageError(f"--{option} is for SLURM; what Dask's workers may take is said where they start")


def _commands(given: argparse.Namespace, command: list[str]) -> Commands:
    """Give the arguments of the jobs; of the group level those that choose images."""
    group = [str(given.bids_dir), str(given.output_dir), "group"]
    for option, values in (
        ("--participant-label", given.participant_label),
        ("--session-label", given.session_label),
        ("--modality", given.modality),
        ("--bids-filter-file", [given.bids_filter_file] if given.bids_filter_file else []),
        ("--bids-database-dir", [given.bids_database_dir] if given.bids_database_dir else []),
    ):
        group += [option, *map(str, values)] if values else []
    return Commands(tuple(command), tuple(group))


def _describe(plan: Plan) -> str:
    done = plan.participants - plan.left - plan.at_work
    text = f"{plan.participants} participants: {done} done, {plan.left} to do"
    if plan.at_work:
        text += f", {plan.at_work} in jobs that are at work"
    if plan.slices:
        text += (
            f"; {len(plan.slices)} tasks of {plan.needs.processors} processors, "
            f"{plan.needs.memory_mb / 1000:.1f} GB and at most {plan.minutes} minutes"
        )
    return text


def _how_to_look(submission: Submission, folder: Path, output_dir: Path) -> str:
    jobs = ",".join(submission.jobs)
    return (
        f"Submitted as job {', '.join(array.job for array in submission.arrays)}; the group level follows as "
        f"job {submission.group_job}\n"
        f"How it goes:  brainchop jobs {output_dir}    (or squeue -j {jobs})\n"
        f"To cancel:    scancel {' '.join(submission.jobs)}\n"
        f"Logs:         {folder}"
    )


def _wait(folder: Path, jobs: Jobs, on_interrupt: str | None) -> int:
    """Show progress until all jobs have ended; an interrupt ends the waiting, and the jobs if so wanted."""
    try:
        with JobsDisplay() as display:
            pause = _FIRST_LOOK_SECONDS
            while _is_at_work(jobs, display):
                time.sleep(pause)
                pause = min(pause * _SLOWER, _LAST_LOOK_SECONDS)
    except KeyboardInterrupt:
        if on_interrupt == "cancel" or (on_interrupt is None and _is_asked_to_cancel()):
            jobs.cancel()
            say(f"Cancelled {jobs.name}")
        else:
            jobs.leave()
            say(f"Left {jobs.name} in the queue")
        raise
    return _tell(report_tasks(folder), folder)


def _is_at_work(jobs: Jobs, display: JobsDisplay) -> bool:
    """Look once; a controller that does not answer is asked again."""
    try:
        is_at_work, tasks = jobs.look()
        display.show(tasks)
    except ClusterError as error:
        display.note(str(error))
        return True
    return is_at_work


def _is_asked_to_cancel() -> bool:
    """Ask whether the jobs are to be cancelled; no where nobody is there."""
    if not sys.stdin.isatty():
        return False
    try:
        return input("Cancel the jobs? [y/N] ").strip().lower().startswith("y")
    except (EOFError, KeyboardInterrupt):
        return False


def _tell(tasks: tuple[TaskReport, ...], folder: Path) -> int:
    """Print what became of the tasks; returns the exit code."""
    counts = Counter(task.status for task in tasks)
    everybody = sum(len(task.participants) for task in tasks)
    open_ = sum(len(task.unfinished) for task in tasks)
    told = ", ".join(f"{counts[status]} {status}" for status in ("done", "running", "waiting", "hit"))
    say(f"{len(tasks)} tasks: {told}; {everybody - open_} of {everybody} participants finished")
    for task in tasks:
        if task.status == "hit":
            names = " ".join(f"sub-{label}" for label in task.unfinished)
            say(f"task {task.slice}: {task.cause}; not finished: {names}")
        elif task.goes > 1:
            say(f"task {task.slice}: {task.status}, started {task.goes} times")
    failed = {label: reason for task in tasks for label, reason in task.failed.items()}
    for label, reason in failed.items():
        say(f"sub-{label}: {reason}")
    if counts["hit"] or failed:
        say(f"Give the same command again for what is missing; logs are in {folder}")
        return EXIT_SOME_FAILED
    return 0
