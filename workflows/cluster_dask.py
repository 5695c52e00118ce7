"""Slices of a manifest on workers of a Dask scheduler that is there already. The only user of distributed."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from brainchop_pipe.workflows.cluster_record import Submission, write_submission
from brainchop_pipe.workflows.cluster_report import TaskReport, report_tasks
from brainchop_pipe.workflows.cluster_submit import APP

from brainchop_pipe.errors import EXIT_INTERRUPTED, ClusterError
from brainchop_pipe.record import utc_now

_PATIENCE_SECONDS = 30

# Between a worker's questions whether its task is to end.
_LOOK_SECONDS = 3.0


class DaskJobs:
    """Tasks that a scheduler has. They end with this object, unless they are left to it.

    Parameters
    ----------
    address : str
        Such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    ClusterError
        distributed is not installed, or no scheduler answers.
    """

    def __init__(self, address: str) -> None:
        try:
            import distributed
        except ImportError:
            raise ClusterError("Dask is not installed; install brainchop-pipe[dask]") from None
        try:
            self._client: Any = distributed.Client(address, timeout=_PATIENCE_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(
                f"no Dask scheduler answers at {address}: {error}; start one with 'dask scheduler' and "
                "workers with 'dask worker --nthreads 1', or check --scheduler-address"
            ) from error
        self.name = f"the tasks at {address}"
        self._folder = Path()
        self._futures: dict[int, Any] = {}
        self._leave = distributed.fire_and_forget
        self._event = distributed.Event

    def submit(self, folder: Path, commands: Mapping[int, Sequence[str]]) -> None:
        """Hand over the tasks of a submission.

        Parameters
        ----------
        folder : Path
            Of the submission; its name is that of the event that ends the tasks.
        commands : mapping
            Arguments of the app by slice.
        """
        self._folder = folder
        write_submission(folder, Submission(submitted=utc_now()))
        for index, arguments in commands.items():
            log = str(folder / f"task-{index}.log")
            # Not pure: what a slice is about is no part of its arguments.
            self._futures[index] = self._client.submit(
                run_task, tuple(arguments), log, folder.name, key=f"{folder.name}-{index}", pure=False
            )

    def look(self) -> tuple[bool, tuple[TaskReport, ...]]:
        """See `Jobs`."""
        at_work = {index for index, future in self._futures.items() if not future.done()}
        return bool(at_work), report_tasks(self._folder, at_work)

    def cancel(self) -> None:
        """See `Jobs`: those that run stop as by Ctrl-C, those that wait do nothing."""
        self._event(self._folder.name, client=self._client).set()
        for future in self._futures.values():
            with suppress(Exception):
                future.result(timeout=_PATIENCE_SECONDS)

    def leave(self) -> None:
        """See `Jobs`."""
        for future in self._futures.values():
            self._leave(future)


def run_task(arguments: tuple[str, ...], log: str, stop: str) -> int:
    """Run the app on a worker, in a process of its own; gives the exit code, 130 where it is not to run.

    Parameters
    ----------
    arguments : tuple of str
    log : str
        File that what it says is added to.
    stop : str
        Name of the event that ends it.
    """
    import distributed

    event = distributed.Event(stop)
    if event.is_set():
        return EXIT_INTERRUPTED
    with Path(log).open("ab") as file:
        process = subprocess.Popen([sys.executable, *APP, *arguments], stdout=file, stderr=file)
        try:
            while not event.is_set():
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(_LOOK_SECONDS)
        finally:
            # Also where the worker itself ends.
            process.terminate()
            process.wait()
    return process.returncode
