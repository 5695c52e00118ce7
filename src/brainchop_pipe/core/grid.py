"""Where voxels are: a shape and an affine, and the grid that the models see.

Left and right are decided here and nowhere else. World coordinates are RAS+
millimetres (x grows to the patient's right), an index is ``ijk``, and a matrix is
named ``target_from_source``, so that ``world_from_voxel @ ijk`` reads right.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from nibabel import orientations

from brainchop_pipe.errors import GeometryError, ShapeError

CONFORMED_SIZE = 256
CONFORMED_CENTER = CONFORMED_SIZE // 2

# Columns are the directions of i, j, k: left, inferior, anterior (LIA), as FreeSurfer's.
_LIA_DIRECTIONS = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])

Shape3 = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice of voxels in the world.

    Parameters
    ----------
    shape : (int, int, int)
        Number of voxels along i, j, k; each at least 1.
    affine : float64, shape (4, 4)
        World position (RAS+, mm) of a voxel's centre from its index. A read-only
        copy is kept. Shear and negative determinants are allowed.

    Raises
    ------
    ShapeError
        `shape` has not three axes, or an empty one.
    GeometryError
        `affine` is not 4 × 4, not finite, or singular.
    """

    shape: Shape3
    affine: np.ndarray

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise ShapeError(f"grid has shape {self.shape}; three axes of 1 voxel or more are needed")
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all():
            raise GeometryError(f"affine {affine.tolist()} is no finite 4 x 4 matrix")
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        # The volume of a voxel against that of a box with the same edges: 0 when flat.
        if not spacing.all() or abs(np.linalg.det(affine[:3, :3] / spacing)) < 1e-3:
            raise GeometryError(
                f"affine {affine.tolist()} is singular: its axes do not span space; "
                "repair the header's sform or qform"
            )
        affine.setflags(write=False)
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        object.__setattr__(self, "affine", affine)

    @cached_property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxels along i, j, k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def voxel_volume_mm3(self) -> float:
        """Volume of one voxel, always positive."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def orientation(self) -> str:
        """Nearest anatomical directions of i, j, k, such as ``"RAS"`` or ``"LIA"``."""
        return "".join(orientations.aff2axcodes(self.affine))

    @property
    def extent_mm(self) -> np.ndarray:
        """Size of the box around all voxels along the world's axes, float64, shape (3,)."""
        low, high = self.world_bounds_mm
        return np.asarray(high - low)

    @property
    def world_bounds_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest x, y, z that any voxel (half a voxel around its centre) reaches."""
        corners = self.corners_xyz
        return corners.min(axis=0), corners.max(axis=0)

    @property
    def corners_xyz(self) -> np.ndarray:
        """World position of the eight outer corners, float64, shape (8, 3)."""
        ijk = np.array(list(product(*[(-0.5, n - 0.5) for n in self.shape])))
        return np.asarray(ijk @ self.affine[:3, :3].T + self.affine[:3, 3])

    def matches(self, other: "Grid", tolerance_mm: float = 1e-3) -> bool:
        """Tell whether every voxel of two grids lies at the same place, within a tolerance."""
        return self.shape == other.shape and bool(
            np.abs(self.corners_xyz - other.corners_xyz).max() <= tolerance_mm
        )


def voxel_from_voxel(target: Grid, source: Grid) -> np.ndarray:
    """Give the matrix that takes a voxel index of `source` to one of `target`, shape (4, 4)."""
    return np.asarray(np.linalg.inv(target.affine) @ source.affine)


def conformed_grid(image: Grid, shift_mm: tuple[int, int, int] = (0, 0, 0)) -> Grid:
    """Give the models' grid for an image: 256³ voxels of 1 mm, axes left, inferior, anterior.

    Its voxel 128 lies at the world position of the image's voxel dims/2 (not
    rounded), as in FreeSurfer's ``mri_convert -c``; `shift_mm`, in whole
    millimetres of x, y, z, moves it from there. Any tilt of the image is removed.
    The position is rounded to float32, so that a file's header holds it exactly.
    """
    center = (image.affine @ [*(np.array(image.shape) / 2), 1.0])[:3] + shift_mm
    affine = np.eye(4)
    affine[:3, :3] = _LIA_DIRECTIONS
    to_first_voxel = _LIA_DIRECTIONS @ np.full(3, CONFORMED_CENTER)
    affine[:3, 3] = center.astype(np.float32) - to_first_voxel.astype(np.float32)
    return Grid((CONFORMED_SIZE,) * 3, affine)


def grid_around(
    center_xyz: np.ndarray, shape: Shape3, spacing_mm: tuple[float, float, float], orientation: str
) -> Grid:
    """Give an axis-aligned grid whose middle voxel (shape // 2) lies at a place.

    Parameters
    ----------
    center_xyz : float, shape (3,)
        World, mm.
    shape : (int, int, int)
    spacing_mm : (float, float, float)
        Along i, j, k.
    orientation : str
        Where i, j, k lead, such as ``"RAS"``.
    """
    to_ras = orientations.axcodes2ornt(tuple(orientation))
    affine = np.eye(4)
    affine[:3, :3] = orientations.inv_ornt_aff(to_ras, (1, 1, 1))[:3, :3] * spacing_mm
    affine[:3, 3] = center_xyz - affine[:3, :3] @ (np.array(shape) // 2)
    return Grid(shape, affine)


def is_conformed(grid: Grid) -> bool:
    """Tell whether a grid is 256³ voxels of 1 mm in LIA order, wherever it lies."""
    return grid.shape == (CONFORMED_SIZE,) * 3 and bool(
        np.allclose(grid.affine[:3, :3], _LIA_DIRECTIONS, atol=1e-5)
    )


def canonical_grid(image: Grid) -> Grid:
    """Give the same voxels in the order nearest to right, anterior, superior (RAS+)."""
    to_ras = orientations.io_orientation(image.affine)
    affine = image.affine @ orientations.inv_ornt_aff(to_ras, image.shape)
    shape = [0, 0, 0]
    for axis, target in enumerate(to_ras[:, 0].astype(int)):
        shape[target] = image.shape[axis]
    return Grid((shape[0], shape[1], shape[2]), affine)


def part_of(grid: Grid, start: tuple[int, ...], shape: tuple[int, ...]) -> Grid:
    """Give a part of a grid, from a voxel on; its voxels stay where they are in the world."""
    affine = grid.affine.copy()
    affine[:3, 3] = (affine @ [*start, 1.0])[:3]
    return Grid((shape[0], shape[1], shape[2]), affine)


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxel values and the grid that they lie on.

    Raises
    ------
    ShapeError
        The array's shape is not the grid's.
    """

    voxels: np.ndarray
    grid: Grid

    def __post_init__(self) -> None:
        if self.voxels.shape != self.grid.shape:
            raise ShapeError(f"voxels have shape {self.voxels.shape}; their grid has {self.grid.shape}")


def part_of_volume(volume: Volume, box: tuple[slice, ...]) -> Volume:
    """Copy a box of a volume, so that the rest need not stay; voxels stay where they are in the world."""
    voxels = volume.voxels[box].copy()
    return Volume(voxels, part_of(volume.grid, tuple(s.start for s in box), voxels.shape))
