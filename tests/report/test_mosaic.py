"""Pictures of slices: sides, contours, proportions."""

import io

import numpy as np
import pytest
from nibabel import orientations
from nibabel.affines import apply_affine
from PIL import Image

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.report.content import OUTLINE_COLOR
from brainchop_pipe.report.mosaic import MOSAIC, THUMBNAIL, Layout, draw

COLORS = {1: "#D55E00", 2: "#0072B2"}
ONE_AXIAL = Layout(((("axial", 1),),), 400)


def ball(shape=(60, 70, 50), spacing=(2.0, 2.0, 2.0), center=(60.0, 70.0, 50.0), radius=30.0) -> Volume:
    """A ball of ones, its centre and radius in millimetres from the first voxel."""
    affine = np.diag([*spacing, 1.0])
    ijk = np.indices(shape)
    away = sum((ijk[a] * spacing[a] - center[a]) ** 2 for a in range(3))
    return Volume((away < radius**2).astype(np.uint8), Grid(shape, affine))


def stored_as(volume: Volume, axes: str) -> Volume:
    """The same voxels in the world, along other axes."""
    to_axes = orientations.ornt_transform(
        orientations.io_orientation(volume.grid.affine), orientations.axcodes2ornt(axes)
    )
    voxels = orientations.apply_orientation(volume.voxels, to_axes)
    affine = volume.grid.affine @ orientations.inv_ornt_aff(to_axes, volume.grid.shape)
    return Volume(voxels, Grid(voxels.shape, affine))


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def of_color(png: bytes, color: str) -> np.ndarray:
    """Rows and columns of the pixels of a colour."""
    return np.argwhere((pixels(png) == np.frombuffer(bytes.fromhex(color[1:]), np.uint8)).all(axis=2))


def noise(volume: Volume) -> Volume:
    return Volume(np.random.default_rng(0).random(volume.grid.shape, np.float32), volume.grid)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LIA", "PSR", "ILP"])
@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_what_is_at_the_patients_right_is_at_the_right(axes, plane):
    right = ball(center=(90.0, 70.0, 50.0), radius=12.0)
    whole = ball()
    labels = Volume(np.maximum(whole.voxels, right.voxels * 2), whole.grid)
    picture = draw(noise(whole), stored_as(labels, axes), COLORS, Layout((((plane, 1),),), 400))
    assert of_color(picture, COLORS[2])[:, 1].mean() > of_color(picture, COLORS[1])[:, 1].mean() + 50


@pytest.mark.parametrize(("plane", "axis"), [("axial", 1), ("sagittal", 2), ("coronal", 2)])
def test_front_and_top_are_at_the_top(plane, axis):
    center = [60.0, 70.0, 50.0]
    center[axis] += 25
    spot = ball(center=tuple(center), radius=10.0)
    labels = Volume(np.maximum(ball().voxels, spot.voxels * 2), spot.grid)
    picture = draw(noise(spot), labels, COLORS, Layout((((plane, 1),),), 400))
    assert of_color(picture, COLORS[2])[:, 0].mean() < of_color(picture, COLORS[1])[:, 0].mean() - 20


def test_front_is_at_the_right_of_a_sagittal_slice():
    spot = ball(center=(60.0, 95.0, 50.0), radius=10.0)
    labels = Volume(np.maximum(ball().voxels, spot.voxels * 2), spot.grid)
    picture = draw(noise(spot), labels, COLORS, Layout(((("sagittal", 1),),), 400))
    assert of_color(picture, COLORS[2])[:, 1].mean() > of_color(picture, COLORS[1])[:, 1].mean() + 20


@pytest.mark.parametrize("spacing", [(2.0, 2.0, 2.0), (1.0, 1.0, 5.0), (4.0, 1.0, 1.0)])
def test_a_ball_is_round_whatever_its_voxels(spacing):
    shape = tuple(int(120 / s) for s in spacing)
    volume = ball(shape, spacing, (60.0, 60.0, 60.0))
    for plane in ("axial", "coronal", "sagittal"):
        found = of_color(draw(noise(volume), volume, COLORS, Layout((((plane, 1),),), 400)), COLORS[1])
        high, wide = np.ptp(found, axis=0)
        assert high == pytest.approx(wide, rel=0.1)


