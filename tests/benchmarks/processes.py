"""What a command costs: its time, the processors' time, and the largest memory of any of its processes."""

import ctypes
import os
import resource
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_LOOK_SECONDS = 0.05

# Linux: processes whose parent has ended become children of this one, and its account has their time.
_SET_CHILD_SUBREAPER = 36


class Cost(NamedTuple):
    """Seconds by the clock and of all processors, and megabytes (10^6 bytes) of all processes together."""

    wall_s: float
    cpu_s: float
    memory_mb: float
    output: str


def cost_of(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, *, memory: bool = True
) -> Cost:
    """Run a command to its end.

    Memory is what its processes hold for themselves, added up, every 50 ms; pages that
    they share are counted once (proportional set size). Who counts slows the command down
    by up to a third: without `memory`, that is 0 and the times are right.

    Raises
    ------
    RuntimeError
        It failed.
    """
    variables = {**os.environ, **(environment or {})}
    ctypes.CDLL(None).prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _children_cpu_s()
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen([*map(str, command)], env=variables, stdout=output, stderr=output)
        watch = _Watch(process.pid) if memory else None
        process.wait()
        seconds = time.perf_counter() - start
        most = watch.stop() if watch else 0.0
        # Those that it has left behind are ending.
        with suppress(ChildProcessError):
            while True:
                os.wait()
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} gave {process.returncode}:\n{text[-2000:]}")
    return Cost(seconds, _children_cpu_s() - before, most, text)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _Watch(threading.Thread):
    """Looks at the memory of a process and its descendants until it is told to stop."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._megabytes = pid, 0.0
        self._ended = threading.Event()
        self.start()

    def stop(self) -> float:
        """Give the most that was seen, in megabytes."""
        self._ended.set()
        self.join()
        return self._megabytes

    def run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            family = [self._pid, *descendants_of(self._pid)]
            self._megabytes = max(self._megabytes, sum(map(_proportional_kb, family)) * 1024 / 1e6)


def descendants_of(pid: int) -> list[int]:
    """Give the processes that a process started, and those that they did; none of one that is gone."""
    found: list[int] = []
    try:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    except (OSError, ValueError):
        return []
    return found + [d for child in found for d in descendants_of(child)]


def _proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
