"""The server that processes are forks of, and how it starts.

`multiprocessing` has such a server and starts it as a Python of its own, which reads all
libraries again; a command that is a program of its own lets it be a fork of itself.
"""

import functools
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

# An exit code can be read once, and whoever starts or looks at a process reads those of all.
PROCESSES = threading.Lock()

# What a server of processes imports once for all of them, at least.
_PRELOAD = "brainchop_pipe.engines.preloaded"

# A socket's path has at most 107 bytes, of which the server adds these to the temporary folder's.
_LONGEST_TEMPORARY_FOLDER = 107 - len("/pymp-12345678/listener-12345678")

_STANDARD_ERROR = 2


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
        with PROCESSES:
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


def leave_signals_to_the_command() -> None:
    """Have this process, and those that it forks, ignore Ctrl-C and SIGTERM: they end with the command.

    Ctrl-C reaches the whole group of processes, and SIGTERM all of a job that a cluster ends. If
    this one ended first, the command would count the image that it worked on as failed.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


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
    # The command's handlers are not for the fork.
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
        leave_signals_to_the_command()
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
