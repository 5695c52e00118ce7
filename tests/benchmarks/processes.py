"""What a command costs: its time, the processors' time, and the largest memory of any of its processes."""

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# Memory comes and goes; who is there changes slowly, and each look takes time from what is looked at.
_LOOK_SECONDS, _SELDOM_SECONDS = 0.05, 0.2


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
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        process = subprocess.Popen([*map(str, command)], env=variables, stdout=output, stderr=output)
        most = _Watch(process.pid, memory)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        most.stop()
        output.seek(0)
        text = output.read().decode("utf-8", "replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} gave {process.returncode}:\n{text[-2000:]}")
    return Cost(seconds, most.cpu_s(but=process.pid) + usage.ru_utime + usage.ru_stime, most.megabytes, text)


class _Watch(threading.Thread):
    """Looks at a process and its descendants until it is told to stop.

    What a process took is taken from the last look at it: those whose parent is not the
    first are in nobody's account when they end.
    """

    def __init__(self, pid: int, memory: bool) -> None:
        super().__init__(daemon=True)
        self.megabytes = 0.0
        self._ticks: dict[int, int] = {}
        self._pid, self._memory = pid, memory
        self._ended = threading.Event()
        self.start()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def cpu_s(self, but: int) -> float:
        """Give the seconds of the processors that all took but one."""
        ticks = sum(count for pid, count in self._ticks.items() if pid != but)
        return ticks / os.sysconf("SC_CLK_TCK")

    def run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS if self._memory else _SELDOM_SECONDS):
            family = [self._pid, *_descendants(self._pid)]
            self._ticks |= {pid: ticks for pid in family if (ticks := _ticks(pid))}
            if self._memory:
                self.megabytes = max(self.megabytes, sum(map(_proportional_kb, family)) * 1024 / 1e6)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    except (OSError, ValueError):
        return []
    return found + [d for child in found for d in _descendants(child)]


def _ticks(pid: int) -> int:
    try:
        # The name, in brackets, may hold blanks.
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(values[11]) + int(values[12])


def _proportional_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
