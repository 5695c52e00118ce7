"""What a person sees of a run: progress while it goes, a table at its end."""

from collections import Counter
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from brainchop_pipe.workflows.cluster_report import TaskReport
from brainchop_pipe.workflows.outcome import Outcome, Status

_STYLES: dict[Status, str] = {"done": "green", "complete": "green", "skipped": "yellow", "failed": "red"}


def say(text: str) -> None:
    """Print a line on standard output."""
    Console(highlight=False).print(text, markup=False, soft_wrap=True)


class _Bar:
    """A bar on standard error for as long as it is entered; none where that is no terminal."""

    def __init__(self, task: str) -> None:
        self._err = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._err,
            disable=not self._err.is_terminal,
        )
        self._task = self._progress.add_task(task, total=None)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()


class JobsDisplay(_Bar):
    """Progress of jobs on standard error: a bar, or a line where numbers changed."""

    def __init__(self) -> None:
        super().__init__("jobs")
        self._last = ""

    def show(self, tasks: tuple[TaskReport, ...]) -> None:
        """Show how many participants are finished, and how many tasks run, wait, and were hit."""
        counts = Counter(task.status for task in tasks)
        total = sum(len(task.participants) for task in tasks)
        finished = total - sum(len(task.unfinished) for task in tasks)
        text = f"{counts['running']} tasks run, {counts['waiting']} wait, {counts['hit']} hit"
        self._progress.update(self._task, completed=finished, total=total, description=text)
        line = f"[{finished}/{total}] {text}"
        if not self._err.is_terminal and line != self._last:
            self._err.print(line, markup=False)
        self._last = line

    def note(self, text: str) -> None:
        """Print a line on standard error."""
        self._err.print(text, markup=False, soft_wrap=True)


class Display(_Bar):
    """Progress on standard error, results on standard output.

    A terminal gets a bar; a log file a line for each image.
    """

    def __init__(self) -> None:
        super().__init__("reading the dataset")

    def report(self, finished: int, total: int, outcomes: list[Outcome]) -> None:
        """Show that an image is finished."""
        name = outcomes[0].source.name
        self._progress.update(self._task, completed=finished, total=total, description=name)
        if not self._err.is_terminal:
            states = ", ".join(f"{o.model} {o.status}" for o in outcomes)
            seconds = sum(o.seconds for o in outcomes)
            self._err.print(f"[{finished}/{total}] {name}: {states} ({seconds:.1f} s)", markup=False)

    def summarise(self, outcomes: list[Outcome]) -> None:
        """Show one row an image and model, then what there is to say about some of them."""
        table = Table(box=None, pad_edge=False)
        for heading in ("image", "model", "status"):
            table.add_column(heading, overflow="fold")
        table.add_column("seconds", justify="right")
        remarks: dict[str, list[str]] = {}
        for outcome in outcomes:
            name = outcome.source.name
            status = f"[{_STYLES[outcome.status]}]{outcome.status}[/]"
            seconds = f"{outcome.seconds:.1f}" if outcome.seconds else ""
            table.add_row(escape(name), outcome.model, status, seconds)
            if outcome.reason and name not in remarks.setdefault(outcome.reason, []):
                remarks[outcome.reason].append(name)
        Console(highlight=False).print(table)
        for reason, names in remarks.items():
            # Most errors name their file themselves.
            say(reason if reason.startswith(names[0]) else f"{', '.join(names)}: {reason}")
