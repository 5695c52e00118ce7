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
from typing import Any, cast

import nibabel as nib
import numpy as np
from isal import igzip, igzip_lib
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from brainchop_pipe.core.grid import Volume
from brainchop_pipe.core.order import in_order
from brainchop_pipe.errors import InputError, MissingInputError
from brainchop_pipe.headers import AffineChoice, Place, Placement, find_place, one_line

# Formats of one file that hold a position in the world. Pairs (.hdr/.img) are not among them:
# half of such an image can change or get lost without the other.
_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh")
_COMPRESSED = (".gz", ".mgz")

# Its stubs call the class an instance.
_IGZIP_ERROR = cast(type[Exception], igzip_lib.error)

# Fewer voxels along an axis hold no head.
_FEWEST_VOXELS = 8

_INTENT_LABEL = 1002

# NIfTI's code of an extension that holds plain text.
_COMMENT = 6


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
    comment : str
        First comment in the header's extensions; empty where there is none.
    """

    volume: Volume
    placement: Placement
    notes: tuple[str, ...] = ()
    comment: str = ""


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
    with _explained(path), _opened(path) as image:
        _check_voxel_type(path.name, image)
        _check_shape(path.name, tuple(int(n) for n in image.shape))
        place = find_place(path.name, image, prefer_affine)
        voxels = _read_voxels(image).reshape(image.shape[:3])
    _check_values(path.name, voxels, allow_constant)
    return Image(Volume(voxels, place.grid), place.placement, place.notes, _comment(image))


def read_place(path: Path, prefer_affine: AffineChoice | None = None) -> Place:
    """Read where an image lies, without its voxels; arguments and errors as of `read_image`."""
    check_readable(path)
    with _explained(path):
        image = nib.load(path)
        _check_shape(path.name, tuple(int(n) for n in image.shape))
        return find_place(path.name, image, prefer_affine)


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
    volume: Volume, placement: Placement, *, labels: bool = False, compress: bool = True, comment: str = ""
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
    comment : str
        Kept in the header's extensions.
    """
    image = nib.Nifti1Image(in_order(volume.voxels, "F"), volume.grid.affine)
    image.set_sform(volume.grid.affine, placement.sform_code)
    # A qform has no shear; for a sheared affine it is the nearest rotation, and sform rules.
    image.set_qform(volume.grid.affine, placement.qform_code, strip_shears=True)
    image.header.set_xyzt_units(placement.space_unit, placement.time_unit)
    if labels:
        image.header.set_intent(_INTENT_LABEL, allow_unknown=True)
    if comment:
        image.header.extensions.append(nib.nifti1.Nifti1Extension(_COMMENT, comment.encode()))
    if not compress:
        return bytes(image.to_bytes())
    buffer = io.BytesIO()
    # Level 1 is nibabel's choice too: of label maps as small as zlib's, in a fifth of its time.
    with igzip.IGzipFile("", "wb", compresslevel=1, fileobj=buffer, mtime=0) as file:
        image.to_stream(file)
    return buffer.getvalue()


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image; a compressed one through igzip, which takes half of zlib's time."""
    image = nib.load(path)
    if path.suffix.lower() not in _COMPRESSED:
        yield image
        return
    with igzip.open(path) as stream:
        yield type(image).from_file_map({"image": nib.FileHolder(path.name, stream)})


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
    except (gzip.BadGzipFile, zlib.error, _IGZIP_ERROR, EOFError) as error:
        raise InputError(
            f"{path.name} is truncated or corrupt (gzip: {error}); copy or convert it again"
        ) from error
    except (ImageFileError, HeaderDataError) as error:
        raise InputError(f"{path.name} is no readable image ({one_line(error)}); convert it again") from error
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.ENOMEM):
            raise
        raise InputError(
            f"{path.name} holds less data than its header describes, or damaged data ({one_line(error)}); "
            "copy or convert it again"
        ) from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path.name} has a header that makes no sense ({one_line(error)}); convert it again"
        ) from error
    finally:
        header_checks.setLevel(level)


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


def _read_voxels(image: Any) -> np.ndarray:
    """Read voxels in native byte order, scaled in float32 where the header asks for scaling."""
    voxels = np.asanyarray(image.dataobj)
    if voxels.dtype.kind == "f" and image.get_data_dtype().kind != "f":
        voxels = voxels.astype(np.float32)
    return np.asarray(voxels.astype(voxels.dtype.newbyteorder("="), copy=False))


def _comment(image: Any) -> str:
    extensions = getattr(image.header, "extensions", ())
    texts = (extension.get_content() for extension in extensions if extension.get_code() == _COMMENT)
    # The standard pads an extension with zeros.
    return next((bytes(text).rstrip(b"\0").decode("utf-8", "replace") for text in texts), "")


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
