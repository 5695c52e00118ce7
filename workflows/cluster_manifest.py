"""The manifest of a job array: which participants are whose, one line each."""

import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from brainchop_pipe.errors import MissingInputError, UsageError
from brainchop_pipe.storage import write_whole

_COLUMNS = ("slice", "participant_id")


def write_manifest(path: Path, slices: Sequence[Sequence[str]]) -> None:
    """Write a manifest: a table of slice, counted from 0, and participant.

    Parameters
    ----------
    path : Path
    slices : sequence of sequence of str
        Participants without ``sub-``; no two slices share one.
    """
    lines = [_COLUMNS, *((str(i), f"sub-{p}") for i, labels in enumerate(slices) for p in labels)]
    write_whole(path, "".join("\t".join(line) + "\n" for line in lines).encode())


def read_manifest(path: Path) -> dict[int, tuple[str, ...]]:
    """Read a manifest: participants, without ``sub-``, by slice.

    Raises
    ------
    MissingInputError
        It is not there.
    UsageError
        It is no manifest, or two lines name one participant: two tasks would work on it.
    """
    slices: dict[int, list[str]] = defaultdict(list)
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file, delimiter="\t")
            if tuple(next(reader, ())) != _COLUMNS:
                raise UsageError(
                    f"manifest {path} must begin with a line of {' and '.join(_COLUMNS)}, tab between"
                )
            for line in reader:
                index, participant = _parse(line, path)
                if participant in seen:
                    raise UsageError(
                        f"manifest {path} names sub-{participant} twice; a participant has one line"
                    )
                seen.add(participant)
                slices[index].append(participant)
    except FileNotFoundError:
        raise MissingInputError(f"manifest {path} is not there") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"manifest {path} is no table: {error}") from error
    return {index: tuple(labels) for index, labels in slices.items()}


def read_slice(path: Path, index: int) -> tuple[str, ...]:
    """Read the participants of one slice; errors as of `read_manifest`, and UsageError for no such slice."""
    slices = read_manifest(path)
    if index not in slices:
        raise UsageError(f"manifest {path} has no slice {index}; it has {len(slices)}, from 0")
    return slices[index]


def _parse(line: list[str], path: Path) -> tuple[int, str]:
    if len(line) != len(_COLUMNS) or not line[0].isdecimal() or not line[1]:
        raise UsageError(
            f"manifest {path} has the line {line}; a slice's number and a participant are needed"
        )
    return int(line[0]), line[1].removeprefix("sub-")
