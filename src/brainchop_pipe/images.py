"""The only reader and writer of images; what cannot be trusted is refused here, by name.

Reading answers three questions in order: is there an image at all, do we know where
it lies, and do its voxels make sense. Writing keeps the input's codes and units.
"""

import errno
import gzip
import io
import logging
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.errors import GeometryError, InputError, MissingInputError

AffineChoice = Literal["sform", "qform"]

# Formats of one file that hold a position in the world. Pairs (.hdr/.img) are not among them:
# half of such an image can change or get lost without the other.
_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")

# Fewer voxels along an axis, or a smaller field of view, hold no head.
_FEWEST_VOXELS = 8
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

_INTENT_LABEL = 1002


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
class Image:
    """A head as it was read: real, finite voxels with a known place, and what is odd about it.

    Parameters
    ----------
    volume : Volume
        Native byte order; float32 where the file scales its values.
    placement : Placement
    notes : tuple of str
        Whole sentences; empty where nothing is remarkable.
    """

    volume: Volume
    placement: Placement
    notes: tuple[str, ...] = ()


def read_image(
    path: Path, prefer_affine: AffineChoice | None = None, *, allow_constant: bool = False
) -> Image:
    """Read a head, and refuse what cannot be segmented rightly.

    Parameters
    ----------
    path : Path
        NIfTI-1 or -2 (``.nii``, ``.nii.gz``) or MGH (``.mgh``, ``.mgz``), any byte
        order; three axes, or more of which the rest have length 1.
    prefer_affine : {"sform", "qform"} or None
        Which of the two to believe where they contradict each other. None: the
        sform, as nibabel does, unless they are more than 3 mm apart.
    allow_constant : bool
        Take an image of one value: an empty label map is no fault.

    Raises
    ------
    MissingInputError
        The file is not there, or is a link to content that is not there.
    InputError
        No image, several volumes, colour or complex voxels, NaN, one value only,
        damaged data.
    GeometryError
        Spacing or affine make no sense, or qform and sform contradict each other.
    """
    check_readable(path)
    with _explained(path):
        image = nib.load(path)
        _check_voxel_type(path.name, image)
        _check_shape(path.name, tuple(int(n) for n in image.shape))
        _check_spacing(path, image)
        affine, placement, notes = _place(path.name, image, prefer_affine)
        grid = _grid(path.name, image.shape[:3], affine)
        voxels = _read_voxels(image).reshape(image.shape[:3])
    _check_values(path.name, voxels, allow_constant)
    return Image(Volume(voxels, grid), placement, (*notes, *_note_extent(grid)))


def check_readable(path: Path) -> None:
    """Refuse a file that is not there, not readable, empty, a placeholder, or of an unknown format."""
    if path.is_symlink() and not path.exists():
        target = path.readlink()
        remedy = "get it with `datalad get` or `git annex get`" if "annex" in str(target) else "restore it"
        raise MissingInputError(f"{path.name} is a link to content that is not on this machine; {remedy}")
    if not path.exists():
        raise MissingInputError(f"{path.name} is not there")
    if not path.name.lower().endswith(_SUFFIXES):
        raise InputError(
            f"{path.name} is in no format that can be read ({', '.join(_SUFFIXES)}); convert it to NIfTI "
            "first, DICOM with dcm2niix for example"
        )
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(f"{path.name} cannot be opened: {error.strerror}; check its permissions") from error
    if not start:
        raise InputError(f"{path.name} is empty (0 bytes); copy or convert it again")
    if b"annex/objects" in start or start.startswith(b"version https://git-lfs"):
        raise InputError(f"{path.name} is a placeholder of git-annex or git-lfs; fetch its content first")


