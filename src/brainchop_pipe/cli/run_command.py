"""``brainchop BIDS_DIR OUT LEVEL`` and ``brainchop segment``: run, show, exit code."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from brainchop_pipe.bids.dataset import CONTRASTS
from brainchop_pipe.bids.failures import LOGS
from brainchop_pipe.bids.names import Source, parse_name
from brainchop_pipe.cli.arguments import app_parser, app_settings, segment_parser, segment_settings
from brainchop_pipe.cli.cluster_arguments import (
    check_manifest_options,
    refuse_cluster_options,
    without_cluster_options,
)
from brainchop_pipe.cli.display import Display, say
from brainchop_pipe.errors import EXIT_SOME_FAILED, BidsError, MissingInputError, UsageError
from brainchop_pipe.settings import Settings
from brainchop_pipe.workflows.bids_app import Report, run_images, run_participants
from brainchop_pipe.workflows.cluster_task import run_slice
from brainchop_pipe.workflows.group_level import run_group
from brainchop_pipe.workflows.outcome import Outcome, Status

EXIT_UNKNOWN_LEVEL = 17


class _UnknownLevelError(BidsError):
    exit_code = EXIT_UNKNOWN_LEVEL


def run_app(argv: list[str]) -> int:
    """Run the BIDS-App; returns the exit code."""
    given = app_parser().parse_args(argv)
    if given.level not in ("participant", "group"):
        raise _UnknownLevelError(f"level {given.level!r} is unknown; give participant or group")
    if given.level == "group":
        refuse_cluster_options(given)
        query = app_settings(given, argv).query
        for path in run_group(given.output_dir, given.bids_dir, query):
            say(f"wrote {path.relative_to(given.output_dir)}")
        return 0
    # Where a run was worked on is no part of how its files were made.
    command = without_cluster_options(argv)
    settings = app_settings(given, command)
    if given.cluster:
        from brainchop_pipe.cli.cluster_command import run_cluster

        return run_cluster(given, settings, command)

    def work(report: Report) -> list[Outcome]:
        if given.manifest_slice is None:
            return run_participants(settings, report)
        return run_slice(settings, given.manifest, given.manifest_slice, report)

    check_manifest_options(given)
    return _run(settings, given.verbose, work, ("failed",))


def run_segment(argv: list[str]) -> int:
    """Segment single images; returns the exit code."""
    given = segment_parser().parse_args(argv)
    jobs = _loose_sources(given.images, given.modality)
    contrasts = tuple(sorted({source.suffix for source in jobs}))
    settings = segment_settings(given, argv, contrasts)
    # Who names an image wants it segmented: a refusal is a failure here.
    failures: tuple[Status, ...] = ("failed", "skipped")
    return _run(settings, given.verbose, lambda report: run_images(jobs, settings, report), failures)


def _loose_sources(images: list[Path], modality: str | None) -> dict[Source, Path]:
    """Give images that are in no dataset the names that their derivatives are made of."""
    jobs: dict[Source, Path] = {}
    for path in images:
        if not path.exists() and not path.is_symlink():
            raise MissingInputError(f"image {path} is not there; check the path")
        parsed = parse_name(path.name)
        entities, suffix = parsed if parsed and parsed[1] in CONTRASTS else ((), "T1w")
        source = Source(PurePosixPath(), path.name, path.name, path.name, entities, modality or suffix)
        if source in jobs:
            raise UsageError(f"{path} and {jobs[source]} have one name; segment them into two folders")
        jobs[source] = path
    return jobs


def _run(
    settings: Settings,
    verbosity: int,
    work: Callable[[Report], list[Outcome]],
    failures: tuple[Status, ...],
) -> int:
    """Do the work with a display around it, and with the log on the terminal if that was asked for."""
    display = Display()
    with _shown_log(verbosity), display:
        outcomes = work(display.report)
    display.summarise(outcomes)
    if any(outcome.status in failures for outcome in outcomes):
        say(f"Not all images were segmented; details are in {settings.output_dir / LOGS}")
        return EXIT_SOME_FAILED
    return 0


@contextmanager
def _shown_log(verbosity: int) -> Iterator[None]:
    """Send the package's log to the terminal: -v what it does, -vv details."""
    if not verbosity:
        yield
        return
    package = logging.getLogger("brainchop_pipe")
    package.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
