"""The group level: one table of all volumes of a study."""

import csv
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from brainchop_pipe.bids.derivatives import VOLUMES_TABLE, json_bytes
from brainchop_pipe.bids.names import parse_name
from brainchop_pipe.errors import NoMatchError
from brainchop_pipe.storage import write_if_changed

logger = logging.getLogger(__name__)

_COLUMNS = {
    "participant_id": "Participant",
    "session_id": "Session, n/a where there are none",
    "image": "Label map that the volumes are of",
    "index": "Value in the label map",
    "name": "Name of the label",
    "volume_mm3": "Volume, counted on the models' grid of 1 mm",
}


def run_group(output_dir: Path) -> Path:
    """Collect the volumes of all label maps of an output folder into one table.

    Parameters
    ----------
    output_dir : Path
        As the participant level left it; it may be the work of many runs.

    Returns
    -------
    Path
        ``volumes.tsv``, with a data dictionary beside it.

    Raises
    ------
    NoMatchError
        There is no label map.
    """
    rows = [
        row for path in sorted(output_dir.glob("sub-*/**/*_dseg.json")) for row in _rows(path, output_dir)
    ]
    if not rows:
        raise NoMatchError(f"{output_dir} has no label maps; run the participant level first")
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(rows)
    path = output_dir / f"{VOLUMES_TABLE}.tsv"
    write_if_changed(path, table.getvalue().encode())
    dictionary = {name: {"Description": text} for name, text in _COLUMNS.items()}
    dictionary["volume_mm3"]["Units"] = "mm^3"
    write_if_changed(path.with_suffix(".json"), json_bytes(dictionary))
    return path


def _rows(sidecar: Path, output_dir: Path) -> Iterator[tuple[str, ...]]:
    """Give the volumes of one label map; a sidecar of others, or without its image, has none."""
    parsed = parse_name(sidecar.stem, derivative=True)
    image = sidecar.with_suffix(".nii.gz")
    try:
        volumes = json.loads(sidecar.read_text(encoding="utf-8"))["VolumesMm3"]
    except (ValueError, KeyError, TypeError):
        volumes = None
    if parsed is None or not isinstance(volumes, dict) or not image.is_file():
        logger.warning("%s is passed over: no label map of this program", sidecar.name)
        return
    entities = dict(parsed[0])
    session = f"ses-{entities['ses']}" if "ses" in entities else "n/a"
    names = _label_names(sidecar.with_suffix(".tsv"))
    place = image.relative_to(output_dir).as_posix()
    for index, volume in volumes.items():
        yield f"sub-{entities['sub']}", session, place, index, names.get(index, "n/a"), str(volume)


def _label_names(table: Path) -> dict[str, str]:
    try:
        with table.open(encoding="utf-8", newline="") as file:
            return {row["index"]: row["name"] for row in csv.DictReader(file, delimiter="\t")}
    except FileNotFoundError:
        return {}
