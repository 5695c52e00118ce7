"""What pages show: plain values, so that they know neither files nor BIDS."""

from dataclasses import dataclass, field

# Of a brain mask, and of whatever was found on thumbnails. Of Okabe and Ito's palette, which people
# with any colour vision can tell apart; the tissues have others of it in their label table.
OUTLINE_COLOR = "#009E73"


@dataclass(frozen=True)
class LegendEntry:
    """A label, and the colour of its contour, ``#RRGGBB``."""

    name: str
    color: str


@dataclass(frozen=True)
class VolumeRow:
    """A label's volume; the fraction of the intracranial volume where that is known."""

    index: int
    name: str
    volume_ml: float
    fraction: float | None


@dataclass(frozen=True)
class Section:
    """One label map on a participant's page.

    Parameters
    ----------
    image : str
        Name of the image that was segmented.
    segmentation : str
        What it was segmented into.
    picture : bytes or None
        PNG.
    alt : str
        What the picture shows, in words.
    legend : tuple of LegendEntry
    flags, warnings : tuple of str
        What looks wrong; what a user should know.
    volumes : tuple of VolumeRow
    facts, seconds, provenance : tuple of (str, str)
        Quality numbers, time by stage, and how the file was made: what it is, and its value.
    """

    image: str
    segmentation: str
    picture: bytes | None
    alt: str
    legend: tuple[LegendEntry, ...]
    flags: tuple[str, ...]
    warnings: tuple[str, ...]
    volumes: tuple[VolumeRow, ...]
    facts: tuple[tuple[str, str], ...]
    seconds: tuple[tuple[str, str], ...]
    provenance: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Failure:
    """An image, or one model on it, that failed, and why."""

    image: str
    models: str
    reason: str


@dataclass(frozen=True)
class ParticipantPage:
    """A participant's page.

    Parameters
    ----------
    name : str
    sections : tuple of Section
    failures : tuple of Failure
    methods : str
    references : tuple of str
    version : str
        Of this program.
    """

    name: str
    sections: tuple[Section, ...]
    failures: tuple[Failure, ...]
    methods: str
    references: tuple[str, ...]
    version: str

    @property
    def flag_count(self) -> int:
        """How many things look wrong."""
        return sum(len(section.flags) for section in self.sections)


@dataclass(frozen=True)
class GroupRow:
    """One image in the group's table.

    Parameters
    ----------
    image : str
    status : str
        "done", "failed", "missing".
    page : str
        Relative address of the participant's page; empty where there is none.
    thumbnail : bytes or None
        PNG.
    flags : tuple of str
    outliers : tuple of str
        What is far from the other images, in words.
    values : tuple of float or None
        In the order of the page's columns.
    """

    image: str
    status: str
    page: str
    thumbnail: bytes | None
    flags: tuple[str, ...]
    outliers: tuple[str, ...]
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Distribution:
    """One measure over all images.

    Parameters
    ----------
    name, unit : str
    points : tuple of (float, str, str, bool)
        Value, image, page, and whether it is an outlier.
    """

    name: str
    unit: str
    points: tuple[tuple[float, str, str, bool], ...] = field(repr=False)


@dataclass(frozen=True)
class GroupPage:
    """The page of all images.

    Parameters
    ----------
    name : str
        Of the dataset.
    columns : tuple of str
        Of `GroupRow.values`.
    rows : tuple of GroupRow
        Worst first.
    distributions : tuple of Distribution
    warnings : tuple of str
        Mixed versions, providers, precisions.
    version : str
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[GroupRow, ...]
    distributions: tuple[Distribution, ...]
    warnings: tuple[str, ...]
    version: str
