"""Processes that work on one job at a time."""

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cloudpickle
import pytest

from brainchop_pipe.engines import lane_process
from brainchop_pipe.engines.lanes import Lane, Lanes
from brainchop_pipe.errors import InputError, WorkerLostError


@pytest.fixture
def lane():
    lane = Lane({"MADE": "yes"})
    yield lane
    lane.stop()


def fail(message: str) -> None:
    raise InputError(message)


class UnportableError(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def fail_unportably() -> None:
    raise UnportableError("a", "b")


def say(text: str) -> None:
    logging.getLogger("brainchop_pipe.made").warning("said %s", text)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    os.abort()


def test_job_gives_its_result_and_the_process_stays(lane):
    assert lane.run(os.getenv, "MADE") == "yes"
    first = lane.run(os.getpid)
    assert first != os.getpid()
    assert lane.run(os.getpid) == first


def test_job_sees_the_environment_of_now(lane, monkeypatch):
    monkeypatch.setenv("LATER", "1")
    assert lane.run(os.getenv, "LATER") == "1"
    assert lane.run(os.getenv, "MADE") == "yes"


def test_error_comes_as_it_was_raised_with_its_traceback(lane):
    with pytest.raises(InputError, match="bad image") as caught:
        lane.run(fail, "bad image")
    assert "in fail" in caught.value.__notes__[0]


def test_error_that_cannot_travel_comes_as_text(lane):
    with pytest.raises(RuntimeError, match="UnportableError: a"):
        lane.run(fail_unportably)


def test_log_comes_along(lane, caplog):
    lane.run(say, "hello")
    assert "said hello" in caplog.text


@pytest.mark.parametrize(
    ("job", "message"),
    [
        ((os._exit, 3), "ended by itself \\(exit code 3\\)"),
        ((kill_itself,), "was killed \\(SIGKILL\\), most often .* for want of memory"),
        ((crash,), "ended by itself \\(SIGABRT\\)"),
    ],
)
def test_dead_process_is_named_and_the_next_job_has_another(lane, job, message):
    with pytest.raises(WorkerLostError, match=message):
        lane.run(*job)
    assert lane.run(os.getenv, "MADE") == "yes"


def test_stopped_lane_takes_no_job(lane):
    lane.stop()
    with pytest.raises(WorkerLostError, match="the run was ended"):
        lane.run(os.getpid)


def test_stop_ends_a_job_at_once(lane):
    threading.Timer(0.5, lane.stop).start()
    start = time.monotonic()
    with pytest.raises(WorkerLostError):
        lane.run(time.sleep, 60)
    assert time.monotonic() - start < 30


def test_one_dead_process_leaves_the_others_alone():
    async def work():
        with Lanes(2) as lanes:
            jobs = [lanes.run(kill_itself), *(lanes.run(pow, 2, n) for n in range(5))]
            return await asyncio.gather(*jobs, return_exceptions=True)

    lost, *powers = asyncio.run(work())
    assert isinstance(lost, WorkerLostError)
    assert powers == [1, 2, 4, 8, 16]


def test_jobs_that_want_a_gpu_share_its_one_process():
    async def work():
        with Lanes(2, gpus=("GPU-a",)) as lanes:
            on_gpu = [lanes.run(os.getpid, wants_gpu=True) for _ in range(4)]
            name = await lanes.run(os.getenv, "CUDA_VISIBLE_DEVICES", wants_gpu=True)
            return set(await asyncio.gather(*on_gpu)), await lanes.run(os.getpid), name

    on_gpu, elsewhere, name = asyncio.run(work())
    assert len(on_gpu) == 1
    assert elsewhere not in on_gpu
    assert name == "GPU-a"


def test_processes_die_with_the_one_that_started_them(tmp_path):
    code = (
        "import os, sys, threading, time; from brainchop_pipe.engines.lanes import Lane\n"
        "if __name__ == '__main__':\n"
        "    lane = Lane({}); print(lane.run(os.getpid), flush=True); lane.run(time.sleep, 60)"
    )
    (tmp_path / "run.py").write_text(code)
    parent = subprocess.Popen([sys.executable, str(tmp_path / "run.py")], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_death_of_many_at_a_time_is_named_rightly():
    async def work():
        with Lanes(6) as lanes:
            return await asyncio.gather(*(lanes.run(kill_itself) for _ in range(24)), return_exceptions=True)

    assert all("SIGKILL" in str(error) for error in asyncio.run(work()))


def test_script_without_a_guard_runs_once(tmp_path):
    code = (
        "import os; from brainchop_pipe.engines.lanes import Lane\n"
        "print('once')\n"
        "def double(n): return 2 * n\n"
        "lane = Lane({}); print(lane.run(double, 21)); lane.stop()"
    )
    (tmp_path / "run.py").write_text(code)
    result = subprocess.run([sys.executable, str(tmp_path / "run.py")], capture_output=True, text=True)
    assert result.stdout.split() == ["once", "42"], result.stderr


def test_folders_of_models_are_those_of_the_first_process(lane, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BRAINCHOP_MODEL_DIR", "models")
    monkeypatch.setenv("BRAINCHOP_MODEL_MIRROR", "https://example.org/m")
    assert lane.run(os.getenv, "BRAINCHOP_MODEL_DIR") == str(tmp_path / "models")
    assert lane.run(os.getenv, "BRAINCHOP_MODEL_MIRROR") == "https://example.org/m"


def test_jobs_begin_in_the_folder_of_the_first_process(lane, monkeypatch, tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "given")
    assert lane.run(os.getcwd) == str(tmp_path / "given")
    lane.run(os.chdir, tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert lane.run(os.getcwd) == str(tmp_path / "given")
    (tmp_path / "given").rmdir()
    assert lane.run(os.getcwd) == os.sep


def crash_unless_changed() -> int:
    if os.environ.get("CHANGED") != "yes":
        crash()
    return os.getpid()


def test_job_whose_process_broke_is_run_once_more_in_another_environment():
    async def work() -> tuple[int, str, int, str]:
        with Lanes(1) as lanes:
            run = lanes.run
            first = await run(crash_unless_changed, after_crash={"CHANGED": "yes"})
            between = await run(os.getenv, "CHANGED", "")
            second = await run(crash_unless_changed, after_crash={"CHANGED": "yes"})
            # What breaks twice is left for good.
            return first, between, second, await run(os.getenv, "CHANGED", "")

    first, between, second, after = asyncio.run(work())
    assert first != second
    assert (between, after) == ("", "yes")


def test_job_that_was_killed_is_not_run_again():
    async def work() -> None:
        with Lanes(1) as lanes:
            await lanes.run(kill_itself, after_crash={"CHANGED": "yes"})

    with pytest.raises(WorkerLostError, match="SIGKILL"):
        asyncio.run(work())


def test_other_end_answers_until_it_is_closed(monkeypatch):
    """What happens in the process, in a thread."""
    monkeypatch.setattr(lane_process, "leave_signals_to_the_command", lambda: None)
    package = logging.getLogger("brainchop_pipe")
    before = package.handlers[:], package.propagate, package.level
    mine, theirs = multiprocessing.Pipe()
    thread = threading.Thread(
        target=lane_process.serve, args=(theirs, dict(os.environ), str(Path.cwd()), logging.INFO)
    )
    thread.start()
    for job, kind in (((pow, (2, 3)), "done"), ((fail, ("x",)), "failed"), ((fail_unportably, ()), "failed")):
        mine.send_bytes(cloudpickle.dumps(job))
        assert cloudpickle.loads(mine.recv_bytes())[0] == kind
    mine.send_bytes(cloudpickle.dumps((say, ("hello",))))
    assert cloudpickle.loads(mine.recv_bytes())[1].getMessage() == "said hello"
    assert cloudpickle.loads(mine.recv_bytes())[0] == "done"
    mine.close()
    thread.join()
    package.handlers[:], package.propagate = before[:2]
    package.setLevel(before[2])


def test_log_record_keeps_its_traceback():
    mine, theirs = multiprocessing.Pipe()
    record = logging.LogRecord("n", logging.ERROR, "f", 1, "broke %s", ("it",), None)
    try:
        fail("why")
    except InputError:
        record.exc_info = sys.exc_info()
    lane_process._Sender(theirs).emit(record)
    _, received = cloudpickle.loads(mine.recv_bytes())
    assert received.getMessage() == "broke it"
    assert "InputError: why" in received.exc_text
