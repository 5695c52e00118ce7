"""Slices of a head with the contours of what was found in it, as a small picture.

A picture is drawn in palette indices from the start (64 greys, then the colours of
contours): one byte a pixel, sharp lines, and a quarter of the size of true colours.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from nibabel import orientations
from nibabel.affines import apply_affine
from PIL import Image, ImageDraw, ImageFont

from brainchop_pipe.core.grid import Grid, Volume, canonical_grid, part_of, voxel_from_voxel
from brainchop_pipe.core.resample import Box, resample_nearest, support_box
from brainchop_pipe.core.tiles import full_box
from brainchop_pipe.report.content import OUTLINE_COLOR

Plane = Literal["axial", "coronal", "sagittal"]

_GREYS = 64
_COLORS = 256 - _GREYS
_WHITE = _GREYS - 1

# Around what was found: a mask that misses a part of the brain must show what it misses.
_MARGIN_MM = 25.0

# From the dark to the bright end of what is shown, as percentiles of the box.
_WINDOW = (1.0, 99.7)

# Slices lie between these shares of the extent of what was found.
_FIRST_SLICE, _LAST_SLICE = 0.08, 0.92

# The axis that a plane's slices follow, those across and up the picture, and the letters at its
# left and right: R is the patient's right.
_PLANES: dict[Plane, tuple[int, int, int, str, str]] = {
    "axial": (2, 0, 1, "L", "R"),
    "coronal": (1, 0, 2, "L", "R"),
    "sagittal": (0, 1, 2, "P", "A"),
}


@dataclass(frozen=True)
class Layout:
    """Which slices a picture shows.

    Parameters
    ----------
    rows : tuple
        Of each row the planes, and how many slices of each.
    width_px : int
        Of the picture.
    """

    rows: tuple[tuple[tuple[Plane, int], ...], ...]
    width_px: int


MOSAIC = Layout(((("axial", 7),), (("coronal", 7),), (("sagittal", 6),)), 1400)
THUMBNAIL = Layout(((("axial", 1), ("coronal", 1), ("sagittal", 1)),), 210)


def draw(
    head: Volume,
    labels: Volume,
    colors: Mapping[int, str],
    layout: Layout = MOSAIC,
    mask: Volume | None = None,
) -> bytes:
    """Draw slices of a head with the contours of labels.

    Parameters
    ----------
    head : Volume
        Real, finite voxels. Slices follow its voxels.
    labels : Volume
        Integers or bool, on any grid in the head's world; 0 is background. Without any
        label the whole head is shown.
    colors : mapping of int to str
        Contour of each label, ``#RRGGBB``; labels without one have no contour.
    layout : Layout
    mask : Volume or None
        0 and 1, on the labels' grid; gets an outline of its own, below their contours.

    Returns
    -------
    bytes
        PNG. Axes are those of the voxels nearest to right, anterior and superior, with
        L and R (of the patient), or P and A, at the edges of each slice.
    """
    cut = _cut(head, labels, mask)
    brush = _Brush.of(colors)
    widths = [sum(n * cut.extent_mm[_PLANES[plane][1]] for plane, n in row) for row in layout.rows]
    scale = layout.width_px / max(widths)
    rows = []
    for row in layout.rows:
        cells = [_cell(cut, plane, at, scale, brush) for plane, n in row for at in _places(cut, plane, n)]
        height = max(len(cell) for cell in cells)
        rows.append(np.hstack([_padded(cell, height, cell.shape[1]) for cell in cells]))
    width = max(row.shape[1] for row in rows)
    picture = Image.fromarray(np.vstack([_padded(row, len(row), width) for row in rows]))
    picture.putpalette(brush.palette)
    content = io.BytesIO()
    # Half of the usual level's time, for 4 % more bytes.
    picture.save(content, "PNG", compress_level=4)
    return content.getvalue()


@dataclass(frozen=True, eq=False)
class _Cut:
    """A head in RAS order, cut to what is to be seen, and what was found in it.

    Parameters
    ----------
    head, labels, mask : Volume
        The latter two on a grid of their own; there may be no mask.
    window : (float, float)
        What is black, and what is white.
    found : Box
        Of labels and mask in the head.
    """

    head: Volume
    labels: Volume
    mask: Volume | None
    window: tuple[float, float]
    found: Box

    @property
    def extent_mm(self) -> tuple[float, ...]:
        """Width of the box along each axis."""
        return tuple(n * s for n, s in zip(self.head.grid.shape, self.head.grid.spacing_mm, strict=True))


@dataclass(frozen=True, eq=False)
class _Brush:
    """The palette, and the place in it of each label's contour: 0 for those that have none."""

    palette: bytes
    of_label: np.ndarray
    of_outline: int

    @classmethod
    def of(cls, colors: Mapping[int, str]) -> "_Brush":
        """Make a palette of greys, the outline's colour and those of labels; what exceeds it begins anew."""
        distinct = list(dict.fromkeys((OUTLINE_COLOR, *(color.upper() for color in colors.values()))))
        of_color = {color: _GREYS + place % _COLORS for place, color in enumerate(distinct)}
        greys = np.repeat(np.linspace(0, 255, _GREYS).astype(np.uint8), 3).tobytes()
        of_label = np.zeros(max(colors, default=0) + 1, np.uint8)
        for label, color in colors.items():
            of_label[label] = of_color[color.upper()] if label else 0
        palette = greys + b"".join(bytes.fromhex(color[1:]) for color in distinct[:_COLORS])
        return cls(palette, of_label, of_color[OUTLINE_COLOR])


