"""Quality of one segmentation: numbers, and what looks wrong, in words."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy

from brainchop_pipe.core.components import largest_component
from brainchop_pipe.core.counts import count_values
from brainchop_pipe.core.grid import Volume
from brainchop_pipe.errors import ShapeError

# Millilitres of brain with CSF. Adults have 1469 ± 102 (men) and 1289 ± 111 (women: Matsumae
# et al. 1996, doi:10.3171/jns.1996.84.6.0982), infants of some months 600 to 900 (Sgouros et al.
# 1999, doi:10.3171/jns.1999.91.4.0610), newborns 340 of brain alone (Holland et al. 2014,
# doi:10.1001/jamaneurol.2014.1638). The upper end is 10 standard deviations above men's mean.
_PLAUSIBLE_ML = (400, 2500)

# Measured on six brains, none of which touches the border: a cut 2 to 4 mm below the vertex puts
# this share of the surface there, the end of the brain stem alone 0.4 to 0.7 %.
_HIGH_BORDER_SHARE = 0.01

# Measured on right results: 0.84 (17 regions), 0.92 (tissues), 0.999 (mask); upside down: 0.74
# (regions), but 0.99 (mask), so that a mask model's confidence hardly tells.
_LEAST_CONFIDENCE = 0.8

# Bright tissue farther than this from the brain is face and neck. In five heads it takes 0.25 to
# 1.04 of the brain's volume (0.08 to 0.14 where both are cut off, nothing after skull-stripping),
# and its centre lies 47 to 106 mm below the brain's; 16 mm in the closest field of view. Turned
# upside down, with the mask that the model then finds, it is 0.15 to 0.54, 33 to 98 mm above.
_HEAD_ABOVE = 20
_AWAY_MM = 16.0
_SHARE_OF_BRAIN = (0.08, 3.0)
_UPSIDE_DOWN_MM = 10.0
_SAMPLE_MM = 4.0

_LOOK = "look at the result"


@dataclass(frozen=True)
class Quality:
    """What is measured on the result of one image.

    Parameters
    ----------
    volumes_mm3 : mapping of int to float
        By label index, see `label_volumes_mm3`.
    intracranial_mm3 : float or None
        Brain with CSF; None where no mask model ran.
    intracranial_method : str
        How it was measured, such as "mask of mindgrab"; empty for None.
    components_removed : int
        Regions that the post-filters took away, see `count_removed`.
    border_share : float, 0 to 1
        See `border_share`.
    mean_confidence : float, 0 to 1, or None
        See `mean_confidence`.
    upside_down : bool
        See `looks_upside_down`.
    """

    volumes_mm3: Mapping[int, float]
    intracranial_mm3: float | None
    intracranial_method: str
    components_removed: int
    border_share: float
    mean_confidence: float | None
    upside_down: bool

    @property
    def intracranial_fractions(self) -> dict[int, float]:
        """Volume of each label by the intracranial one; empty where that is 0 or not known."""
        if not self.intracranial_mm3:
            return {}
        return {label: volume / self.intracranial_mm3 for label, volume in self.volumes_mm3.items()}


def label_volumes_mm3(labels: Volume) -> dict[int, float]:
    """Give the volume of each label, counted on the grid of the map.

    Parameters
    ----------
    labels : Volume
        Unsigned integers; 0 is background.

    Returns
    -------
    dict of int to float
        Cubic millimetres by label, ascending. Background and labels without a voxel
        are left out.
    """
    counts = count_values(labels.voxels)
    voxel = labels.grid.voxel_volume_mm3
    return {label: float(count * voxel) for label, count in enumerate(counts) if label and count}


def border_share(mask: np.ndarray, spacing_mm: tuple[float, float, float]) -> float:
    """Give the share of a mask's surface that lies on the border of the field of view.

    Parameters
    ----------
    mask : bool, shape (I, J, K)
        On the image's own grid: the models' grid may be larger than what was scanned.
    spacing_mm : (float, float, float)
        Distance between voxels along i, j, k.

    Returns
    -------
    float, 0 to 1
        By the area of voxel faces. 0 for an empty mask.

    Raises
    ------
    ShapeError
        `mask` is not three-dimensional.
    """
    if mask.ndim != 3:
        raise ShapeError(f"mask has shape {mask.shape}; three axes are needed")
    inner_mm2 = border_mm2 = 0.0
    for axis, spacing in enumerate(spacing_mm):
        face_mm2 = float(np.prod(spacing_mm)) / spacing
        slices = np.moveaxis(mask, axis, 0)
        inner_mm2 += face_mm2 * np.count_nonzero(slices[1:] != slices[:-1])
        border_mm2 += face_mm2 * (np.count_nonzero(slices[0]) + np.count_nonzero(slices[-1]))
    surface_mm2 = inner_mm2 + border_mm2
    return float(border_mm2 / surface_mm2) if surface_mm2 else 0.0


def mean_confidence(confidence: np.ndarray, labels: np.ndarray) -> float | None:
    """Give the mean probability of the class that was chosen, over the foreground.

    Parameters
    ----------
    confidence : float32, shape (I, J, K), 0 to 1
        Largest soft-max of each voxel; not NaN.
    labels : integer, shape (I, J, K)
        0 is background, and does not count.

    Returns
    -------
    float, 0 to 1, or None
        None where there is no foreground.

    Raises
    ------
    ShapeError
        The shapes differ.
    """
    if confidence.shape != labels.shape:
        raise ShapeError(
            f"confidence has shape {confidence.shape}, its labels {labels.shape}; one grid is needed"
        )
    foreground = labels != 0
    return float(confidence[foreground].mean(dtype=np.float64)) if foreground.any() else None


def looks_upside_down(head: Volume, brain: np.ndarray) -> bool:
    """Tell whether a head's orientation has up and down exchanged.

    In an upright head, face and neck lie below the brain: the centre of the bright
    tissue that is more than 16 mm away from the brain is lower in the world than the
    brain's own.

    Parameters
    ----------
    head : Volume
        uint8, conformed; its affine says where up is.
    brain : bool, shape of the head

    Returns
    -------
    bool
        True where that centre lies more than 10 mm above the brain's. False where there
        is no telling: no brain, hardly any tissue away from it (0.08 of its volume), as
        in a head that was skull-stripped or cut close, or too much (3 times), as where
        the air is bright.

    Raises
    ------
    ShapeError
        The shapes differ.
    """
    if brain.shape != head.grid.shape:
        raise ShapeError(f"brain has shape {brain.shape}, its head {head.grid.shape}; one grid is needed")
    i, j, k = (max(1, round(_SAMPLE_MM / spacing)) for spacing in head.grid.spacing_mm)
    inside = brain[::i, ::j, ::k]
    if not inside.any():
        return False
    spacing_mm = np.multiply(head.grid.spacing_mm, (i, j, k))
    away = scipy.ndimage.distance_transform_edt(~inside, spacing_mm) > _AWAY_MM
    tissue = np.argwhere(away & largest_component(head.voxels[::i, ::j, ::k] > _HEAD_ABOVE))
    core = np.argwhere(inside)
    least, most = (share * len(core) for share in _SHARE_OF_BRAIN)
    if not least < len(tissue) < most:
        return False
    apart = (tissue.mean(axis=0) - core.mean(axis=0)) * (i, j, k)
    return float(head.grid.affine[2, :3] @ apart) > _UPSIDE_DOWN_MM


def is_plausible_brain(volume_mm3: float) -> bool:
    """Tell whether a human of any age can have a brain with CSF of this volume: 400 to 2500 mL."""
    least, most = _PLAUSIBLE_ML
    return least <= volume_mm3 / 1000 <= most


def flags(
    quality: Quality, label_names: Mapping[int, str], least_confidence: float = _LEAST_CONFIDENCE
) -> tuple[str, ...]:
    """Say what looks wrong with a result.

    Parameters
    ----------
    quality : Quality
    label_names : mapping of int to str
        All classes of the model; background, 0, does not count.
    least_confidence : float, 0 to 1
        A lower mean confidence is worth a look.

    Returns
    -------
    tuple of str
        Whole sentences: what was found, what is usual, what to do. Empty where
        nothing is remarkable.
    """
    found = (
        _upside_down(quality.upside_down),
        _implausible_volume(quality.intracranial_mm3, quality.intracranial_method),
        _empty_classes(quality.volumes_mm3, label_names),
        _cut_by_the_border(quality.border_share),
        _low_confidence(quality.mean_confidence, least_confidence),
    )
    return tuple(flag for flag in found if flag)


def _upside_down(is_so: bool) -> str:
    if not is_so:
        return ""
    return (
        "Most tissue that is not brain lies above the brain; face and neck lie below in an upright head. "
        f"Up and down are probably exchanged in the header: {_LOOK}, and repair the sform and qform."
    )


def _implausible_volume(volume_mm3: float | None, method: str) -> str:
    least, most = _PLAUSIBLE_ML
    if volume_mm3 is None or is_plausible_brain(volume_mm3):
        return ""
    return (
        f"Brain and CSF ({method}) take {volume_mm3 / 1000:.0f} mL; 1000 to 2000 mL are usual in adults, and "
        f"{least} to {most} mL plausible at any age; {_LOOK}, and at the voxel size in the header."
    )


def _empty_classes(volumes_mm3: Mapping[int, float], names: Mapping[int, str]) -> str:
    empty = [f"{name} ({label})" for label, name in names.items() if label and not volumes_mm3.get(label)]
    if not empty:
        return ""
    classes = sum(1 for label in names if label)
    return f"{len(empty)} of {classes} classes have no voxel: {', '.join(empty)}; all are usual; {_LOOK}."


def _cut_by_the_border(share: float) -> str:
    if share <= _HIGH_BORDER_SHARE:
        return ""
    return (
        f"{share:.1%} of the brain's surface lies on the border of the field of view (less than "
        f"{_HIGH_BORDER_SHARE:.0%} is usual), so part of the brain was not scanned; {_LOOK}, and mind that "
        "volumes are too small."
    )


def _low_confidence(mean: float | None, least: float) -> str:
    if mean is None or mean >= least:
        return ""
    return f"The mean confidence within the labels is {mean:.2f} ({least:.2f} or more is usual); {_LOOK}."
