"""What failed and why, one file an image: found by reports, and what a bug report needs.

The file goes when the image is done. It names no person, host or folder: places are
told by their role.
"""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from brainchop_pipe.bids.environment import code_record, environment_record
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.sidecar import SidecarPart
from brainchop_pipe.settings import Settings
from brainchop_pipe.storage import json_bytes, write_whole

logger = logging.getLogger(__name__)

LOGS = "logs"

_FOLDER = f"{LOGS}/crash"

# Python's own way of naming a source file; of the path only its end is told.
_SOURCE_FILE = re.compile(r'''File "(?:[^"]*/)?([^/"]+/[^/"]+)"''')

# What is left of absolute paths (a mask, a card): their last name is told. Not addresses on the web.
_ANY_PATH = re.compile(r"""(?<![\w.:/])/(?:[^\s/:'",;()]+/)+([^\s/:'",;()]+)""")


class FailedModel(SidecarPart):
    """Why a model failed, and where in the program if nobody foresaw it."""

    model: str
    reason: str
    traceback: tuple[str, ...] = ()


class FailureRecord(SidecarPart):
    """An image on which models failed."""

    image: str
    participant: str
    time: str
    command: str
    failed: tuple[FailedModel, ...]


def write_failure(settings: Settings, source: Source, record: FailureRecord) -> None:
    """Write what failed on an image, with what a bug report needs besides."""
    path = _place(settings.output_dir, source)
    path.parent.mkdir(parents=True, exist_ok=True)
    models = [Path(name).name for name in settings.processing.models]
    content = record.as_json() | {
        "Parameters": settings.processing.parameters() | {"Models": models},
        "Code": code_record(),
        **environment_record(),
    }
    write_whole(path, json_bytes(content), durable=False)


def remove_failure(output_dir: Path, source: Source) -> None:
    """Forget what failed on an image."""
    _place(output_dir, source).unlink(missing_ok=True)


def read_failure(output_dir: Path, source: Source) -> FailureRecord | None:
    """Read what failed on an image; None where nothing did."""
    return _read(_place(output_dir, source))


def find_failures(output_dir: Path, participant: str | None = None) -> Iterator[FailureRecord]:
    """Read what failed, of one participant or of all, in the order of names."""
    for path in sorted((output_dir / _FOLDER).glob("*.json")):
        record = _read(path)
        if record is not None and participant in (None, record.participant):
            yield record


def without_places(text: str, settings: Settings) -> str:
    """Take from a text what a path could tell: folders by role, source files by their last two names."""
    places = {
        settings.work_dir: "WORK_DIR",
        settings.output_dir: "OUT",
        settings.bids_dir: "BIDS_DIR",
        _home(): "HOME",
    }
    for path, role in places.items():
        if path is not None and len(path.resolve().parts) > 1:
            for spelling in dict.fromkeys((str(path.resolve()), str(path.absolute()))):
                text = text.replace(spelling, role)
    return _ANY_PATH.sub(r"\1", _SOURCE_FILE.sub(r'File "\1"', text))


def _home() -> Path | None:
    """Give the user's home; None where the user has no name, as in some containers."""
    try:
        return Path.home()
    except RuntimeError:
        return None


def _read(path: Path) -> FailureRecord | None:
    try:
        return FailureRecord.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, ValidationError):
        logger.warning("%s cannot be read", path.name)
        return None


def _place(output_dir: Path, source: Source) -> Path:
    return output_dir / _FOLDER / f"{source.stem}.json"