def _cut(head: Volume, labels: Volume, mask: Volume | None) -> _Cut:
    grid = canonical_grid(head.grid)
    found = _found(
        labels if mask is None else Volume((labels.voxels > 0) | (mask.voxels > 0), mask.grid), grid
    )
    margins = [round(_MARGIN_MM / spacing) for spacing in grid.spacing_mm]
    box = tuple(
        slice(max(f.start - margin, 0), min(f.stop + margin, n))
        for f, margin, n in zip(found, margins, grid.shape, strict=True)
    )
    i, j, k = (slice(f.start - b.start, f.stop - b.start) for f, b in zip(found, box, strict=True))
    seen = orientations.apply_orientation(head.voxels, orientations.io_orientation(head.grid.affine))[box]
    low, high = np.percentile(seen[::3, ::3, ::3], _WINDOW)
    inside = Volume(seen, part_of(grid, tuple(s.start for s in box), seen.shape))
    return _Cut(inside, labels, mask, (float(low), float(high)), (i, j, k))


def _found(labels: Volume, grid: Grid) -> Box:
    """Give the box of labels in a grid; all of it where there are none in it."""
    support = support_box(labels.voxels)
    if support is None:
        return full_box(grid.shape)
    # In a grid that is turned against this one, corners of a box would lie far from what was found.
    ends = _ends_of_lines(labels.voxels[support] > 0) + [s.start for s in support]
    places = apply_affine(voxel_from_voxel(grid, labels.grid), ends)
    low = np.floor(places.min(axis=0)).clip(0, np.array(grid.shape) - 1).astype(int)
    high = np.ceil(places.max(axis=0)).clip(0, np.array(grid.shape) - 1).astype(int)
    i, j, k = (slice(int(a), int(b) + 1) for a, b in zip(low, high, strict=True))
    return i, j, k


def _ends_of_lines(inside: np.ndarray) -> np.ndarray:
    """Give the indices, shape (N, 3), of the first and last voxels inside of each line along the last axis.

    What is farthest in any direction is among them.
    """
    i, j = np.nonzero(inside.any(axis=2))
    lines = inside[i, j]
    first, last = lines.argmax(axis=1), inside.shape[2] - 1 - lines[:, ::-1].argmax(axis=1)
    return np.concatenate([np.column_stack([i, j, k]) for k in (first, last)])


def _places(cut: _Cut, plane: Plane, count: int) -> list[int]:
    """Give the slices of a plane, evenly spread over what was found."""
    found = cut.found[_PLANES[plane][0]]
    shares = [0.5] if count == 1 else np.linspace(_FIRST_SLICE, _LAST_SLICE, count)
    return [found.start + round(share * (found.stop - found.start - 1)) for share in shares]


def _cell(cut: _Cut, plane: Plane, at: int, scale: float, brush: _Brush) -> np.ndarray:
    """Draw one slice, in palette indices: as wide and high as its extent, whatever its voxels are."""
    through, across, up, left, right = _PLANES[plane]
    width, height = (max(round(cut.extent_mm[axis] * scale), 1) for axis in (across, up))
    start = tuple(at if axis == through else 0 for axis in range(3))
    shape = tuple(1 if axis == through else n for axis, n in enumerate(cut.head.grid.shape))
    grid = part_of(cut.head.grid, start, shape)
    rows, columns = (np.arange(n) * shape[axis] // n for n, axis in ((height, up), (width, across)))

    def upright(voxels: np.ndarray) -> np.ndarray:
        return voxels.reshape([n for axis, n in enumerate(shape) if axis != through]).T[::-1]

    def enlarged(labels: Volume) -> np.ndarray:
        return upright(resample_nearest(labels, grid))[np.ix_(rows, columns)]

    low, high = cut.window
    inside = cut.head.voxels[tuple(slice(a, a + n) for a, n in zip(start, shape, strict=True))]
    greys = ((upright(inside) - low) * (255 / max(high - low, 1e-6))).clip(0, 255).astype(np.uint8)
    cell = np.asarray(Image.fromarray(np.ascontiguousarray(greys)).resize((width, height)))
    cell = cell // (256 // _GREYS)
    if cut.mask is not None:
        cell[_inner_border(enlarged(cut.mask))] = brush.of_outline
    labels = enlarged(cut.labels)
    contour = np.where(_inner_border(labels), brush.of_label[np.minimum(labels, len(brush.of_label) - 1)], 0)
    return _with_letters(np.where(contour, contour, cell), left, right)


def _inner_border(labels: np.ndarray) -> np.ndarray:
    """Tell which pixels of labels other than 0 have a neighbour of another label."""
    around = np.pad(labels, 1, mode="edge")
    middle = around[1:-1, 1:-1]
    neighbours = (around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:])
    differs = np.logical_or.reduce([neighbour != middle for neighbour in neighbours])
    return np.asarray(differs & (labels > 0))


def _with_letters(cell: np.ndarray, left: str, right: str) -> np.ndarray:
    """Write the letters of its sides into a slice, at half its height."""
    picture = Image.fromarray(cell)
    brush, middle = ImageDraw.Draw(picture), cell.shape[0] / 2
    # Without grey edges, which would be colours of the palette.
    brush.fontmode = "1"
    font = ImageFont.load_default(max(cell.shape[0] / 14, 9))
    brush.text((2, middle), left, fill=_WHITE, font=font, anchor="lm")
    brush.text((cell.shape[1] - 3, middle), right, fill=_WHITE, font=font, anchor="rm")
    return np.asarray(picture)


def _padded(cell: np.ndarray, height: int, width: int) -> np.ndarray:
    """Put black around a picture, the same amount on either side."""
    missing = [(height - cell.shape[0]), (width - cell.shape[1])]
    return np.pad(cell, [(n // 2, n - n // 2) for n in missing])
