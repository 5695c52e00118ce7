"""``logs/``: what each run was asked to do, what it said, and how to cite what it used."""

import logging
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli_w

from brainchop_pipe import __version__
from brainchop_pipe.bids.failures import LOGS, without_places
from brainchop_pipe.bids.methods import describe_methods
from brainchop_pipe.bids.results import Result, find_results
from brainchop_pipe.bids.sidecar import ProvenanceRecord
from brainchop_pipe.record import utc_now
from brainchop_pipe.settings import Settings
from brainchop_pipe.storage import write_if_changed, write_whole

_PACKAGE = logging.getLogger("brainchop_pipe")

# Whose label maps are looked at for what a run used: the first ones have it all.
_PARTICIPANTS = 5


@contextmanager
def run_log(settings: Settings) -> Iterator[Path]:
    """Write a run's settings, and its log as long as it lasts, without a path or host in them.

    Parameters
    ----------
    settings : Settings
        The output folder is there.

    Yields
    ------
    Path
        The log file.
    """
    folder = settings.output_dir / LOGS
    folder.mkdir(exist_ok=True)
    started = utc_now()
    # Jobs of a cluster start in the same second, each as the first process of its container.
    path = folder / f"run-{started.replace('-', '').replace(':', '')}-{secrets.token_hex(3)}.log"
    write_whole(path.with_suffix(".toml"), _settings_toml(settings, started), durable=False)
    handler = _LogFile(path, encoding="utf-8")
    handler.setFormatter(_Formatter(settings))
    _PACKAGE.addHandler(handler)
    before = _PACKAGE.level
    _PACKAGE.setLevel(min(before or logging.INFO, logging.INFO))
    try:
        _PACKAGE.info("%s", settings.command)
        yield path
    finally:
        _PACKAGE.removeHandler(handler)
        _PACKAGE.setLevel(before)
        handler.close()


def write_citation(output_dir: Path, participants: Iterable[str]) -> None:
    """Write how to describe and cite what a run used, from what is there of its first participants."""
    first = list(dict.fromkeys(participants))[:_PARTICIPANTS]
    results = (result for participant in first for result in find_results(output_dir, participant))
    try:
        write_citation_of(output_dir, (result.sidecar.provenance for result in results))
    except OSError as error:
        _PACKAGE.warning("how to cite was not written: %s", error)


def write_citation_of(output_dir: Path, records: Iterable[ProvenanceRecord]) -> None:
    """Write how to describe and cite what made label maps; nothing where there are none."""
    distinct = {record.signature: record for record in records}
    if distinct:
        (output_dir / LOGS).mkdir(exist_ok=True)
        text = describe_methods(distinct.values()).as_markdown()
        write_if_changed(output_dir / LOGS / "CITATION.md", text.encode())


def collect_records(results: Iterable[Result], records: dict[str, ProvenanceRecord]) -> Iterator[Result]:
    """Hand label maps on, and keep one record of each way in which they were made."""
    for result in results:
        records.setdefault(result.sidecar.provenance.signature, result.sidecar.provenance)
        yield result


class _LogFile(logging.FileHandler):
    """A log file that a full disk makes shorter, and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the name is logging's
        """Leave the line out; what failed for want of space says so itself."""

    def close(self) -> None:
        """Close the file; lines that still had no room are left out."""
        with suppress(OSError):
            super().close()


class _Formatter(logging.Formatter):
    """Lines of the log, tracebacks too, with folders by their role."""

    def __init__(self, settings: Settings) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")
        self._settings = settings

    def format(self, record: logging.LogRecord) -> str:
        """Give a record's text."""
        return without_places(super().format(record), self._settings)


def _settings_toml(settings: Settings, started: str) -> bytes:
    """Give the settings as TOML; what is not set is left out, as that format has no word for it."""
    content = {"brainchop_pipe": __version__, "started": started, **_plain(asdict(settings))}
    return tomli_w.dumps(content).encode()


def _plain(value: Any) -> Any:
    """Give a value as TOML can hold it: of paths the name alone."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items() if each is not None}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value if each is not None]
    if isinstance(value, Path):
        return value.name
    return Path(value).name if isinstance(value, str) and value.endswith(".json") else value
