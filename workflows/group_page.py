"""The page of all images of a study: worst first, with links to the participants."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from brainchop_pipe.workflows.draw_pictures import Pictures, read_picture
from brainchop_pipe.workflows.group_measures import MapSummary, Measure, Numbers, mixtures
from brainchop_pipe.workflows.participant_report import page_path

from brainchop_pipe import __version__
from brainchop_pipe.bids.failures import FailureRecord
from brainchop_pipe.bids.results import TISSUES
from brainchop_pipe.report.content import Distribution, GroupPage, GroupRow
from brainchop_pipe.report.pages import MOST_PICTURES, group_html, page_address

# Of the table: title, measure (none: the largest distance from the others), label, factor.
_COLUMNS = (
    ("Brain and CSF, mL", "intracranial_volume", "", 1e-3),
    ("Grey matter, %", "intracranial_fraction", "1", 100.0),
    ("White matter, %", "intracranial_fraction", "2", 100.0),
    ("CSF, %", "intracranial_fraction", "3", 100.0),
    ("Confidence", "mean_confidence", "", 1.0),
    ("Largest z", "", "", 1.0),
)

# Characters of a reason in the table.
_LONGEST = 160


def group_page(
    name: str,
    output_dir: Path,
    numbers: Numbers,
    failures: Iterable[FailureRecord],
    images: dict[str, str],
) -> bytes:
    """Write the page of a study.

    Parameters
    ----------
    name : str
        Of the dataset.
    output_dir : Path
    numbers : Numbers
    failures : iterable of FailureRecord
    images : dict
        Participants by the URI of the raw images that should have been segmented.
    """
    expected: dict[str, set[str]] = defaultdict(set)
    for summary in numbers.maps:
        expected[summary.contrast].add(summary.segmentation)
    maps: dict[str, list[MapSummary]] = defaultdict(list)
    for summary in numbers.maps:
        maps[summary.source_uri].append(summary)
    failed = {record.image: record for record in failures}
    participants = images | {uri: record.participant for uri, record in failed.items()}
    participants |= {uri: found[0].participant for uri, found in maps.items()}
    rows = {}
    for uri, participant in participants.items():
        found = maps.get(uri, [])
        lacking = _lacking(found, expected)
        rows[uri] = _row(uri, participant, found, failed.get(uri), lacking, numbers, output_dir)
    worst_first = sorted(rows, key=lambda uri: _badness(rows[uri]))
    for uri in worst_first[:MOST_PICTURES]:
        rows[uri] = replace(rows[uri], thumbnail=_thumbnail(maps.get(uri, []), output_dir))
    page = GroupPage(
        name=name,
        columns=tuple(title for title, *_ in _COLUMNS),
        rows=tuple(rows[uri] for uri in worst_first),
        distributions=_distributions(numbers, output_dir),
        warnings=mixtures(numbers.maps),
        version=__version__,
    )
    return group_html(page)


def _row(
    uri: str,
    participant: str,
    maps: list[MapSummary],
    failure: FailureRecord | None,
    lacking: tuple[str, ...],
    numbers: Numbers,
    output_dir: Path,
) -> GroupRow:
    far = {m: z for summary in maps for m, z in numbers.outliers(summary).items()}
    reasons = tuple(f"{f.model}: {f.reason}" for f in failure.failed) if failure else ()
    flags = [f"{summary.segmentation}: {flag}" for summary in maps for flag in summary.flags]
    page = page_path(output_dir, participant)
    return GroupRow(
        image=uri.rpartition(":")[2].rpartition("/")[2],
        status="failed" if failure else "done" if maps else "missing",
        page=page_address(page.name) if page.is_file() else "",
        thumbnail=None,
        flags=tuple(_shortened(text) for text in (*reasons, *lacking, *flags)),
        outliers=tuple(_told(measure, z) for measure, z in far.items()),
        values=tuple(_value(maps, numbers, name, index, factor) for _, name, index, factor in _COLUMNS),
    )


def _shortened(text: str) -> str:
    """Cut a sentence that is too long for a table; the participant's page has all of it."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 2].rsplit(" ", 1)[0] + " …"


def _lacking(maps: list[MapSummary], expected: dict[str, set[str]]) -> tuple[str, ...]:
    """Say which label maps an image lacks that others of its contrast have."""
    if not maps:
        return ()
    missing = expected[maps[0].contrast] - {summary.segmentation for summary in maps}
    return tuple(f"There is no {name} of this image, which others have." for name in sorted(missing))


def _badness(row: GroupRow) -> tuple[int, int, float, str]:
    """Order rows: failed, missing, many flags, far from the others."""
    largest_z = row.values[-1] or 0.0
    return ("failed", "missing", "done").index(row.status), -len(row.flags), -largest_z, row.image


def _thumbnail(maps: list[MapSummary], output_dir: Path) -> bytes | None:
    """Read the small picture of an image, that of the tissue maps where there are such."""
    best = min(maps, key=lambda summary: summary.segmentation != TISSUES, default=None)
    return read_picture(Pictures.of(output_dir, output_dir / best.place).thumbnail) if best else None


def _told(measure: Measure, z: float) -> str:
    what = f"{measure.label or _plain(measure)} ({measure.segmentation})"
    return f"{what} is {'larger' if z > 0 else 'smaller'} than usual here (z {z:+.1f})"


def _plain(measure: Measure) -> str:
    return measure.name.replace("_", " ")


def _value(maps: list[MapSummary], numbers: Numbers, name: str, index: str, factor: float) -> float | None:
    """Give an image's value of a column, that of the tissue maps where there are such."""
    if not name:
        scores = [abs(z) for summary in maps for z in numbers.z[summary.place].values()]
        return max(scores, default=None)
    for summary in sorted(maps, key=lambda summary: summary.segmentation != TISSUES):
        for measure, value in summary.values.items():
            if (measure.name, measure.label_index) == (name, index):
                return value * factor
    return None


def _distributions(numbers: Numbers, output_dir: Path) -> tuple[Distribution, ...]:
    """Give the measures of segmentations as wholes, and of the tissues, over all images."""
    points: dict[Measure, list[tuple[float, str, str, bool]]] = defaultdict(list)
    for summary in numbers.maps:
        far = numbers.outliers(summary)
        address = page_address(page_path(output_dir, summary.participant).name)
        for measure, value in summary.values.items():
            if measure.label_index and summary.segmentation != TISSUES:
                continue
            scaled = value / 1000 if measure.unit == "mm^3" else value
            points[measure].append((scaled, summary.source_name, address, measure in far))
    # The tissues first; what is the same for all images has nothing to show.
    spread = {m: found for m, found in points.items() if len({value for value, *_ in found}) > 1}
    return tuple(
        Distribution(
            f"{measure.segmentation}: {' '.join(filter(None, (measure.label, _plain(measure))))}",
            "mL" if measure.unit == "mm^3" else "count" if "removed" in measure.name else "share",
            tuple(found),
        )
        for measure, found in sorted(spread.items(), key=lambda item: item[0].segmentation != TISSUES)
    )