def image_bytes(
    volume: Volume, placement: Placement, *, labels: bool = False, compress: bool = True
) -> bytes:
    """Give the content of a NIfTI-1 file; the same volume gives the same bytes.

    Parameters
    ----------
    volume : Volume
        Integer or float32 voxels.
    placement : Placement
    labels : bool
        Mark the values as labels in the header's intent.
    compress : bool
        Gzip, without name and time.
    """
    image = nib.Nifti1Image(volume.voxels, volume.grid.affine)
    image.set_sform(volume.grid.affine, placement.sform_code)
    # A qform has no shear; for a sheared affine it is the nearest rotation, and sform rules.
    image.set_qform(volume.grid.affine, placement.qform_code, strip_shears=True)
    image.header.set_xyzt_units(placement.space_unit, placement.time_unit)
    if labels:
        image.header.set_intent(_INTENT_LABEL, allow_unknown=True)
    content = image.to_bytes()
    if not compress:
        return bytes(content)
    buffer = io.BytesIO()
    # Level 1 is nibabel's choice too: label maps are a third larger than at 9, five times faster.
    with gzip.GzipFile("", "wb", compresslevel=1, fileobj=buffer, mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what nibabel and zlib say of a damaged file into an error that names file and remedy."""
    header_checks = logging.getLogger("nibabel.global")
    level = header_checks.level
    # nibabel repairs headers aloud on standard error; our own checks name what is wrong.
    header_checks.setLevel(logging.CRITICAL)
    try:
        yield
    except InputError:
        raise
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(
            f"{path.name} is truncated or corrupt (gzip: {error}); copy or convert it again"
        ) from error
    except (ImageFileError, HeaderDataError) as error:
        raise InputError(f"{path.name} is no readable image ({_line(error)}); convert it again") from error
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.ENOMEM):
            raise
        raise InputError(
            f"{path.name} holds less data than its header describes, or damaged data ({_line(error)}); "
            "copy or convert it again"
        ) from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path.name} has a header that makes no sense ({_line(error)}); convert it again"
        ) from error
    finally:
        header_checks.setLevel(level)


def _line(error: Exception) -> str:
    """Give another library's message in one line."""
    return " ".join(str(error).split())


def _check_voxel_type(name: str, image: Any) -> None:
    dtype = image.get_data_dtype()
    if dtype.names is not None:
        raise InputError(f"{name} has colour voxels {dtype.names}; give a grey-scale image")
    if dtype.kind == "c":
        raise InputError(f"{name} has complex voxels ({dtype}); give the magnitude image")


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) < 3 or any(n != 1 for n in shape[3:]):
        raise InputError(f"{name} has {len(shape)} axes {shape}; give one volume of three axes")
    if min(shape[:3]) < _FEWEST_VOXELS:
        raise InputError(
            f"{name} has {shape[:3]} voxels; {_FEWEST_VOXELS} or more along each axis are needed"
        )


def _check_spacing(path: Path, image: Any) -> None:
    """Look at the spacing as it stands in the file: nibabel repairs it in memory."""
    spacing = np.asarray(image.header.get_zooms()[:3], dtype=np.float64)
    if isinstance(image, nib.Nifti1Image):
        with image.file_map["image"].get_prepare_fileobj("rb") as file:
            spacing = type(image.header).from_fileobj(file, check=False)["pixdim"][1:4].astype(np.float64)
    if not np.isfinite(spacing).all() or (spacing <= 0).any():
        raise GeometryError(
            f"{path.name} has voxel spacing (pixdim) {spacing.tolist()}; positive millimetres are needed: "
            "repair the header or convert the image again"
        )


def _place(
    name: str, image: Any, prefer: AffineChoice | None
) -> tuple[np.ndarray, Placement, tuple[str, ...]]:
    """Decide which affine to believe."""
    header = image.header
    if isinstance(image, nib.MGHImage):
        return _place_mgh(name, image)
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


def _place_mgh(name: str, image: Any) -> tuple[np.ndarray, Placement, tuple[str, ...]]:
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
            f"{name} has a {form} that makes no sense ({_line(error)}); give --prefer-affine with the other"
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


def _read_voxels(image: Any) -> np.ndarray:
    """Read voxels in native byte order, scaled in float32 where the header asks for scaling."""
    voxels = np.asanyarray(image.dataobj)
    if voxels.dtype.kind == "f" and image.get_data_dtype().kind != "f":
        voxels = voxels.astype(np.float32)
    return np.asarray(voxels.astype(voxels.dtype.newbyteorder("="), copy=False))


def _check_values(name: str, voxels: np.ndarray, allow_constant: bool) -> None:
    if voxels.dtype.kind == "f":
        bad = voxels.size - int(np.count_nonzero(np.isfinite(voxels)))
        if bad:
            raise InputError(
                f"{name} has {bad} NaN or infinite voxels; replace them by 0, with `fslmaths IN -nan OUT` "
                "for example"
            )
    low, high = voxels.min(), voxels.max()
    if low == high and not allow_constant:
        what = "all zero" if low == 0 else f"constant (every voxel is {low})"
        raise InputError(f"{name} is {what}; there is no head to segment, so convert or copy it again")
