"""One lock an image, so that any number of runs can share an output folder."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from filelock import FileLock, Timeout

from brainchop_pipe.bids.names import Source
from brainchop_pipe.errors import OutputError

logger = logging.getLogger(__name__)


@contextmanager
def try_lock(output_dir: Path, source: Source, patience_seconds: float = 0.0) -> Iterator[bool]:
    """Hold an image's lock if it can be had in time; the kernel frees it when its holder dies.

    Parameters
    ----------
    output_dir : Path
    source : Source
    patience_seconds : float
        How long to wait; -1: for ever.

    Yields
    ------
    bool
        Whether it is held.

    Raises
    ------
    OutputError
        The folder is not writable, or has no locks.
    """
    with _try(output_dir, PurePosixPath(source.key).name, patience_seconds) as held:
        if not held:
            logger.info("%s is being worked on by another run", source.name)
        yield held


@contextmanager
def hold(output_dir: Path, name: str) -> Iterator[None]:
    """Wait for the lock of a file that several images share, and hold it; errors as of `try_lock`."""
    with _try(output_dir, name, -1):
        yield


@contextmanager
def _try(output_dir: Path, name: str, patience_seconds: float) -> Iterator[bool]:
    folder = output_dir / ".brainchop" / "locks"
    lock = FileLock(folder / f"{name}.lock", timeout=patience_seconds)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as error:
        raise OutputError(
            f"{folder.name} below {output_dir} cannot be locked ({error}); it must be writable for you, "
            "on a file system with locks"
        ) from error
    try:
        yield True
    finally:
        lock.release()
