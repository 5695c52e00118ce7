"""The far side of a lane: a process that does the jobs that come."""

import logging
import multiprocessing
import os
import threading
import traceback
from multiprocessing.connection import Connection, wait

import cloudpickle

from brainchop_pipe.engines.server import leave_signals_to_the_command


def serve(connection: Connection, environment: dict[str, str], folder: str, log_level: int) -> None:
    """Do the jobs that come, each from a folder, until the other end is closed."""
    leave_signals_to_the_command()
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
