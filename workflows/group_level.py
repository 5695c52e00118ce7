"""The group level: tables and one page of all images of a study, whoever made them."""

import csv
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from brainchop_pipe.workflows.group_measures import MapSummary, Measure, Numbers, summarise
from brainchop_pipe.workflows.group_page import group_page
from brainchop_pipe.workflows.run_log import collect_records, write_citation_of
from brainchop_pipe.workflows.suitability import is_magnitude

from brainchop_pipe.bids.dataset import find_images
from brainchop_pipe.bids.derivatives import write_dataset_files
from brainchop_pipe.bids.environment import code_record
from brainchop_pipe.bids.failures import find_failures
from brainchop_pipe.bids.prov_files import write_index
from brainchop_pipe.bids.publish import check_owner
from brainchop_pipe.bids.results import find_results
from brainchop_pipe.bids.sidecar import ProvenanceRecord
from brainchop_pipe.core.outliers import OUTLIER_BEYOND
from brainchop_pipe.errors import NoMatchError
from brainchop_pipe.settings import Query
from brainchop_pipe.storage import json_bytes, temporary_beside, write_if_changed

_COLUMNS: dict[str, dict[str, Any]] = {
    "participant_id": {"Description": "Participant"},
    "session_id": {"Description": "Session, n/a where there are none"},
    "image": {"Description": "Image that was segmented"},
    "label_map": {"Description": "Label map that the number is of"},
    "segmentation": {"Description": "What the image was segmented into: tissues, or a model's map"},
    "measure": {
        "Description": "What was measured",
        "Levels": {
            "volume": "Of a label, counted on the model's grid",
            "intracranial_fraction": "Volume of a label by that of brain with CSF",
            "intracranial_volume": "Brain with the CSF around it",
            "mean_confidence": "Probability of the labels, mean within them",
            "border_share": "Share of the surface that lies on the border of the field of view",
            "components_removed": "Regions that post-filters took away",
        },
    },
    "index": {"Description": "Value in the label map, n/a for measures of all labels"},
    "name": {"Description": "Name of the label, n/a for measures of all labels"},
    "value": {"Description": "In the unit of its line"},
    "unit": {"Description": "mm^3, or 1 for shares, probabilities and counts"},
    "robust_z": {
        "Description": "Distance from the median of all images by 1.4826 median absolute deviations; n/a for "
        "fewer than five images and where most have the same value"
    },
    "outlier": {"Description": f"1 where the distance exceeds {OUTLIER_BEYOND}, else 0"},
}

_PHENOTYPE_PREFIX = "brainchop_"

# Entities of a label map that its table's name has already, or its lines.
_NOT_IN_TABLES = {"sub", "seg", "desc", "space"}


def run_group(output_dir: Path, bids_dir: Path, query: Query) -> tuple[Path, ...]:
    """Collect what many runs left in an output folder.

    Parameters
    ----------
    output_dir : Path
        As the participant level left it; it may be the work of many runs.
    bids_dir : Path
        The raw dataset: images of it without any label map are listed as missing.
    query : Query
        Which of its images should have been segmented.

    Returns
    -------
    tuple of Path
        ``index.html``; ``group.tsv``, a line a number; ``phenotype/*.tsv``, a line an
        image; each table with its data dictionary.

    Raises
    ------
    NoMatchError
        There is no label map, and nothing that failed; or the filters leave no image.
    OutputError
        The output is not of this dataset.
    """
    check_owner(output_dir, bids_dir)
    records: dict[str, ProvenanceRecord] = {}
    numbers = summarise(collect_records(find_results(output_dir), records))
    failures = tuple(find_failures(output_dir))
    if not numbers.maps and not failures:
        raise NoMatchError(f"{output_dir} has no label maps; run the participant level first")
    # Tasks of a cluster leave to us what stands once.
    write_dataset_files(output_dir, bids_dir, code_record())
    write_citation_of(output_dir, records.values())
    write_index(output_dir)
    page = output_dir / "index.html"
    images = _raw_images(bids_dir, query)
    write_if_changed(page, group_page(_dataset_name(bids_dir), output_dir, numbers, failures, images))
    return page, _write_long_table(output_dir, numbers), *_write_phenotypes(output_dir, numbers)


