"""``brainchop BIDS_DIR OUT LEVEL`` and ``brainchop segment``: run, show, exit code."""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from brainchop_pipe.bids.dataset import CONTRASTS
from brainchop_pipe.bids.names import Source, parse_name
from brainchop_pipe.cli.arguments import app_parser, app_settings, segment_parser, segment_settings
from brainchop_pipe.cli.display import Display
from brainchop_pipe.errors import BidsError, MissingInputError, OutputError, UsageError
from brainchop_pipe.settings import Settings
from brainchop_pipe.workflows.bids_app import run_images, run_participants
from brainchop_pipe.workflows.group_level import run_group
from brainchop_pipe.workflows.segment_image import Outcome

EXIT_UNKNOWN_LEVEL = 17
EXIT_SOME_FAILED = 75

logger = logging.getLogger(__name__)


class _UnknownLevelError(BidsError):
    exit_code = EXIT_UNKNOWN_LEVEL


def run_app(argv: list[str]) -> int:
    """Run the BIDS-App; returns the exit code."""
    given = app_parser().parse_args(argv)
    if given.level not in ("participant", "group"):
        raise _UnknownLevelError(f"level {given.level!r} is unknown; give participant or group")
    display = Display()
    if given.level == "group":
        display.say(f"wrote {run_group(given.output_dir).relative_to(given.output_dir)}")
        return 0
    settings = app_settings(given, argv)
    with _work_folder(settings, given.verbose) as work, display:
        outcomes = run_participants(settings, display.report)
    return _finish(outcomes, display, work, failures=("failed",))


def run_segment(argv: list[str]) -> int:
    """Segment single images; returns the exit code."""
    given = segment_parser().parse_args(argv)
    jobs = _loose_sources(given.images, given.modality)
    contrasts = tuple(sorted({source.suffix for source in jobs}))
    settings = segment_settings(given, argv, contrasts)
    display = Display()
    with _work_folder(settings, given.verbose) as work, display:
        outcomes = run_images(jobs, settings, display.report)
    # Who names an image wants it segmented: a refusal is a failure here.
    return _finish(outcomes, display, work, failures=("failed", "skipped"))


def _loose_sources(images: list[Path], modality: str | None) -> dict[Source, Path]:
    """Give images that are in no dataset the names that their derivatives are made of."""
    jobs: dict[Source, Path] = {}
    for path in images:
        if not path.exists() and not path.is_symlink():
            raise MissingInputError(f"image {path} is not there; check the path")
        parsed = parse_name(path.name)
        entities, suffix = parsed if parsed and parsed[1] in CONTRASTS else ((), "T1w")
        unnamed = Source(PurePosixPath(), path.name, path.name, "", entities, modality or suffix)
        # The stem of all derivatives is what two inputs must not share.
        group = unnamed.derivative("", "").name.rstrip("_")
        source = Source(PurePosixPath(), path.name, path.name, group, entities, unnamed.suffix)
        twin = next((other for s, other in jobs.items() if s.group == group), None)
        if twin is not None:
            raise UsageError(f"{path} and {twin} would write the same files; segment them into two folders")
        jobs[source] = path
    return jobs


@contextmanager
def _work_folder(settings: Settings, verbosity: int) -> Iterator[Path]:
    """Give the work folder, with the run's log in it; a temporary one goes when the run ends well.

    The caller removes a temporary one through `_finish`, once it knows the outcomes.
    """
    try:
        if settings.work_dir is None:
            folder = Path(tempfile.mkdtemp(prefix="brainchop-"))
        else:
            folder = settings.work_dir
            folder.mkdir(parents=True, exist_ok=True)
        file_handler = logging.FileHandler(folder / "brainchop.log", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"work folder cannot be written ({error}); name another with --work-dir") from error
    handlers: list[logging.Handler] = [file_handler]
    if verbosity:
        handlers.append(logging.StreamHandler())
    level = logging.DEBUG if verbosity > 1 else logging.INFO
    root = logging.getLogger("brainchop_pipe")
    root.setLevel(level)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        root.addHandler(handler)
    logger.info("%s", settings.command)
    try:
        yield folder
    except BaseException:
        if settings.work_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


def _finish(outcomes: list[Outcome], display: Display, work: Path, failures: tuple[str, ...]) -> int:
    display.summarise(outcomes)
    if any(outcome.status in failures for outcome in outcomes):
        display.say(f"Some images failed; the log with details is {work / 'brainchop.log'}")
        return EXIT_SOME_FAILED
    if work.name.startswith("brainchop-"):
        shutil.rmtree(work, ignore_errors=True)
    return 0
