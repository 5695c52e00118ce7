import json
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from nibabel import orientations
from scipy.spatial.transform import Rotation

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.resample import resample_nearest
from brainchop_pipe.core.sides import Plane, is_right, midsagittal_plane, split_sides
from brainchop_pipe.errors import ModelError

WHITE, GREY, STEM, SPOT = 1, 2, 3, 4
CENTER = np.array([6.0, -9.0, 4.0])
ORDERS = ["".join(o) for axes in permutations(["RL", "AP", "SI"]) for o in product(*axes)]


def ras_grid(shape: tuple[int, int, int] = (48, 56, 46)) -> Grid:
    """Make a grid of 3 mm around the world's origin."""
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    affine[:3, 3] = -1.5 * (np.array(shape) - 1)
    return Grid(shape, affine)


def stored_in(order: str, ras: Volume) -> Volume:
    """Store the same voxels in another order of axes, such as LIA."""
    codes = (orientations.axcodes2ornt(tuple(letters)) for letters in ("RAS", order))
    turn = orientations.ornt_transform(*codes)
    voxels = orientations.apply_orientation(ras.voxels, turn)
    affine = ras.grid.affine @ orientations.inv_ornt_aff(turn, ras.grid.shape)
    return Volume(voxels, Grid(voxels.shape, affine))


def upright(x_mm: float = CENTER[0]) -> Plane:
    return Plane(np.array([1.0, 0.0, 0.0]), x_mm, 1.0)


def brain(
    turn: Rotation | None = None, bend_mm: float = 0.0, center: np.ndarray = CENTER
) -> tuple[Volume, np.ndarray]:
    """Make a brain with a gap above its stem and a spot on the right, and tell its right side."""
    grid = ras_grid()
    xyz = np.indices(grid.shape).reshape(3, -1).T @ grid.affine[:3, :3].T + grid.affine[:3, 3] - center
    x, y, z = (turn.inv().apply(xyz) if turn else xyz).T
    x = x - bend_mm * np.sin(y / 25)
    labels = np.zeros(x.shape, np.uint8)
    labels[(x / 56) ** 2 + (y / 68) ** 2 + (z / 52) ** 2 < 1] = GREY
    labels[(x / 28) ** 2 + (y / 56) ** 2 + (z / 40) ** 2 < 1] = WHITE
    labels[(np.abs(x) < 2.5) & (z > -20)] = 0
    labels[(x / 14) ** 2 + (y / 14) ** 2 + ((z + 40) / 22) ** 2 < 1] = STEM
    labels[(x - 30) ** 2 + y**2 + z**2 < 81] = SPOT
    return Volume(labels.reshape(grid.shape), grid), ((x > 0) & (labels > 0)).reshape(grid.shape)


def agreement(labels: Volume, right: np.ndarray, truth: np.ndarray) -> float:
    return float((right == truth)[labels.voxels > 0].mean())


