"""Processes that share processors or a GPU: how many of them run a network at the same time."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

# Set for processes that take turns: how many at a time, and a folder for locks, as "2:/folder".
TURNS_VARIABLE = "BRAINCHOP_TURNS"

_POLL_SECONDS = 0.01


@contextmanager
def taking_turns() -> Iterator[None]:
    """Wait until this process may run a network, and let the next one when it has.

    While one process runs a network, others read, conform, restore and write. The locks
    are those of the system, so that a process that is killed gives its turn back.
    """
    given = os.environ.get(TURNS_VARIABLE)
    if not given:
        yield
        return
    count, _, folder = given.partition(":")
    with ExitStack() as held:
        _take(held, [Path(folder, f"{number}.lock") for number in range(int(count))])
        yield


def _take(held: ExitStack, places: list[Path]) -> None:
    *others, last = places
    while True:
        for place in others:
            try:
                held.enter_context(FileLock(place).acquire(timeout=0))
            except Timeout:
                continue
            return
        try:
            # The one at which it waits, for a moment or, if it is the only one, for good.
            patience = _POLL_SECONDS if others else -1
            held.enter_context(FileLock(last).acquire(timeout=patience, poll_interval=_POLL_SECONDS))
        except Timeout:
            continue
        return
