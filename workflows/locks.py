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
    folder = output_dir / ".brainchop" / "locks"
    lock = FileLock(folder / f"{PurePosixPath(source.key).name}.lock", timeout=patience_seconds)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        logger.info("%s is being worked on by another run", source.name)
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