def plate(voxels: np.ndarray) -> Volume:
    """Make a sheet of 1 mm along x and y whose middle row lies at x = 0."""
    affine = np.eye(4)
    affine[0, 3] = -(len(voxels) // 2)
    return Volume(voxels[:, :, np.newaxis].astype(np.uint8), Grid((*voxels.shape, 1), affine))


@pytest.mark.parametrize(
    ("roll", "yaw", "shift"),
    [(0, 0, (0, 0, 0)), (15, 0, (10, 0, 0)), (0, -15, (-10, 5, 5)), (-15, 15, (0, -7, 0))],
)
def test_plane_and_sides_follow_the_head(roll, yaw, shift):
    turn = Rotation.from_euler("yz", [roll, yaw], degrees=True)
    labels, truth = brain(turn, center=CENTER + shift)
    plane = midsagittal_plane(labels)
    assert np.degrees(np.arccos(plane.normal @ turn.apply([1, 0, 0]))) < 1.5
    assert plane.normal @ (CENTER + shift) == pytest.approx(plane.offset_mm, abs=1)
    assert plane.is_clear
    assert agreement(labels, is_right(labels, plane), truth) >= 0.995


@pytest.mark.parametrize("order", ["LAS", "LIA"])
def test_plane_is_the_same_in_another_storage_order(order):
    labels, _ = brain()
    expected = midsagittal_plane(labels)
    plane = midsagittal_plane(stored_in(order, labels))
    np.testing.assert_allclose(plane.normal, expected.normal, atol=1e-9)
    assert plane.offset_mm == pytest.approx(expected.offset_mm, abs=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_two_blobs_have_the_same_sides_in_all_48_orders(order):
    grid = ras_grid((9, 5, 3))
    voxels = np.zeros(grid.shape, np.uint8)
    voxels[1:3, 1:4] = voxels[6:8, 1:4] = 1
    labels = stored_in(order, Volume(voxels, grid))
    assert labels.grid.orientation == order
    right = Volume(is_right(labels, upright(0)), labels.grid)
    voxels[1:3] = 0
    np.testing.assert_array_equal(resample_nearest(right, grid), voxels)


def test_first_index_of_the_models_grid_is_the_patients_right():
    voxels = np.zeros((21, 3, 3), np.uint8)
    voxels[[2, 18]] = 1
    affine = np.array([[-1.0, 0, 0, 10], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    right = is_right(Volume(voxels, Grid(voxels.shape, affine)), upright(0))
    assert np.unique(np.nonzero(right)[0]).tolist() == [2]


def test_surface_bends_with_the_gap():
    labels, truth = brain(bend_mm=5.0)
    x = np.arange(48)[:, np.newaxis, np.newaxis] * 3 - 70.5
    assert agreement(labels, x > CENTER[0], truth) < 0.98
    assert agreement(labels, is_right(labels, upright()), truth) >= 0.995


def test_folds_that_cross_the_middle_stay_with_their_side():
    x, y = np.mgrid[-20:21, 0:64]
    middle = np.where(y // 8 % 2, 2, -2)
    gap = (x == middle) | ((y % 8 == 0) & (np.abs(x) <= 2))
    right = is_right(plate(~gap), upright(0))[:, :, 0]
    np.testing.assert_array_equal(right, (x > middle) & ~gap)


def test_piece_that_hangs_on_neither_side_is_cut_at_the_surface():
    x, _ = np.mgrid[-20:21, 0:64]
    right = is_right(plate(np.where(np.abs(x) <= 3, 2, np.abs(x) >= 6)), upright(0))[:, :, 0]
    np.testing.assert_array_equal(right, ((x > 0) & (x <= 3)) | (x >= 6))


def test_solid_is_cut_at_the_plane():
    x, _ = np.mgrid[-20:21, 0:64]
    right = is_right(plate(np.ones(x.shape)), upright(0.4))[:, :, 0]
    np.testing.assert_array_equal(right, x > 0)


def test_split_gives_each_side_its_value():
    labels, truth = brain()
    values = {0: (0,), WHITE: (2, 41), GREY: (1003, 2003), STEM: (16,), SPOT: (65535,), 9: ()}
    split = split_sides(labels, values, upright())
    assert split.dtype == np.uint16
    assert set(np.unique(split)) == {0, 2, 41, 1003, 2003, 16, 65535}
    np.testing.assert_array_equal(split == 16, labels.voxels == STEM)
    np.testing.assert_array_equal(split == 41, truth & (labels.voxels == WHITE))
    np.testing.assert_array_equal(split == 0, labels.voxels == 0)


def test_value_of_a_label_that_is_not_in_the_map_is_not_needed():
    labels = plate(np.full((3, 3), 7))
    assert np.unique(split_sides(labels, {7: (12,)}, upright(0))).tolist() == [12]


@pytest.mark.parametrize("values", [{}, {1: ()}, {1: (1, 2, 3)}, {1: (-1,)}, {1: (2, 65536)}])
def test_label_without_a_usable_value_is_named(values):
    with pytest.raises(ModelError, match="label 1 is to become"):
        split_sides(plate(np.ones((3, 3))), values, upright())


def test_empty_map_has_a_plane_in_the_middle_and_no_sides():
    empty = plate(np.zeros((21, 5)))
    plane = midsagittal_plane(empty)
    assert (plane.normal.tolist(), plane.offset_mm, plane.is_clear) == ([1, 0, 0], 0, False)
    assert not is_right(empty, plane).any()
    assert not split_sides(empty, {}, plane).any()


def test_one_hemisphere_is_not_clear():
    labels, truth = brain()
    plane = midsagittal_plane(Volume(labels.voxels * truth, labels.grid))
    assert not plane.is_clear


def test_ball_has_an_upright_plane():
    grid = ras_grid((21, 21, 21))
    radius = np.linalg.norm(np.indices(grid.shape) - 10.0, axis=0)
    plane = midsagittal_plane(Volume((radius < 8).astype(np.uint8), grid))
    np.testing.assert_allclose(plane.normal, [1, 0, 0], atol=0.05)
    assert plane.offset_mm == pytest.approx(0, abs=0.5)


def test_single_voxel_is_its_own_mirror():
    plane = midsagittal_plane(plate(np.eye(1)))
    assert (plane.offset_mm, plane.symmetry) == (pytest.approx(0, abs=0.5), 1)


def renumber(labels: np.ndarray, values: dict[int, int]) -> np.ndarray:
    table = np.zeros(int(labels.max()) + 1, np.uint16)
    for old in filter(values.get, range(len(table))):
        table[old] = values[old]
    return table[labels]


@pytest.mark.shared
def test_sides_of_a_real_brain_are_those_of_freesurfer(shared):
    """The network has one label for the cortex, and no corpus callosum: that is white matter."""
    table = json.loads((shared / "facts" / "models.json").read_text())["models"]["model30chan18cls"]["labels"]
    values = {row["index"]: tuple(row.get("freesurfer_lr", [0])) for row in table}
    image = nib.load(shared / "data" / "reference" / "sub-ecog_aparc+aseg.nii.gz")
    reference = np.asarray(image.dataobj)
    merged = {value: value for pair in values.values() for value in pair}
    merged |= {value: 3 if value < 2000 else 42 for value in range(1000, 3000)}
    reference = renumber(reference, merged)
    compact = {value: index for index, pair in values.items() for value in pair}
    labels = Volume(renumber(reference, compact), Grid(image.shape, image.affine))
    found = split_sides(labels, values, midsagittal_plane(labels))
    assert (found == reference)[reference > 0].mean() >= 0.998
