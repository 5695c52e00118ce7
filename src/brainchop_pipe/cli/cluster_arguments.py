"""Options for clusters, apart from those that decide what is made: jobs leave them out."""

import argparse
import shlex
from pathlib import Path

from brainchop_pipe.cli.numbers import number_above_0, whole_number_from_0, whole_number_from_1
from brainchop_pipe.errors import UsageError

_NAMES = (
    "cluster",
    "scheduler_address",
    "manifest",
    "manifest_slice",
    "array_size",
    "array_limit",
    "gres",
    "sbatch_args",
    "wait",
)


def cluster_options() -> argparse.ArgumentParser:
    """Make the part of the app's parser that says where it is worked."""
    parser = argparse.ArgumentParser(add_help=False)
    cluster = parser.add_argument_group("cluster")
    add = cluster.add_argument
    add(
        "--cluster",
        choices=("slurm", "dask", "plan"),
        help="slurm: submit what is not done as a job array, and the group level after it; dask: have the "
        "workers of a Dask scheduler do it, and wait; plan: only write the --manifest of such an array",
    )
    add("--scheduler-address", metavar="ADDRESS", help="of Dask's scheduler, such as tcp://10.0.0.1:8786")
    add(
        "--task-minutes",
        type=number_above_0,
        default=40,
        metavar="M",
        help="how long a task of the array should take, by the times in the models' cards; default 40",
    )
    add(
        "--array-size",
        type=whole_number_from_1,
        metavar="N",
        help="how many tasks; default: as many as --task-minutes makes",
    )
    add(
        "--array-limit",
        type=whole_number_from_1,
        metavar="N",
        help="how many tasks may run at a time (SLURM's %%N)",
    )
    add("--gres", metavar="LIST", help="resources of a task, such as gpu:1")
    add(
        "--sbatch-args",
        type=shlex.split,
        default=[],
        metavar='"..."',
        help='further options of sbatch, such as "--account=x --partition=y"; they overrule ours: write '
        '--sbatch-args="..."',
    )
    add_waiting(
        parser, "stay, show progress, and give the exit code of the whole; else return once submitted"
    )
    add(
        "--manifest",
        type=Path,
        metavar="FILE",
        help="table of slice and participant_id: with --manifest-slice read, with --cluster plan written",
    )
    add(
        "--manifest-slice",
        type=whole_number_from_0,
        metavar="I",
        help="work on the participants of one slice",
    )
    return parser


def add_waiting(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the options of a command that can wait for jobs."""
    parser.add_argument("--wait", action="store_true", help=text)
    parser.add_argument(
        "--on-interrupt",
        choices=("cancel", "leave"),
        help="what Ctrl-C does with the jobs while waiting; default: ask, or leave where nobody can be asked",
    )


def without_cluster_options(argv: list[str]) -> list[str]:
    """Give a command line without the options for clusters.

    >>> without_cluster_options(["bids", "out", "participant", "--cluster", "slurm", "--nprocs", "2"])
    ['bids', 'out', 'participant', '--nprocs', '2']
    """
    return cluster_options().parse_known_args(argv)[1]


def refuse_cluster_options(given: argparse.Namespace) -> None:
    """Refuse options for clusters at the group level, which takes no more than a minute.

    Raises
    ------
    UsageError
    """
    used = [name for name in _NAMES if getattr(given, name)]
    if used or given.manifest_slice == 0:
        raise UsageError(
            "the group level runs here, in no time; --cluster and its options are for participants"
        )


def check_manifest_options(given: argparse.Namespace) -> None:
    """Refuse half a manifest.

    Raises
    ------
    UsageError
    """
    if (given.manifest is None) != (given.manifest_slice is None):
        raise UsageError(
            "--manifest FILE and --manifest-slice I go together; --cluster plan writes a manifest"
        )
