"""Processes that work on one job at a time: one that dies takes its own job with it, no other.

ONNX sessions live in these processes, from image to image. A lane is a process and
not a thread because Pydra's tasks change the working directory.
"""

import asyncio
import functools
import logging
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import multiprocessing.util
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import cloudpickle

from brainchop_pipe.errors import WorkerLostError

logger = logging.getLogger(__name__)

# What a server of processes imports once for all of them, at least.
_PRELOAD = "brainchop_pipe.engines.preloaded"

# A socket's path has at most 107 bytes, of which the server adds these to the temporary folder's.
_LONGEST_TEMPORARY_FOLDER = 107 - len("/pymp-12345678/listener-12345678")

# An exit code can be read once, and whoever starts or looks at a process reads those of all.
_PROCESSES = threading.Lock()

_STANDARD_ERROR = 2

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
        with _PROCESSES:
            if self._process is not None and self._process.is_alive():
                return
        context = start_server()
        self._connection, theirs = context.Pipe()
        # All of it: the server has the environment of its own start.
        environment = {**os.environ, **_absolute_folders(), **self._environment}
        process = context.Process(
            target=_serve, args=(theirs, environment, _folder(), _log_level()), daemon=True
        )
        with _PROCESSES, _nameless_main():
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
        with _PROCESSES:
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


def start_server() -> Any:
    """Start the server of processes, and its imports, which take a second, unless it is there.

    Returns
    -------
    multiprocessing context
        That lanes start their processes with.
    """
    context = _context()
    context.set_forkserver_preload([_PRELOAD])
    if context.get_start_method() == "forkserver":
        with _PROCESSES:
            multiprocessing.forkserver.ensure_running()
    return context


def fork_server() -> None:
    """Have a fork of this process be the server of processes: what is imported here is imported there.

    For a command that has done nothing but imports: threads' locks, files and handlers of
    logs would go along. Elsewhere (other systems, other threads, closed standard streams,
    whose numbers other files then get) the server starts from nothing when it is needed.
    """
    has_streams = None not in (sys.stdin, sys.stdout, sys.stderr)
    if _context().get_start_method() == "forkserver" and threading.active_count() == 1 and has_streams:
        # Another server of `multiprocessing`, which has no use for what is imported here.
        multiprocessing.resource_tracker.ensure_running()
        with _forking():
            multiprocessing.forkserver.ensure_running()


@contextmanager
def _forking() -> Iterator[None]:
    """Let `multiprocessing` fork where it would start Python anew, which reads all libraries again."""
    spawn = multiprocessing.util.spawnv_passfds
    multiprocessing.util.spawnv_passfds = functools.partial(_fork, spawn)
    try:
        yield
    finally:
        multiprocessing.util.spawnv_passfds = spawn


def _fork(spawn: Any, _python: bytes, arguments: list[str], files: list[int]) -> int:
    """Run the code that is Python's last argument in a fork; `spawn` is what would start Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    # What they mean in the command they must not mean in the fork.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        process = os.fork()
        if not process:
            _serve_forked(spawn, arguments[-1], files, held)
        return process
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


def _serve_forked(spawn: Any, code: str, files: list[int], signals: set[Any]) -> None:
    """Become the server: with its files alone, and `multiprocessing` as it is after its import. No return."""
    status = 0
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, signals)
        for file in [int(path.name) for path in Path("/proc/self/fd").iterdir()]:
            if file > _STANDARD_ERROR and file not in files:
                # The listing's own is closed already.
                with suppress(OSError):
                    os.close(file)
        multiprocessing.util.spawnv_passfds = spawn
        # Their locks are held: this is in the midst of starting the server.
        multiprocessing.forkserver._forkserver.__init__()  # type: ignore[misc]
        multiprocessing.resource_tracker._resource_tracker.__init__()  # type: ignore[misc]
        exec(code, {})
    except SystemExit:
        pass
    except BaseException:  # noqa: BLE001 - nobody else tells of it
        traceback.print_exc()
        status = 1
    finally:
        os._exit(status)


def _context() -> Any:
    """Choose how processes start; never as forks of this one, which would carry its threads' locks.

    On Linux they are forks of a server that has done nothing but imports, and start in
    no time. Where its socket has no place, and on other systems, they start from nothing.
    """
    try:
        room = len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMPORARY_FOLDER
    except FileNotFoundError:
        room = False
    return multiprocessing.get_context("forkserver" if sys.platform == "linux" and room else "spawn")


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


def _serve(connection: Connection, environment: dict[str, str], folder: str, log_level: int) -> None:
    """Do the jobs that come, each from a folder, until the other end is closed."""
    # Ctrl-C reaches the whole group of processes; what it means is for the first one to say.
    # So does SIGTERM where a cluster ends a job.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    package = logging.getLogger("brainchop_pipe")
    package.setLevel(log_level)
    package.addHandler(_Sender(connection))
    package.propagate = False
    while True:
        try:
            function, arguments = cloudpickle.loads(connection.recv_bytes())
        except EOFError:
            return
        # The job before may have left the process in a folder that is gone.
        try:
            os.chdir(folder)
        except OSError:
            os.chdir(os.sep)
        try:
            answer = ("done", function(*arguments))
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to the other end
            error.add_note("".join(traceback.format_exception(error)))
            answer = ("failed", _portable(error))
        connection.send_bytes(cloudpickle.dumps(answer))


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _portable(error: Exception) -> Exception:
    """Give an error that survives the way between processes."""
    try:
        cloudpickle.loads(cloudpickle.dumps(error))
    except Exception:  # noqa: BLE001 - a pickle may fail in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class _Sender(logging.Handler):
    """Sends log records to the process that started this one."""

    def __init__(self, connection: Connection) -> None:
        super().__init__()
        self._connection = connection

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record, its arguments and traceback as text."""
        record.msg, record.args = record.getMessage(), None
        if record.exc_info:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
            record.exc_info = None
        self._connection.send_bytes(cloudpickle.dumps(("log", record)))
