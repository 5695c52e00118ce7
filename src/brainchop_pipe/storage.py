"""Files that are either whole or not there, and the digests that prove what they are."""

import glob
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# A killed run leaves files of this ending behind; `remove_leftovers` knows them by it.
_TEMPORARY_SUFFIX = ".brainchop-tmp"

# Of files that stand while several others are moved into place together.
JOURNAL_SUFFIX = ".brainchop-journal"


def sha256_of_bytes(content: bytes) -> str:
    """Give the SHA-256 of bytes, 64 lower-case hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Give the SHA-256 of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def temporary_beside(path: Path) -> Iterator[Path]:
    """Give a name in the folder of `path` to write to; whatever is there at the end is removed.

    The caller moves the file to `path` with ``os.replace`` when it is whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, never a part.

    With `durable` a power cut does neither; what can be made again need not wait for the disk.
    """
    with temporary_beside(path) as temporary:
        if durable:
            write_synced(temporary, content)
        else:
            temporary.write_bytes(content)
        temporary.replace(path)


def write_new(path: Path, content: bytes) -> None:
    """Write a file whole unless it is there; of any number of writers at a time, one writes it."""
    if path.exists():
        return
    with temporary_beside(path) as temporary:
        temporary.write_bytes(content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            pass
        except OSError:
            # A file system without hard links: the last writer's bytes stay, whole.
            temporary.replace(path)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it, so that a move after it cannot come first."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_if_changed(path: Path, content: bytes) -> None:
    """Write a file whole, unless it holds just this content already."""
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    write_whole(path, content)


def is_leftover(path: Path) -> bool:
    """Tell whether a file is the half of one that a killed run was writing, or its journal."""
    return path.name.endswith((_TEMPORARY_SUFFIX, JOURNAL_SUFFIX))


def remove_leftovers(path: Path) -> None:
    """Remove what killed runs left of a file; the caller knows that nobody else is writing it."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*{_TEMPORARY_SUFFIX}"):
        leftover.unlink(missing_ok=True)


def json_bytes(content: Any) -> bytes:
    """Give JSON for people: indented, in the order of insertion, with a final line feed."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    # Names of files that are no UTF-8 become JSON's own escapes.
    return text.encode("utf-8", "backslashreplace")
