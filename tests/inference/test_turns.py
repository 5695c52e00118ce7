"""Processes take turns in running networks."""

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from brainchop_pipe.inference.turns import TURNS_VARIABLE, taking_turns

_CONTEXT = multiprocessing.get_context("spawn")


def work(folder: str, number: int, count: int) -> None:
    os.environ[TURNS_VARIABLE] = f"{count}:{folder}"
    with taking_turns():
        place = Path(folder, f"{number}.works")
        place.touch()
        Path(folder, f"{number}.saw").write_text(str(len(list(Path(folder).glob("*.works")))))
        time.sleep(0.2)
        place.unlink()


def hold(folder: str, started: str) -> None:
    os.environ[TURNS_VARIABLE] = f"1:{folder}"
    with taking_turns():
        Path(started).touch()
        time.sleep(60)


@pytest.mark.parametrize("count", [1, 2])
def test_no_more_work_at_a_time_than_may(tmp_path, count):
    processes = [_CONTEXT.Process(target=work, args=(str(tmp_path), n, count)) for n in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    seen = [int(path.read_text()) for path in tmp_path.glob("*.saw")]
    assert len(seen) == 4
    assert max(seen) <= count


def test_turn_of_a_process_that_was_killed_is_free(tmp_path, monkeypatch):
    process = _CONTEXT.Process(target=hold, args=(str(tmp_path), str(tmp_path / "started")))
    process.start()
    while not (tmp_path / "started").exists():
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    monkeypatch.setenv(TURNS_VARIABLE, f"1:{tmp_path}")
    with taking_turns():
        pass


def test_without_others_there_is_nothing_to_wait_for(monkeypatch):
    monkeypatch.delenv(TURNS_VARIABLE, raising=False)
    with taking_turns():
        pass
