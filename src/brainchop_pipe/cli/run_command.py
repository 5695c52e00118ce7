"""``brainchop BIDS_DIR OUT LEVEL`` and ``brainchop segment``: run, show, exit code."""

import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from brainchop_pipe.bids.dataset import CONTRASTS
from brainchop_pipe.bids.names import Source, parse_name
from brainchop_pipe.cli.arguments import app_parser, app_settings, segment_parser, segment_settings
from brainchop_pipe.cli.display import Display
from brainchop_pipe.errors import BidsError, MissingInputError, OutputError, PipeError, UsageError
from brainchop_pipe.settings import Settings
from brainchop_pipe.workflows.bids_app import Report, run_images, run_participants
from brainchop_pipe.workflows.group_level import run_group
from brainchop_pipe.workflows.outcome import Outcome, Status

EXIT_UNKNOWN_LEVEL = 17
EXIT_SOME_FAILED = 75

_LOG_NAME = "brainchop.log"

logger = logging.getLogger(__name__)


class _UnknownLevelError(BidsError):
    exit_code = EXIT_UNKNOWN_LEVEL


def run_app(argv: list[str]) -> int:
    """Run the BIDS-App; returns the exit code."""
    given = app_parser().parse_args(argv)
    if given.level not in ("participant", "group"):
        raise _UnknownLevelError(f"level {given.level!r} is unknown; give participant or group")
    if given.level == "group":
        query = app_settings(given, argv).query
        for path in run_group(given.output_dir, given.bids_dir, query):
            Display().say(f"wrote {path.relative_to(given.output_dir)}")
        return 0
    settings = app_settings(given, argv)
    return _run(settings, given.verbose, lambda report: run_participants(settings, report), ("failed",))


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
    """Do the work with a log and a display around it; a temporary work folder goes unless it is needed."""
    temporary = settings.work_dir is None
    folder = _make_work_folder(settings.work_dir)
    display = Display()
    try:
        with _logged(folder, settings.command, verbosity), display:
            outcomes = work(display.report)
    except (PipeError, KeyboardInterrupt):
        # The message says all; after anything else the log stays, with its traceback.
        if temporary:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    display.summarise(outcomes)
    if any(outcome.status in failures for outcome in outcomes):
        display.say(f"Not all images were segmented; details are in {folder / _LOG_NAME}")
        return EXIT_SOME_FAILED
    if temporary:
        shutil.rmtree(folder, ignore_errors=True)
    return 0


def _make_work_folder(work_dir: Path | None) -> Path:
    try:
        if work_dir is None:
            return Path(tempfile.mkdtemp(prefix="brainchop-"))
        work_dir.mkdir(parents=True, exist_ok=True)
        (work_dir / _LOG_NAME).touch()
    except OSError as error:
        raise OutputError(
            f"work folder {work_dir or tempfile.gettempdir()} cannot be written ({error.strerror}); "
            "name another with --work-dir"
        ) from error
    return work_dir


@contextmanager
def _logged(folder: Path, command: str, verbosity: int) -> Iterator[None]:
    """Send the package's log to a file in the work folder, and to the terminal if that was asked for."""
    handlers: list[logging.Handler] = [logging.FileHandler(folder / _LOG_NAME, encoding="utf-8")]
    if verbosity:
        handlers.append(logging.StreamHandler())
    package = logging.getLogger("brainchop_pipe")
    package.setLevel(logging.DEBUG if verbosity > 1 else logging.INFO)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        package.addHandler(handler)
    try:
        logger.info("%s", command)
        yield
    except Exception:
        logger.exception("the run ended")
        raise
    finally:
        for handler in handlers:
            package.removeHandler(handler)
            handler.close()
