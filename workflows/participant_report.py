"""A participant's page: from what lies in the output folder, whoever made it."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from brainchop_pipe.workflows.draw_pictures import PictureJob, Pictures, read_picture
from brainchop_pipe.workflows.locks import hold

from brainchop_pipe import __version__
from brainchop_pipe.bids.failures import FailureRecord, find_failures
from brainchop_pipe.bids.methods import describe_methods
from brainchop_pipe.bids.provenance_text import provenance_lines
from brainchop_pipe.bids.results import TISSUES, Result, find_results
from brainchop_pipe.bids.sidecar import QualityRecord
from brainchop_pipe.report.content import (
    OUTLINE_COLOR,
    Failure,
    LegendEntry,
    ParticipantPage,
    Section,
    VolumeRow,
)
from brainchop_pipe.storage import write_whole

_OUTLINE = "Outline of brain with cerebrospinal fluid"


def page_path(output_dir: Path, participant: str) -> Path:
    """Give the place of a participant's page."""
    return output_dir / f"{participant.removesuffix('.gz').rpartition('.')[0] or participant}.html"


def forget_report(output_dir: Path, label_map: PurePosixPath, participant: str) -> None:
    """Remove the pictures of a label map that is about to be replaced, and the page that shows them."""
    pictures = Pictures.of(output_dir, output_dir / label_map)
    for path in (pictures.mosaic, pictures.thumbnail, page_path(output_dir, participant)):
        path.unlink(missing_ok=True)


def write_participant_page(output_dir: Path, participant: str) -> Path:
    """Write the page of a participant, from all label maps and failures that there are of them.

    Parameters
    ----------
    output_dir : Path
    participant : str
        See `Source.participant`.

    Raises
    ------
    OutputError
        The folder is not writable, or has no locks.
    """
    # After the images: its libraries would hold up the first of them.
    from brainchop_pipe.report.pages import participant_html

    path = page_path(output_dir, participant)
    # Who writes last has seen all.
    with hold(output_dir, path.name):
        results = list(find_results(output_dir, participant))
        failures = tuple(f for record in find_failures(output_dir, participant) for f in _failures(record))
        methods = describe_methods(result.sidecar.provenance for result in results) if results else None
        page = ParticipantPage(
            name=participant,
            sections=tuple(_section(result) for result in results),
            failures=failures,
            methods=methods.paragraph if methods else "",
            references=methods.references if methods else (),
            version=__version__,
        )
        write_whole(path, participant_html(page), durable=False)
    return path


def _failures(record: FailureRecord) -> Iterator[Failure]:
    """Give what failed on an image; models that failed for one reason stand together."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for failed in record.failed:
        by_reason[failed.reason].append(failed.model)
    for reason, models in by_reason.items():
        yield Failure(record.image.rpartition("/")[2], ", ".join(models), reason)


def picture_job(result: Result) -> PictureJob:
    """Say what is to be drawn of a label map."""
    mask = None
    if result.segmentation == TISSUES:
        mask = result.image.with_name(result.image.name.replace("_dseg.nii.gz", "_desc-brain_mask.nii.gz"))
    return PictureJob(
        labels=result.image,
        mask=mask if mask is not None and mask.is_file() else None,
        colors={label.index: label.color for label in result.labels if label.color},
        pictures=Pictures.of(result.output_dir, result.image),
    )


def _section(result: Result) -> Section:
    sidecar, job = result.sidecar, picture_job(result)
    legend = [LegendEntry(label.name, label.color) for label in result.labels if label.color]
    if job.mask is not None:
        legend.append(LegendEntry(_OUTLINE, OUTLINE_COLOR))
    return Section(
        image=result.source_name,
        segmentation=result.segmentation,
        picture=read_picture(job.pictures.mosaic),
        alt=_alt(result),
        legend=tuple(legend),
        flags=sidecar.quality.flags,
        warnings=sidecar.provenance.warnings,
        volumes=_volumes(result),
        facts=_facts(sidecar.quality),
        seconds=tuple((stage, f"{s:.1f} s") for stage, s in sidecar.provenance.stage_seconds.items()),
        provenance=provenance_lines(sidecar.provenance),
    )


def _alt(result: Result) -> str:
    """Say in words what a picture shows, for those who do not see it."""
    volumes = {label.index: result.sidecar.volumes_mm3.get(str(label.index), 0.0) for label in result.labels}
    largest = sorted(result.labels, key=lambda label: -volumes[label.index])[:3]
    told = ", ".join(f"{label.name} {volumes[label.index] / 1000:.0f} mL" for label in largest)
    return (
        f"Slices of {result.source_name} in three planes with the contours of {len(result.labels)} labels of "
        f"{result.segmentation}; the largest: {told or 'none'}"
    )


def _volumes(result: Result) -> tuple[VolumeRow, ...]:
    sidecar = result.sidecar
    return tuple(
        VolumeRow(
            label.index,
            label.name,
            sidecar.volumes_mm3.get(str(label.index), 0.0) / 1000,
            sidecar.quality.intracranial_fractions.get(str(label.index)),
        )
        for label in result.labels
    )


def _facts(quality: QualityRecord) -> tuple[tuple[str, str], ...]:
    volume, confidence = quality.intracranial_volume_mm3, quality.mean_confidence
    method = quality.intracranial_volume_method
    return (
        ("Brain and CSF", "n/a" if volume is None else f"{volume / 1000:.0f} mL ({method})"),
        ("Mean confidence", "n/a" if confidence is None else f"{confidence:.3f}"),
        ("Surface at the border of the field of view", f"{quality.border_share:.2%}"),
        ("Components removed", str(quality.components_removed)),
    )