def test_labels_on_another_grid_lie_where_they_are_in_the_world():
    """The head is the conformed one, the labels are on the image's tilted grid."""
    straight = ball()
    turned = Grid((80, 90, 70), straight.grid.affine @ _tilt() @ np.diag([0.9, 0.9, 0.9, 1]))
    places = apply_affine(turned.affine, np.indices(turned.shape).reshape(3, -1).T)
    away = ((places - [60.0, 70.0, 50.0]) ** 2).sum(axis=1)
    labels = Volume((away < 900).reshape(turned.shape).astype(np.uint8), turned)
    picture = draw(straight, labels, COLORS, ONE_AXIAL)
    contour = of_color(picture, COLORS[1])
    bright = np.argwhere((pixels(picture) > 120).all(axis=2))
    bright = bright[np.abs(bright[:, 1] - 200) < 150]  # without the letters
    np.testing.assert_allclose(contour.mean(axis=0), bright.mean(axis=0), atol=6)
    np.testing.assert_allclose(np.ptp(contour, axis=0), np.ptp(bright, axis=0), atol=14)  # two voxels


def _tilt() -> np.ndarray:
    c, s = np.cos(0.3), np.sin(0.3)
    tilt = np.eye(4)
    tilt[:2, :2] = [[c, -s], [s, c]]
    tilt[:3, 3] = [8, -12, -4]
    return tilt


def test_slices_lie_where_labels_are_whose_grid_is_turned():
    """A ball in a grid that is turned by 40 degrees: each slice hits it, as if the grid were not."""
    head, found = noise(ball((90, 90, 90))), ball((60, 60, 60), center=(59.0, 59.0, 59.0))
    cos, sin = np.cos(np.radians(40)), np.sin(np.radians(40))
    turn = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
    affine = np.diag([0.0, 0.0, 0.0, 1.0])
    affine[:3, :3] = turn @ found.grid.affine[:3, :3]
    affine[:3, 3] = 90 - turn @ [59.0, 59.0, 59.0]
    row = Layout(((("axial", 7),),), 1400)
    picture = draw(head, Volume(found.voxels, Grid(found.grid.shape, affine)), COLORS, row)
    columns = of_color(picture, COLORS[1])[:, 1]
    assert set(columns // 200) == set(range(7))
    straight = ball((90, 90, 90), center=(90.0, 90.0, 90.0))
    assert abs(len(pixels(picture)) - len(pixels(draw(head, straight, COLORS, row)))) < 5


def test_contour_is_a_line_and_lies_inside():
    volume = ball()
    count = len(of_color(draw(noise(volume), volume, COLORS, ONE_AXIAL), COLORS[1]))
    scale = 400 / 110
    assert 2 * np.pi * 30 * scale * 0.7 < count < 2 * np.pi * 30 * scale * 1.5


def test_mask_gets_an_outline_of_its_own():
    inner, outer = ball(radius=15.0), ball(radius=30.0)
    picture = draw(noise(inner), inner, COLORS, mask=outer)
    assert len(of_color(picture, OUTLINE_COLOR)) > len(of_color(picture, COLORS[1])) > 0


@pytest.mark.parametrize("layout", [MOSAIC, THUMBNAIL])
def test_picture_has_the_width_of_its_layout(layout):
    picture = pixels(draw(noise(ball()), ball(), COLORS, layout))
    assert picture.shape[1] == pytest.approx(layout.width_px, abs=15)


def test_head_without_labels_is_shown_as_a_whole():
    empty = Volume(np.zeros((60, 70, 50), np.uint8), ball().grid)
    picture = draw(noise(empty), empty, COLORS, ONE_AXIAL)
    assert len(of_color(picture, COLORS[1])) == 0
    assert pixels(picture).std() > 20


def test_flat_head_and_labels_without_colour_are_no_error():
    flat = Volume(np.zeros((60, 70, 50), np.int16), ball().grid)
    assert len(of_color(draw(flat, ball(), {}), COLORS[1])) == 0


def test_labels_elsewhere_in_the_world_leave_the_head_alone():
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[0, 3] = 900
    far = Volume(ball().voxels, Grid((60, 70, 50), affine))
    assert len(of_color(draw(noise(ball()), far, COLORS), COLORS[1])) == 0


def test_more_labels_than_colours_of_the_palette_have_contours_all_the_same():
    rng = np.random.default_rng(0)
    colors = {n: f"#{rng.integers(0, 1 << 24):06X}" for n in range(1, 400)}
    labels = Volume(np.arange(60 * 70 * 50).reshape(60, 70, 50) % 400, ball().grid)
    assert draw(noise(ball()), labels, colors).startswith(b"\x89PNG")
