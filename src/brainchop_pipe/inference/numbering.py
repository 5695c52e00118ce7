"""Numbers of labels in files: those of the model, or FreeSurfer's with left and right apart."""

from typing import Literal, NamedTuple

from brainchop_pipe.core.grid import Volume
from brainchop_pipe.core.sides import midsagittal_plane, split_sides
from brainchop_pipe.inference.card import Label, ModelCard

LabelScheme = Literal["compact", "freesurfer"]

# Cortical parcels bear their side in the middle of FreeSurfer's name for them.
_PARCEL = "ctx-"


class Numbered(NamedTuple):
    """A label map in a scheme.

    Parameters
    ----------
    labels : Volume
        Unsigned integers.
    sides : str
        How left and right were told apart; empty where they were not.
    notes : tuple of str
        What a user should know of it.
    """

    labels: Volume
    sides: str = ""
    notes: tuple[str, ...] = ()


def scheme_of(card: ModelCard, wanted: LabelScheme) -> LabelScheme:
    """Give the scheme that a model's maps have: the wanted one, if all its labels have FreeSurfer's index."""
    has_indices = all(label.freesurfer for label in card.output.labels[1:])
    return "freesurfer" if wanted == "freesurfer" and has_indices else "compact"


def output_labels(card: ModelCard, scheme: LabelScheme) -> tuple[Label, ...]:
    """Give the labels of a model's maps in a scheme, background first, then by index."""
    if scheme_of(card, scheme) == "compact":
        return card.output.labels
    background, *others = card.output.labels
    split = [part for label in others for part in _parts(label)]
    return (background, *sorted(split, key=lambda label: label.index))


def number_labels(labels: Volume, card: ModelCard, scheme: LabelScheme) -> Numbered:
    """Bring a model's label map into a scheme.

    Parameters
    ----------
    labels : Volume
        As the model gives it, after the post-filter.
    card : ModelCard
    scheme : {"compact", "freesurfer"}
        The second as far as `scheme_of` allows it: uint16, classes of both sides split at
        the middle of the brain.
    """
    if scheme_of(card, scheme) == "compact":
        return Numbered(labels)
    values = {label.index: label.freesurfer for label in card.output.labels[1:]}
    plane = midsagittal_plane(labels)
    numbered = Volume(split_sides(labels, values, plane), labels.grid)
    if all(len(indices) == 1 for indices in values.values()):
        return Numbered(numbered)
    notes = (
        ()
        if plane.is_clear
        else (
            "The two sides of the brain are so unlike that left and right may be "
            "mixed up in places; look at the result.",
        )
    )
    x, y, z = (round(float(n), 3) for n in plane.normal)
    sides = (
        f"split at a surface near the plane with the normal ({x}, {y}, {z}) at {plane.offset_mm:.1f} mm "
        f"(world, RAS+), about which {plane.symmetry:.0%} of the label map mirrors itself"
    )
    return Numbered(numbered, sides, notes)


def _parts(label: Label) -> tuple[Label, ...]:
    """Give a label under FreeSurfer's index, or its left and its right half."""
    if len(label.freesurfer) == 1:
        return (label.model_copy(update={"index": label.freesurfer[0]}),)
    return tuple(
        label.model_copy(update={"index": index, "name": name, "freesurfer": (index,), "abbreviation": short})
        for index, name, short in zip(
            label.freesurfer, _side_names(label.name), _side_abbreviations(label.abbreviation), strict=True
        )
    )


def _side_names(name: str) -> tuple[str, str]:
    if name.startswith(_PARCEL):
        parcel = name.removeprefix(_PARCEL)
        return f"{_PARCEL}lh-{parcel}", f"{_PARCEL}rh-{parcel}"
    return f"Left-{name}", f"Right-{name}"


def _side_abbreviations(abbreviation: str | None) -> tuple[str | None, str | None]:
    return (f"L-{abbreviation}", f"R-{abbreviation}") if abbreviation else (None, None)
