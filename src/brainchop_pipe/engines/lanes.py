"""Processes that work on one job at a time: one that dies takes its own job with it, no other.

ONNX sessions live in these processes, from image to image. A lane is a process and
not a thread because Pydra's tasks change the working directory.
"""

import asyncio
import functools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cloudpickle

from brainchop_pipe.engines.lane_process import serve
from brainchop_pipe.engines.server import PROCESSES, start_server
from brainchop_pipe.errors import WorkerLostError

logger = logging.getLogger(__name__)

# How long a process may take to end after it has closed its connection.
_PATIENCE_SECONDS = 10.0

# After so many crashes a lane leaves for good what may have caused them.
_CRASHES_FOR_GOOD = 2

# Folders that a relative path may name; jobs run elsewhere.
_FOLDERS = ("BRAINCHOP_MODEL_DIR", "BRAINCHOP_MODEL_MIRROR")


class Lane:
    """One process, started when it is first needed and again after it died.

    Parameters
    ----------
    environment : dict
        Variables to set in the process before it does anything.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._crashes = 0
        self._process: Any = None
        self._connection: Any = None
        self._stopped = False

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in the process and wait for what it returns or raises.

        Raises
        ------
        WorkerLostError
            The process ended before the function did.
        """
        self._ensure_started()
        try:
            self._connection.send_bytes(cloudpickle.dumps((function, arguments)))
            while True:
                kind, content = self._receive()
                if kind == "log":
                    logging.getLogger(content.name).handle(content)
                elif kind == "failed":
                    raise content
                else:
                    return content
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._epitaph() from None

    def run_after_crash(self, changes: dict[str, str], function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function again whose process broke, in one with another environment.

        From the second time on all that comes after runs there too.
        """
        ordinary = self._environment
        self._environment = ordinary | changes
        self._crashes += 1
        try:
            return self.run(function, *arguments)
        finally:
            if self._crashes < _CRASHES_FOR_GOOD:
                self._environment = ordinary
                self._process.kill()
                self._join()

    def stop(self) -> None:
        """End the process at once, whatever it is doing."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()
            self._join()

    def _ensure_started(self) -> None:
        if self._stopped:
            raise WorkerLostError("the run was ended")
        with PROCESSES:
            if self._process is not None and self._process.is_alive():
                return
        context = start_server()
        self._connection, theirs = context.Pipe()
        # All of it: the server has the environment of its own start.
        environment = {**os.environ, **_absolute_folders(), **self._environment}
        process = context.Process(
            target=serve, args=(theirs, environment, _folder(), _log_level()), daemon=True
        )
        with PROCESSES, _nameless_main():
            process.start()
        self._process = process
        theirs.close()
        if self._stopped:
            # `stop` came while it started, and did not see it.
            process.kill()

    def _receive(self) -> tuple[str, Any]:
        """Take the next message; what a process sent before it died still counts."""
        wait([self._connection, self._process.sentinel])
        if not self._connection.poll():
            raise EOFError
        kind, content = cloudpickle.loads(self._connection.recv_bytes())
        return kind, content

    def _join(self) -> int | None:
        """Wait for the process's end, which is near, and give its exit code."""
        with PROCESSES:
            self._process.join(_PATIENCE_SECONDS)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()
            code: int | None = self._process.exitcode
            return code

    def _epitaph(self) -> WorkerLostError:
        code = self._join()
        if code == -signal.SIGKILL:
            return WorkerLostError(
                "the process that worked on it was killed (SIGKILL), most often by the system for want of "
                "memory; allow more, or fewer images at a time (--nprocs, --mem-gb)"
            )
        cause = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        return WorkerLostError(
            f"the process that worked on it ended by itself ({cause}); run again, or use another --device",
            crashed=True,
        )


class Lanes:
    """Lanes for the processors, and one for each GPU.

    Parameters
    ----------
    count : int
        How many jobs the processors take at a time.
    gpus : tuple of str
        Names of the GPUs as ``CUDA_VISIBLE_DEVICES`` has them. Jobs that want a GPU
        run in processes that see one alone; without any, anywhere.
    per_gpu : int
        Processes of each GPU.
    variables : callable
        Gives what to set in the processes of a GPU by its name, or (None) of the processors.
    """

    def __init__(
        self,
        count: int,
        gpus: tuple[str, ...] = (),
        *,
        per_gpu: int = 1,
        variables: Callable[[str | None], dict[str, str]] = lambda _: {},
    ) -> None:
        plain = [Lane(variables(None)) for _ in range(count)]
        # Names of NVIDIA's and AMD's libraries for the same thing.
        on_gpu = [
            Lane({"CUDA_VISIBLE_DEVICES": gpu, "HIP_VISIBLE_DEVICES": gpu} | variables(gpu))
            for gpu in gpus
            for _ in range(per_gpu)
        ]
        self._lanes = plain + on_gpu
        self._threads = ThreadPoolExecutor(len(self._lanes), thread_name_prefix="lane")
        self._idle = _queue(plain)
        self._idle_on_gpu = _queue(on_gpu) if on_gpu else self._idle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for lane in self._lanes:
            lane.stop()
        self._threads.shutdown()

    async def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        wants_gpu: bool = False,
        after_crash: dict[str, str] | None = None,
    ) -> Any:
        """Run a function in the next lane that is free; errors as of `Lane.run`.

        Where its process breaks, and `after_crash` says what to change in the environment,
        it is run once more.
        """
        idle = self._idle_on_gpu if wants_gpu else self._idle
        lane = await idle.get()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._threads, lane.run, function, *arguments)
        except WorkerLostError as error:
            if not error.crashed or after_crash is None:
                raise
            logger.warning("%s; trying once more without what may have broken", error)
            again = functools.partial(lane.run_after_crash, after_crash)
            return await loop.run_in_executor(self._threads, again, function, *arguments)
        finally:
            idle.put_nowait(lane)


def _absolute_folders() -> dict[str, str]:
    given = {name: os.environ[name] for name in _FOLDERS if os.environ.get(name)}
    return {name: value if "://" in value else str(Path(value).resolve()) for name, value in given.items()}


@contextmanager
def _nameless_main() -> Iterator[None]:
    """Hide the main module from processes that start: they would run a script without a guard again.

    Jobs travel by cloudpickle, which takes along what is defined there.
    """
    main = sys.modules["__main__"]
    hidden: dict[str, Any] = {
        name: main.__dict__.pop(name) for name in ("__spec__", "__file__") if name in main.__dict__
    }
    main.__spec__ = None
    try:
        yield
    finally:
        main.__dict__.update(hidden)


def _queue(lanes: list[Lane]) -> "asyncio.Queue[Lane]":
    queue: asyncio.Queue[Lane] = asyncio.Queue()
    for lane in lanes:
        queue.put_nowait(lane)
    return queue


def _folder() -> str:
    """Give the folder that relative paths begin at; the root where that is gone."""
    try:
        return str(Path.cwd())
    except FileNotFoundError:
        return os.sep


def _log_level() -> int:
    return logging.getLogger("brainchop_pipe").getEffectiveLevel()
