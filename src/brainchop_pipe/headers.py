"""Where a header says that an image lies: which of its statements to believe, and which to refuse."""

from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from brainchop_pipe.core.grid import Grid
from brainchop_pipe.errors import GeometryError

AffineChoice = Literal["sform", "qform"]

# A field of view smaller or larger than these along an axis holds no head.
_SMALLEST_EXTENT_MM = 50.0
_LARGEST_EXTENT_MM = 1000.0

# A field of view below this along an axis may cut the brain of an adult.
_WHOLE_BRAIN_MM = 100.0

# qform and sform that put a corner farther apart contradict each other. Quaternions are
# stored in float32, so that below the second figure nothing is worth a note.
_FORMS_APART_MM = 3.0
_FORMS_EQUAL_MM = 0.1

# NIfTI's code for "aligned to something": the most that can be said of a file without codes.
_ALIGNED = 2


@dataclass(frozen=True)
class Placement:
    """How an image's header places it: what outputs on its grid must repeat.

    Parameters
    ----------
    qform_code, sform_code : int
        NIfTI codes, both above 0 for outputs.
    space_unit, time_unit : str
        NIfTI names of the units: "mm", and "sec" or what the input has.
    """

    qform_code: int = 1
    sform_code: int = 1
    space_unit: str = "mm"
    time_unit: str = "sec"


@dataclass(frozen=True, eq=False)
class Place:
    """An image's grid, what outputs on it must repeat, and what is odd about it.

    Parameters
    ----------
    grid : Grid
    placement : Placement
    notes : tuple of str
        Whole sentences.
    """

    grid: Grid
    placement: Placement
    notes: tuple[str, ...] = ()


def find_place(name: str, image: Any, prefer: AffineChoice | None) -> Place:
    """Decide where an image lies.

    Parameters
    ----------
    name : str
        Of the file, for messages.
    image : nibabel image
        NIfTI or MGH, of three axes and more.
    prefer : {"sform", "qform"} or None
        Which of the two to believe where they contradict each other.

    Raises
    ------
    GeometryError
        Spacing or affine make no sense, or qform and sform contradict each other.
    """
    _check_spacing(name, image)
    affine, placement, notes = _choose_affine(name, image, prefer)
    grid = _grid(name, image.shape[:3], affine)
    return Place(grid, placement, (*notes, *_note_extent(grid)))


def one_line(error: Exception) -> str:
    """Give another library's message in one line."""
    return " ".join(str(error).split())


def _check_spacing(name: str, image: Any) -> None:
    """Look at the spacing as it stands in the file: nibabel repairs it in memory."""
    spacing = np.asarray(image.header.get_zooms()[:3], dtype=np.float64)
    if isinstance(image, nib.Nifti1Image):
        with image.file_map["image"].get_prepare_fileobj("rb") as file:
            spacing = type(image.header).from_fileobj(file, check=False)["pixdim"][1:4].astype(np.float64)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise GeometryError(
            f"{name} has voxel spacing (pixdim) {spacing.tolist()}; positive millimetres are needed: "
            "repair the header or convert the image again"
        )


def _choose_affine(
    name: str, image: Any, prefer: AffineChoice | None
) -> tuple[np.ndarray, Placement, tuple[str, ...]]:
    """Decide which affine to believe."""
    header = image.header
    if isinstance(image, nib.MGHImage):
        return _affine_of_mgh(name, image)
    codes: dict[AffineChoice, int] = {f: int(header[f"{f}_code"]) for f in ("sform", "qform")}
    affines = {form: _affine(name, header, form, prefer) for form, code in codes.items() if code > 0}
    known = max(codes.values()) or _ALIGNED
    space_unit, time_unit = _units(header)
    # Spacings are taken for millimetres, and the outputs say so.
    notes: tuple[str, ...] = () if space_unit in ("mm", "unknown") else (_note_unit(space_unit),)
    placement = Placement(codes["qform"] or known, codes["sform"] or known, "mm", time_unit)
    if not affines:
        return header.get_best_affine(), placement, (*notes, _note_without_forms(header))
    if len(affines) == 2:
        notes += _compare_forms(name, image.shape[:3], affines, prefer)
    choice = prefer if prefer in affines else next(iter(affines))
    return affines[choice], placement, notes