def _raw_images(bids_dir: Path, query: Query) -> dict[str, str]:
    """Give the participants by the URIs of the raw images that should have been segmented."""
    try:
        sources = find_images(bids_dir.resolve(), query)
    except NoMatchError:
        if query.participant_labels or query.session_labels or query.filters:
            raise
        return {}
    wanted = (s for s in sources if s.suffix in query.modalities and is_magnitude(s))
    return {source.uri: source.participant for source in wanted}


def _dataset_name(bids_dir: Path) -> str:
    try:
        content = json.loads((bids_dir / "dataset_description.json").read_text(encoding="utf-8"))
        return str(content["Name"])
    except (OSError, ValueError, KeyError, TypeError):
        return "A dataset without a name"


def _write_long_table(output_dir: Path, numbers: Numbers) -> Path:
    lines = (
        (
            *_about(summary),
            str(summary.place),
            measure.segmentation,
            measure.name,
            measure.label_index,
            measure.label,
            _figure(value, measure),
            measure.unit,
            z,
            "" if z is None else int(abs(z) > OUTLIER_BEYOND),
        )
        for summary in numbers.maps
        for measure, value in summary.values.items()
        for z in [numbers.z[summary.place].get(measure)]
    )
    return _write_table(output_dir / "group.tsv", _COLUMNS, lines)


def _write_phenotypes(output_dir: Path, numbers: Numbers) -> list[Path]:
    """Write tables with a line for each participant: one for each segmentation, session, run and the like."""
    tables: dict[str, list[MapSummary]] = defaultdict(list)
    for summary in numbers.maps:
        others = "".join(f"_{k}-{v}" for k, v in summary.entities if k not in _NOT_IN_TABLES)
        tables[f"{_PHENOTYPE_PREFIX}{summary.segmentation}{others}.tsv"].append(summary)
    folder = output_dir / "phenotype"
    folder.mkdir(exist_ok=True)
    for stale in folder.glob(f"{_PHENOTYPE_PREFIX}*"):
        if stale.with_suffix(".tsv").name not in tables:
            stale.unlink()
    return [_write_phenotype(folder / name, maps, numbers) for name, maps in tables.items()]


def _write_phenotype(path: Path, maps: list[MapSummary], numbers: Numbers) -> Path:
    measures = list(dict.fromkeys(measure for summary in maps for measure in summary.values))
    names = _unique_names(measures)
    columns = {
        **{name: _COLUMNS[name] for name in ("participant_id", "session_id", "image")},
        **{names[measure]: _described(measure) for measure in measures},
        "outliers": {"Description": "Columns that are far from the other images, n/a where none is"},
    }
    description = f"Numbers of label maps ({maps[0].segmentation}) by brainchop_pipe, a line an image"
    lines = (
        (
            *_about(summary),
            *(_figure(summary.values.get(measure), measure) for measure in measures),
            ", ".join(names[measure] for measure in numbers.outliers(summary)),
        )
        for summary in maps
    )
    return _write_table(path, columns, lines, {"Description": description})


def _unique_names(measures: list[Measure]) -> dict[Measure, str]:
    """Name columns; labels of one name, as in two numberings of them, get their numbers too."""
    counts = Counter(measure.column for measure in measures)
    return {m: m.column if counts[m.column] == 1 else f"{m.column}_{m.label_index}" for m in measures}


def _about(summary: MapSummary) -> tuple[str, str, str]:
    return summary.participant, summary.session, summary.source_name


def _described(measure: Measure) -> dict[str, str]:
    levels = _COLUMNS["measure"]["Levels"]
    unit = {"Units": measure.unit} if measure.unit != "1" else {}
    about = f"{measure.label} ({measure.label_index}): " if measure.label else ""
    return {"Description": about + levels[measure.name], **unit}


def _figure(value: float | None, measure: Measure) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if measure.unit == "mm^3" else f"{value:.5g}"


def _write_table(
    path: Path,
    columns: dict[str, dict[str, Any]],
    lines: Iterable[Iterable[object]],
    about: dict[str, str] | None = None,
) -> Path:
    """Write a table and its data dictionary; nothing, or no number, is n/a."""
    # Line by line: the table of a large study is larger than all else that is in memory.
    with temporary_beside(path) as temporary:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t", lineterminator="\n")
            writer.writerow(columns)
            for line in lines:
                writer.writerow("n/a" if value in ("", None) else value for value in line)
        temporary.replace(path)
    write_if_changed(path.with_suffix(".json"), json_bytes({**(about or {}), **columns}))
    return path
