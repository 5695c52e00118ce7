"""All numbers of a study: small summaries of label maps, and how far each number lies from the others."""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np

from brainchop_pipe.bids.results import TISSUES, Result
from brainchop_pipe.core.outliers import OUTLIER_BEYOND, robust_z


class Measure(NamedTuple):
    """What a number is of: a label of a segmentation, or a segmentation as a whole (no index)."""

    segmentation: str
    name: str
    label_index: str
    label: str
    unit: str

    @property
    def column(self) -> str:
        """Name of its column in a table of its segmentation."""
        what = f"{self.label}_{self.name}" if self.label else self.name
        unit = {"mm^3": "_mm3", "1": ""}[self.unit]
        return "_".join(what.split()) + unit


@dataclass(frozen=True)
class MapSummary:
    """What the group level keeps of a label map: a thousandth of its sidecar.

    Parameters
    ----------
    participant, session, source_uri, source_name, contrast : str
        See `Result`.
    segmentation : str
        With the contrast in it, unless that is T1w: numbers are compared within both.
    entities : tuple of (str, str)
    place : PurePosixPath
    flags : tuple of str
    values : dict
        Numbers by measure.
    made_with : tuple of (str, str)
        What should be the same for all images, and what it was.
    """

    participant: str
    session: str
    source_uri: str
    source_name: str
    segmentation: str
    contrast: str
    entities: tuple[tuple[str, str], ...]
    place: PurePosixPath
    flags: tuple[str, ...]
    values: dict[Measure, float]
    made_with: tuple[tuple[str, str], ...]


class Numbers(NamedTuple):
    """All maps of a study, and for each of them the robust z-scores of its values."""

    maps: tuple[MapSummary, ...]
    z: dict[PurePosixPath, dict[Measure, float]]

    def outliers(self, summary: MapSummary) -> dict[Measure, float]:
        """Give the measures of a map that are far from those of the others, farthest first."""
        far = {m: z for m, z in self.z[summary.place].items() if abs(z) > OUTLIER_BEYOND}
        return dict(sorted(far.items(), key=lambda item: -abs(item[1])))


def summarise(results: Iterable[Result]) -> Numbers:
    """Summarise label maps, one after the other, and compare their numbers."""
    maps = tuple(_summary(result) for result in results)
    by_measure: dict[Measure, list[int]] = defaultdict(list)
    for at, summary in enumerate(maps):
        for measure in summary.values:
            by_measure[measure].append(at)
    z: dict[PurePosixPath, dict[Measure, float]] = {summary.place: {} for summary in maps}
    for measure, places in by_measure.items():
        scores = robust_z(np.array([maps[at].values[measure] for at in places]))
        for at, score in zip(places, scores, strict=True):
            if np.isfinite(score):
                z[maps[at].place][measure] = round(float(score), 2)
    return Numbers(maps, z)


def mixtures(maps: Iterable[MapSummary]) -> tuple[str, ...]:
    """Say in what the making of label maps differs that should be the same for all of a study."""
    made: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for summary in maps:
        for what, value in summary.made_with:
            made[summary.segmentation, what][value] += 1
    found = []
    for (segmentation, what), counts in made.items():
        if len(counts) > 1:
            listed = ", ".join(f"{value} ({n})" for value, n in counts.most_common())
            found.append(f"{segmentation}: {what} is not the same for all maps: {listed}.")
    return tuple(found)


def _summary(result: Result) -> MapSummary:
    return MapSummary(
        participant=sys.intern(result.participant),
        session=sys.intern(result.session),
        source_uri=sys.intern(result.source_uri),
        source_name=sys.intern(result.source_name),
        segmentation=sys.intern(_name(result)),
        contrast=sys.intern(result.contrast),
        entities=result.entities,
        place=result.place,
        flags=result.sidecar.quality.flags,
        values=dict(_values(result)),
        made_with=tuple(_made_with(result)),
    )


def _name(result: Result) -> str:
    return result.segmentation + ("" if result.contrast == "T1w" else f"_space-{result.contrast}")


# One object a measure, not one an image.
_KNOWN: dict[Measure, Measure] = {}


def _values(result: Result) -> Iterator[tuple[Measure, float]]:
    segmentation = sys.intern(_name(result))

    def measure(name: str, unit: str, index: str = "", label: str = "") -> Measure:
        made = Measure(segmentation, name, index, label, unit)
        return _KNOWN.setdefault(made, made)

    sidecar = result.sidecar
    for label in result.labels:
        index = str(label.index)
        yield measure("volume", "mm^3", index, label.name), sidecar.volumes_mm3.get(index, 0.0)
        fractions = sidecar.quality.intracranial_fractions
        if segmentation == TISSUES and fractions:
            yield measure("intracranial_fraction", "1", index, label.name), fractions.get(index, 0.0)
    quality = sidecar.quality
    if quality.intracranial_volume_mm3 is not None:
        yield measure("intracranial_volume", "mm^3"), quality.intracranial_volume_mm3
    if quality.mean_confidence is not None:
        yield measure("mean_confidence", "1"), quality.mean_confidence
    yield measure("border_share", "1"), quality.border_share
    yield measure("components_removed", "1"), float(quality.components_removed)


def _made_with(result: Result) -> Iterator[tuple[str, str]]:
    provenance = result.sidecar.provenance
    yield "brainchop_pipe", str(provenance.code.get("Version"))
    yield "onnxruntime", provenance.versions.get("onnxruntime", "n/a")
    for model in provenance.models:
        yield f"model {model.name}", f"{model.version} {model.sha256[:8]}"
    for name, execution in provenance.execution.items():
        yield f"provider of {name}", execution.provider
        yield f"precision of {name}", execution.precision
    yield "brain mask", "given" if provenance.given_mask else "of a model, or none"
    for name, value in provenance.parameters.items():
        yield name, str(value)