def _affine_of_mgh(name: str, image: Any) -> tuple[np.ndarray, Placement, tuple[str, ...]]:
    # nibabel puts a made-up position in place of one that is not known; the file says so itself.
    with image.file_map["image"].get_prepare_fileobj("rb") as file:
        position_is_known = int.from_bytes(file.read(30)[28:30], "big") == 1
    if not position_is_known:
        raise GeometryError(
            f"{name} says that its position is not known (goodRASFlag), so left and right are in doubt; "
            "convert the original again"
        )
    return image.affine, Placement(), ()


def _affine(name: str, header: Any, form: AffineChoice, prefer: AffineChoice | None) -> np.ndarray:
    """Give one of the two affines; a qform whose quaternion is none is zeros if the sform is preferred."""
    try:
        return np.asarray(getattr(header, f"get_{form}")())
    except (HeaderDataError, ValueError) as error:
        if prefer not in (None, form):
            return np.zeros((4, 4))
        raise GeometryError(
            f"{name} has a {form} that makes no sense ({one_line(error)}); --prefer-affine takes the other"
        ) from error


def _units(header: Any) -> tuple[str, str]:
    try:
        space, time = header.get_xyzt_units()
    except KeyError:
        # Codes that NIfTI does not know say nothing.
        return "unknown", "unknown"
    return str(space), str(time)


def _note_unit(unit: str) -> str:
    return f"The header's unit of length is {unit!r}, but its spacing is that of a head in millimetres."


def _note_without_forms(header: Any) -> str:
    order = "".join(nib.aff2axcodes(header.get_best_affine()))
    return (
        "The header has neither qform nor sform: left and right rest on the file's order of voxels, "
        f"which was taken for {order} with the origin in the middle."
    )


def _compare_forms(
    name: str,
    shape: tuple[int, int, int],
    affines: dict[AffineChoice, np.ndarray],
    prefer: AffineChoice | None,
) -> tuple[str, ...]:
    """Note a small difference between sform and qform; refuse a large one unless a side was taken."""
    try:
        sform, qform = (_grid(f"{form} of {name}", shape, affines[form]) for form in ("sform", "qform"))
    except GeometryError:
        if prefer is None:
            raise
        # The one that was preferred is checked where it is used.
        return (f"The header's qform and sform are not both usable; the {prefer} was used, as asked for.",)
    apart = float(np.linalg.norm(sform.corners_xyz - qform.corners_xyz, axis=1).max())
    flipped = np.linalg.det(sform.affine) * np.linalg.det(qform.affine) < 0
    found = (
        f"qform ({qform.orientation}) and sform ({sform.orientation}) differ by {apart:.1f} mm at a corner"
    )
    if flipped:
        found += " and mirror each other, so that left and right are in doubt"
    if apart <= _FORMS_EQUAL_MM and not flipped:
        return ()
    if apart <= _FORMS_APART_MM and not flipped:
        return (f"The {found}; the {prefer or 'sform'} was used.",)
    if prefer is None:
        raise GeometryError(
            f"{name}: {found}; find out which is right and give --prefer-affine sform or qform"
        )
    return (f"The {found}; the {prefer} was used, as asked for.",)


def _grid(name: str, shape: tuple[int, ...], affine: np.ndarray) -> Grid:
    try:
        grid = Grid((shape[0], shape[1], shape[2]), affine)
    except GeometryError as error:
        raise GeometryError(f"{name}: {error}") from error
    extent = np.array(grid.shape) * grid.spacing_mm
    if (extent < _SMALLEST_EXTENT_MM).any() or (extent > _LARGEST_EXTENT_MM).any():
        raise GeometryError(
            f"{name} covers {' x '.join(f'{e:.4g}' for e in extent)} mm, which is no head: "
            f"{_SMALLEST_EXTENT_MM:.0f} to {_LARGEST_EXTENT_MM:.0f} mm along each axis are needed; "
            "check the spacing and its unit"
        )
    return grid


def _note_extent(grid: Grid) -> tuple[str, ...]:
    extent = np.array(grid.shape) * grid.spacing_mm
    if (extent >= _WHOLE_BRAIN_MM).all():
        return ()
    size = " x ".join(f"{e:.0f}" for e in extent)
    return (f"The field of view of {size} mm may not hold the whole brain.",)
