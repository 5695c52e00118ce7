"""A folder for intermediate files that goes when the run ends, however it ends."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from brainchop_pipe.errors import OutputError
from brainchop_pipe.settings import Settings

_PREFIX = "run-"


def check_work_folder(settings: Settings) -> None:
    """Refuse a work folder that cannot be made, before anything else costs time.

    Raises
    ------
    OutputError
    """
    if settings.work_dir is not None:
        with _explained(settings.work_dir):
            settings.work_dir.mkdir(parents=True, exist_ok=True)


@contextmanager
def work_folder(settings: Settings) -> Iterator[Path]:
    """Make a folder of this run alone; what runs that were killed left behind is removed.

    It lies below ``--work-dir``, else below the output folder: a container's ``/tmp`` may
    hold less than one image.

    Raises
    ------
    OutputError
        It cannot be made there.
    """
    parent = settings.work_dir or settings.output_dir / ".brainchop" / "work"
    folder = parent / f"{_PREFIX}{secrets.token_hex(6)}"
    # Held as long as this process lives: the sign that the folder is in use.
    lock = _lock_of(folder)
    with _explained(parent):
        parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        folder.mkdir()
    try:
        _remove_abandoned(parent)
        with _caches_below(folder.resolve()):
            yield folder.resolve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        Path(lock.lock_file).unlink(missing_ok=True)


@contextmanager
def _explained(parent: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"work folder {parent} cannot be written or locked ({error}); name another with --work-dir"
        ) from error


@contextmanager
def _caches_below(folder: Path) -> Iterator[None]:
    """Keep Pydra from the user's home, where it would remember hashes.

    Without a home, as users without a name have none in containers, it could not even be imported.
    """
    with ExitStack() as stack:
        stack.enter_context(_variable("PYDRA_HASH_CACHE", str(folder / "hashes")))
        try:
            Path.home()
        except RuntimeError:
            stack.enter_context(_variable("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME", str(folder))))
        yield


@contextmanager
def _variable(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for a while."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def _lock_of(folder: Path) -> FileLock:
    return FileLock(folder.with_suffix(".lock"), timeout=0)


def _remove_abandoned(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*/"):
        lock = _lock_of(folder)
        try:
            with lock:
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            continue  # in use
        Path(lock.lock_file).unlink(missing_ok=True)
