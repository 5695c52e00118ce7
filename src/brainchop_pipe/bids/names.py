"""Names of BIDS files: entities in their order."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

# BIDS 1.11, rules/entities: the order in which entities stand in a name.
_ENTITY_ORDER = (
    *("sub", "tpl", "ses", "cohort", "sample", "task", "trc", "acq", "nuc", "voi", "ce", "stain"),
    *("rec", "dir", "run", "mod", "echo", "flip", "inv", "mt", "part", "proc", "hemi", "space", "split"),
    *("recording", "chunk", "atlas", "seg", "scale", "res", "den", "label", "desc"),
)

# Entities that only derivatives bear; an input with one of them is not a raw image.
_OF_DERIVATIVES = frozenset({"space", "atlas", "seg", "scale", "res", "den", "label", "desc"})

# Ends the space of images on the conformed grid.
CONFORMED = "conformed"

_EXTENSION = re.compile(r"\.(nii\.gz|nii|mgz|mgh)$", re.IGNORECASE)
_BIDS_STEM = re.compile(r"sub-[A-Za-z0-9]+(_[a-z]+-[A-Za-z0-9+]+)*_[A-Za-z0-9]+")


@dataclass(frozen=True)
class Source:
    """An image to segment, and what its name says.

    Parameters
    ----------
    folder : PurePosixPath
        Where its derivatives go, below the output folder.
    name : str
        File name.
    uri : str
        How sidecars refer to it: a BIDS URI, or the name of a file in no dataset.
    participant : str
        Such as ``sub-01``; the file's name for one that is in no dataset.
    entities : tuple of (str, str)
        Entities of the name; empty where it is no BIDS name.
    suffix : str
        Contrast: ``T1w``.
    """

    folder: PurePosixPath
    name: str
    uri: str
    participant: str
    entities: tuple[tuple[str, str], ...]
    suffix: str

    @property
    def stem(self) -> str:
        """Name without extension."""
        return _EXTENSION.sub("", self.name)

    @property
    def key(self) -> str:
        """What all its derivatives have in common, and no two inputs may share."""
        return str(self.derivative("", ""))

    @property
    def conformed_space(self) -> str:
        """Value of ``space-`` of what lies on the conformed grid."""
        return CONFORMED if self.suffix == "T1w" else f"{self.suffix}{CONFORMED}"

    def derivative(self, suffix: str, extension: str, **entities: str) -> PurePosixPath:
        """Name a derivative of this image: its entities and some more, in BIDS order.

        Images other than T1w get ``space-SUFFIX``, so that only those of a T1w bear
        the bare names that other programs look for.
        """
        added = dict(entities) if self.suffix == "T1w" else {"space": self.suffix, **entities}
        merged = {**dict(self.entities), **added}
        parts = [f"{key}-{merged[key]}" for key in _ENTITY_ORDER if key in merged]
        if not self.entities:
            parts.insert(0, self.stem)
        return self.folder / ("_".join([*parts, suffix]) + extension)


def is_on_conformed_grid(name: str) -> bool:
    """Tell whether a derivative lies on the models' grid, not on its image's."""
    parts = [part.partition("-") for part in name.split("_")]
    on_grid = (key == "space" and value.endswith(CONFORMED) for key, _, value in parts)
    return any(on_grid) or ("res", "-", "1mm") in parts


def parse_name(name: str, *, derivative: bool = False) -> tuple[tuple[tuple[str, str], ...], str] | None:
    """Split the name of a raw image, or of a derivative, into entities and suffix; None where it is none.

    >>> parse_name("sub-01_run-2_T1w.nii.gz")
    ((('sub', '01'), ('run', '2')), 'T1w')
    """
    stem = _EXTENSION.sub("", name)
    if not _BIDS_STEM.fullmatch(stem):
        return None
    *pairs, suffix = stem.split("_")
    entities = tuple((key, value) for key, _, value in (pair.partition("-") for pair in pairs))
    known = set(_ENTITY_ORDER) if derivative else set(_ENTITY_ORDER) - _OF_DERIVATIVES
    if any(key not in known for key, _ in entities):
        return None
    return entities, suffix
