"""``brainchop provenance | rerun | verify``: where files are from, and whether they can be trusted."""

import argparse
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from brainchop_pipe.bids.provenance_text import provenance_lines
from brainchop_pipe.cli.arguments import Parser
from brainchop_pipe.errors import MissingInputError
from brainchop_pipe.workflows.trace_file import check_digests, trace

EXIT_NOT_AS_RECORDED = 65

_MARKS = {
    "same": "\u2713 same as recorded",
    "changed": "\u2717 changed since",
    "not here": "? not on this machine",
}


def run_provenance(argv: list[str]) -> int:
    """Print how a file was made, and whether input, models and output are still the same."""
    parser = Parser(prog="brainchop provenance", description="Tell how a file was made.")
    _add_file(parser)
    given = parser.parse_args(argv)
    traced = trace(given.file, given.bids_dir, given.input)
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for what, value in provenance_lines(traced.record):
        table.add_row(what, value)
    for warning in traced.record.warnings:
        table.add_row("Warning", warning)
    checks = check_digests(traced)
    for check in checks:
        table.add_row(check.what, _MARKS[check.status])
    console.print(table, markup=False)
    return EXIT_NOT_AS_RECORDED if any(check.status == "changed" for check in checks) else 0


def run_rerun(argv: list[str]) -> int:
    """Make a file again from what is recorded, and compare."""
    # All that segments an image, which the other two commands need not wait for.
    from brainchop_pipe.workflows.rerun_file import rerun

    parser = Parser(
        prog="brainchop rerun", description="Make a file again from what its sidecar recorded, and compare."
    )
    _add_file(parser)
    parser.add_argument(
        "--model",
        action="append",
        default=[],
        metavar="CARD.json",
        help="card of a model of your own; repeatable",
    )
    parser.add_argument("--mask", type=Path, metavar="FILE", help="the brain mask, if one was given")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep what is made in this new folder")
    given = parser.parse_args(argv)
    traced = trace(given.file, given.bids_dir, given.input)
    with tempfile.TemporaryDirectory(prefix="brainchop-") as temporary:
        found = rerun(traced, given.keep or Path(temporary), tuple(given.model), given.mask)
    console = Console(highlight=False)
    for difference in found.differences:
        console.print(f"not as it was: {difference}", markup=False, soft_wrap=True)
    for file in found.comparisons:
        said = (
            "the same bytes" if file.same_bytes else f"other bytes; {file.agreement:.4%} of the voxels agree"
        )
        console.print(f"{file.name}: {said}", markup=False, soft_wrap=True)
    return 0 if all(file.same_bytes for file in found.comparisons) else EXIT_NOT_AS_RECORDED


def run_verify(argv: list[str]) -> int:
    """Check a whole output."""
    from brainchop_pipe.workflows.verify_output import verify_output

    parser = Parser(
        prog="brainchop verify",
        description="Check all images of an output: digests, grids, labels, probabilities, references. "
        "Exit code 0, or 65 if anything is wrong.",
    )
    parser.add_argument("output_dir", type=Path, metavar="OUT")
    parser.add_argument("--bids-dir", type=Path, metavar="DIR", help="the raw dataset, if it was moved")
    parser.add_argument("--participant-label", nargs="+", default=[], metavar="LABEL", help="default: all")
    given = parser.parse_args(argv)
    if not given.output_dir.is_dir():
        raise MissingInputError(f"output folder {given.output_dir} is not there; check the path")
    participants = tuple(f"sub-{label.removeprefix('sub-')}" for label in given.participant_label)
    count, problems = verify_output(given.output_dir, given.bids_dir, participants)
    console = Console(highlight=False)
    for problem in problems:
        console.print(f"{problem.place} {problem.found}", markup=False, soft_wrap=True)
    console.print(f"{count} images checked, {len(problems)} problems", markup=False)
    return EXIT_NOT_AS_RECORDED if problems or not count else 0


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="an image that brainchop wrote, or its sidecar"
    )
    parser.add_argument("--bids-dir", type=Path, metavar="DIR", help="the raw dataset, if it was moved")
    parser.add_argument("--input", type=Path, metavar="FILE", help="the image, if it was in no dataset")
