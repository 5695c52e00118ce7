"""What is already there: label maps of this program, as their sidecars and tables tell."""

import csv
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from pydantic import ValidationError

from brainchop_pipe.bids.names import is_on_conformed_grid, parse_name
from brainchop_pipe.bids.publish import image_path
from brainchop_pipe.bids.sidecar import LabelMapSidecar

logger = logging.getLogger(__name__)

# What the trusted set of mask and tissue maps is called where others have their model's name.
TISSUES = "tissues"

_ENDING = "_dseg.json"

_WITHOUT_IMAGES = {"figures", "logs", "phenotype", "prov"}


@dataclass(frozen=True)
class LabelRow:
    """One line of a label table; the colour is ``#RRGGBB``, or empty."""

    index: int
    name: str
    color: str


@dataclass(frozen=True)
class Result:
    """A label map, and what is known of it.

    Parameters
    ----------
    output_dir : Path
    place : PurePosixPath
        Of the image, below the output folder.
    entities : tuple of (str, str)
        Of its name; empty where that is no BIDS name.
    sidecar : LabelMapSidecar
    """

    output_dir: Path
    place: PurePosixPath
    entities: tuple[tuple[str, str], ...]
    sidecar: LabelMapSidecar

    @property
    def image(self) -> Path:
        """Where the label map is."""
        return self.output_dir / self.place

    @property
    def stem(self) -> str:
        """Name without extension."""
        return self.place.name.removesuffix(".nii.gz")

    @property
    def source_uri(self) -> str:
        """How the sidecar refers to the image that was segmented."""
        return self.sidecar.provenance.input.uri

    @property
    def source_name(self) -> str:
        """File name of the image that was segmented."""
        uri = self.source_uri
        return PurePosixPath(uri.rpartition(":")[2]).name if uri.startswith("bids:") else uri

    @property
    def participant(self) -> str:
        """Such as ``sub-01``; the image's name where it was in no dataset."""
        sub = dict(self.entities).get("sub")
        return f"sub-{sub}" if sub and self.place.parent.name else self.source_name

    @property
    def session(self) -> str:
        """Such as ``ses-1``; ``n/a`` where there are none."""
        session = dict(self.entities).get("ses")
        return f"ses-{session}" if session else "n/a"

    @property
    def segmentation(self) -> str:
        """Which model's map this is: `TISSUES`, or the value of ``seg-``."""
        return dict(self.entities).get("seg", self._loose_segmentation)

    @property
    def contrast(self) -> str:
        """Contrast of the image; only those other than T1w are told in names."""
        return dict(self.entities).get("space", "T1w")

    @property
    def model(self) -> str:
        """Name of the model that made the labels."""
        return self.sidecar.provenance.models[-1].name

    @cached_property
    def labels(self) -> tuple[LabelRow, ...]:
        """The label table, background left out; empty where there is none that can be read."""
        return read_table(self.image.with_name(f"{self.stem}.tsv"))

    @property
    def _loose_segmentation(self) -> str:
        """The same for a name that is not BIDS's: its parts are taken for what they look like."""
        parts = (part.partition("-") for part in self.stem.split("_"))
        return next((value for key, _, value in parts if key == "seg"), TISSUES)


def find_results(output_dir: Path, participant: str | None = None) -> Iterator[Result]:
    """Find label maps whose sidecar is this program's, in the order of their names.

    Parameters
    ----------
    output_dir : Path
    participant : str or None
        Such as ``sub-01``, or the name of an image that was in no dataset: nothing else
        is looked at; None: all of the output.
    """
    for sidecar in _sidecars(output_dir, participant):
        if is_on_conformed_grid(sidecar.name):
            continue
        result = read_result(output_dir, sidecar)
        if result is not None and participant in (None, result.participant):
            yield result


def find_files(folder: Path) -> Iterator[Path]:
    """Find all files in the folders of an output that hold images, in the order of their names."""
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(n for n in folders if not n.startswith(".") and n not in _WITHOUT_IMAGES)
        yield from (Path(where) / name for name in sorted(files))


def read_result(output_dir: Path, sidecar: Path) -> Result | None:
    """Read one label map's sidecar; None, and a line in the log, where it is not this program's."""
    image = image_path(sidecar)
    try:
        content = LabelMapSidecar.model_validate(json.loads(sidecar.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError, ValidationError):
        logger.warning("%s is passed over: no label map of this program", sidecar.name)
        return None
    if not image.is_file() or not content.provenance.models:
        logger.warning("%s is passed over: there is no image beside it", sidecar.name)
        return None
    parsed = parse_name(image.name, derivative=True)
    place = PurePosixPath(image.relative_to(output_dir).as_posix())
    return Result(output_dir, place, parsed[0] if parsed else (), content)


def read_table(path: Path) -> tuple[LabelRow, ...]:
    """Read a label table; lines without a number are passed over, as is background."""
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t"):
                index = row.get("index") or ""
                if index.isdigit() and int(index):
                    rows.append(LabelRow(int(index), row.get("name") or index, row.get("color") or ""))
    except (OSError, ValueError, csv.Error):
        logger.warning("%s cannot be read", path.name)
    return tuple(rows)


def _sidecars(output_dir: Path, participant: str | None) -> Iterator[Path]:
    """Find sidecars of label maps, of a participant or of all."""
    if participant is not None and not (output_dir / participant).is_dir():
        # An image of no dataset has its files at the root.
        yield from sorted(output_dir.glob(f"*{_ENDING}"))
        return
    files = find_files(output_dir / (participant or ""))
    yield from (file for file in files if file.name.endswith(_ENDING))
