import gzip
import os
import struct

import nibabel as nib
import numpy as np
import pytest

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.errors import GeometryError, InputError, MissingInputError
from brainchop_pipe.headers import Placement
from brainchop_pipe.images import check_readable, image_bytes, read_image
from conftest import head_affine, head_voxels, save

AFFINE = head_affine()


def test_head_is_read_as_it_is(head_file):
    image = read_image(head_file)
    np.testing.assert_array_equal(image.volume.voxels, head_voxels())
    assert image.volume.grid.matches(Grid(head_voxels().shape, AFFINE))
    assert image.notes == ()


@pytest.mark.parametrize("dtype", [">i2", "<f4", ">f8", "u1", "i4"])
def test_any_type_and_byte_order_is_read_natively(tmp_path, dtype):
    voxels = (head_voxels() // 4).astype(dtype)
    image = nib.Nifti1Image(voxels, AFFINE, nib.Nifti1Header(endianness=">" if dtype[0] == ">" else "<"))
    image.set_data_dtype(np.dtype(dtype))
    nib.save(image, tmp_path / "a.nii")
    found = read_image(tmp_path / "a.nii").volume.voxels
    assert found.dtype.isnative
    np.testing.assert_array_equal(found, voxels)


def test_scaled_data_are_scaled(tmp_path):
    image = nib.Nifti1Image(head_voxels(), AFFINE)
    image.header.set_slope_inter(0.5, 3)
    nib.save(image, tmp_path / "a.nii.gz")
    found = read_image(tmp_path / "a.nii.gz").volume.voxels
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, head_voxels() * 0.5 + 3)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.nii", nib.Nifti2Image), ("a.mgz", nib.MGHImage)],
)
def test_other_formats_are_read(tmp_path, name, kind):
    nib.save(kind(head_voxels(), AFFINE), tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name).volume.voxels, head_voxels())


def test_fourth_axis_of_length_1_is_dropped(tmp_path):
    path = save(tmp_path / "a.nii.gz", head_voxels()[..., np.newaxis], AFFINE)
    assert read_image(path).volume.voxels.shape == head_voxels().shape


def test_negative_determinant_is_fine(tmp_path):
    flipped = AFFINE.copy()
    flipped[0] *= -1
    assert read_image(save(tmp_path / "a.nii.gz", head_voxels(), flipped)).volume.grid.orientation == "LAS"


RGB = np.zeros((10, 10, 10), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))


@pytest.mark.parametrize(
    ("voxels", "message"),
    [
        (np.stack([head_voxels()] * 2, axis=-1), r"has 4 axes \(44, 52, 46, 2\); give one volume"),
        (RGB, "has colour voxels .* give a grey-scale image"),
        (head_voxels().astype(np.complex64), "has complex voxels .* give the magnitude"),
        (np.zeros((20, 20, 20), np.int16), "is all zero"),
        (np.full((20, 20, 20), 7, np.int16), r"is constant \(every voxel is 7\)"),
        (np.where(head_voxels() > 900, np.nan, 1).astype(np.float32), r"has \d+ NaN or infinite voxels"),
        (np.where(head_voxels() > 900, np.inf, 1).astype(np.float32), r"has \d+ NaN or infinite voxels"),
        (np.ones((7, 50, 50), np.int16), r"has \(7, 50, 50\) voxels; 8 or more"),
    ],
)
def test_voxels_that_are_no_head_are_refused_by_name(tmp_path, voxels, message):
    with pytest.raises(InputError, match=f"bad.nii.gz {message}"):
        read_image(save(tmp_path / "bad.nii.gz", voxels, AFFINE))


def test_empty_label_map_may_be_read_on_request(tmp_path):
    path = save(tmp_path / "a.nii.gz", np.zeros((20, 20, 20), np.uint8), AFFINE)
    assert not read_image(path, allow_constant=True).volume.voxels.any()


@pytest.mark.parametrize("spacing", [0.0, np.nan, -2.0])
def test_spacing_that_makes_no_sense_is_refused(tmp_path, spacing):
    path = save(tmp_path / "a.nii", head_voxels(), AFFINE)
    content = bytearray(path.read_bytes())
    content[80:84] = struct.pack("<f", spacing)
    path.write_bytes(content)
    with pytest.raises(GeometryError, match=r"voxel spacing \(pixdim\).*positive millimetres are needed"):
        read_image(path)


def test_singular_affine_is_refused(tmp_path):
    path = save(tmp_path / "a.nii", head_voxels(), AFFINE, qform_code=0)
    content = bytearray(path.read_bytes())
    content[280:296] = content[296:312]
    path.write_bytes(content)
    with pytest.raises(GeometryError, match=r"a\.nii: affine .* is singular"):
        read_image(path)


@pytest.mark.parametrize(("scale", "size"), [(0.001, "0.176"), (100, "1.76e")])
def test_head_of_the_wrong_size_is_refused(tmp_path, scale, size):
    affine = np.diag([4 * scale] * 3 + [1.0])
    with pytest.raises(GeometryError, match=rf"covers {size}.* check the spacing and its unit"):
        read_image(save(tmp_path / "a.nii", head_voxels(), affine))


def contradicting(path, shift_mm=0.0, flip=False):
    image = nib.Nifti1Image(head_voxels(), AFFINE)
    other = AFFINE.copy()
    other[0, 3] += shift_mm
    if flip:
        other = np.diag([-1.0, 1, 1, 1]) @ other
    image.set_qform(AFFINE, 1)
    image.set_sform(other, 1)
    nib.save(image, path)
    return path


def test_forms_that_differ_a_little_are_noted(tmp_path):
    image = read_image(contradicting(tmp_path / "a.nii", shift_mm=2))
    assert "differ by 2.0 mm at a corner; the sform was used" in image.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shift_mm": 4}, r"qform \(RAS\) and sform \(RAS\) differ by 4.0 mm"),
        ({"flip": True}, "left and right"),
    ],
)
def test_forms_that_contradict_each_other_need_a_decision(tmp_path, change, message):
    path = contradicting(tmp_path / "a.nii", **change)
    with pytest.raises(GeometryError, match=f"{message}.*--prefer-affine"):
        read_image(path)
    orientations = {form: read_image(path, form).volume.grid.orientation for form in ("sform", "qform")}
    assert orientations["qform"] == "RAS"
    assert orientations["sform"] == ("LAS" if change.get("flip") else "RAS")
    assert "as asked for" in read_image(path, "qform").notes[0]


def test_only_form_there_is_is_taken_and_outputs_have_both(tmp_path):
    path = save(tmp_path / "a.nii", head_voxels(), AFFINE, sform_code=0, qform_code=3)
    image = read_image(path, "sform")
    assert image.volume.grid.matches(Grid(head_voxels().shape, AFFINE))
    assert (image.placement.qform_code, image.placement.sform_code) == (3, 3)


def test_unusable_form_is_passed_over_where_the_other_is_preferred(tmp_path):
    path = save(tmp_path / "a.nii", head_voxels(), AFFINE)
    content = bytearray(path.read_bytes())
    content[256:260] = struct.pack("<f", 7.0)
    path.write_bytes(content)
    with pytest.raises(GeometryError, match=r"has a qform that makes no sense .*--prefer-affine"):
        read_image(path)
    image = read_image(path, "sform")
    assert image.volume.grid.matches(Grid(head_voxels().shape, AFFINE))
    assert "not both usable" in image.notes[0]


def test_singular_form_is_an_error_where_no_side_was_taken(tmp_path):
    path = save(tmp_path / "a.nii", head_voxels(), AFFINE)
    content = bytearray(path.read_bytes())
    content[280:296] = content[296:312]
    path.write_bytes(content)
    with pytest.raises(GeometryError, match=r"sform of a\.nii: affine .* is singular"):
        read_image(path)
    assert read_image(path, "qform").volume.grid.orientation == "RAS"


@pytest.mark.parametrize(("code", "notes"), [(7, 0), (1, 1), (2, 0)])
def test_units_that_are_no_millimetres_are_noted_or_unknown(tmp_path, code, notes):
    path = save(tmp_path / "a.nii", head_voxels(), AFFINE)
    content = bytearray(path.read_bytes())
    content[123] = code
    path.write_bytes(content)
    image = read_image(path)
    assert len(image.notes) == notes
    assert image.placement.space_unit == "mm"


def test_mgh_file_that_does_not_know_its_position_is_refused(tmp_path):
    path = tmp_path / "a.mgz"
    nib.save(nib.MGHImage(head_voxels(), AFFINE), path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[28:30] = bytes(2)
    path.write_bytes(gzip.compress(content))
    with pytest.raises(GeometryError, match="left and right are in doubt"):
        read_image(path)


def test_no_form_at_all_is_said(tmp_path):
    image = read_image(save(tmp_path / "a.nii", head_voxels(), AFFINE, sform_code=0, qform_code=0))
    assert "left and right rest on the file's order of voxels" in image.notes[0]
    assert image.placement.sform_code == 2


def test_small_field_of_view_is_noted(tmp_path):
    path = save(tmp_path / "a.nii", head_voxels()[:, :, :20], AFFINE)
    assert "may not hold the whole brain" in read_image(path).notes[0]


def damage(content: bytes, kind: str) -> bytes:
    if kind == "truncated":
        return content[: len(content) // 2]
    if kind == "corrupt":
        return content[:200] + bytes(60) + content[260:]
    if kind == "checksum":
        return content[:-8] + bytes(4) + content[-4:]
    if kind == "no data":
        return gzip.compress(gzip.decompress(content)[:352])
    if kind == "no header":
        return gzip.compress(b"x" * 400)
    return b"this is no gzip file at all, just some text of a few words"


@pytest.mark.parametrize("kind", ["truncated", "corrupt", "checksum", "no data", "no header", "text"])
def test_damaged_file_is_refused_by_name(head_file, kind):
    head_file.write_bytes(damage(head_file.read_bytes(), kind))
    with pytest.raises(InputError, match=r"head_T1w\.nii\.gz .*(copy or convert it again|convert it again)"):
        read_image(head_file)


def test_file_that_is_not_there_or_empty_or_a_placeholder(tmp_path):
    with pytest.raises(MissingInputError, match="is not there"):
        check_readable(tmp_path / "none.nii")
    annexed = tmp_path / "annexed.nii.gz"
    annexed.symlink_to("../.git/annex/objects/xx/yy/key")
    with pytest.raises(MissingInputError, match="datalad get"):
        check_readable(annexed)
    broken = tmp_path / "broken.nii.gz"
    broken.symlink_to("nowhere.nii.gz")
    with pytest.raises(MissingInputError, match="restore it"):
        check_readable(broken)
    (tmp_path / "empty.nii").touch()
    with pytest.raises(InputError, match="is empty"):
        check_readable(tmp_path / "empty.nii")
    (tmp_path / "pointer.nii.gz").write_text("/annex/objects/MD5E-s1--0")
    with pytest.raises(InputError, match="placeholder"):
        check_readable(tmp_path / "pointer.nii.gz")
    (tmp_path / "scan.dcm").write_text("x")
    with pytest.raises(InputError, match="dcm2niix"):
        check_readable(tmp_path / "scan.dcm")


def test_file_without_permission_is_refused(head_file):
    head_file.chmod(0)
    head_file.parent.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        for folder in list(head_file.parents)[:-1]:
            if folder.stat().st_uid == 0 and "pytest" in str(folder):
                folder.chmod(0o755)
        os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="cannot be opened: Permission denied"):
            check_readable(head_file)
    finally:
        if root:
            os.seteuid(0)


def test_disk_failure_is_not_blamed_on_the_image(head_file, monkeypatch):
    def fail(*_args, **_kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(nib, "load", fail)
    with pytest.raises(OSError, match="Input/output error"):
        read_image(head_file)


def test_written_image_has_both_forms_codes_units_and_no_time(tmp_path, head):
    placement = Placement(qform_code=2, sform_code=4, space_unit="mm", time_unit="msec")
    labels = Volume((head.voxels > 0).astype(np.uint8), head.grid)
    content = image_bytes(labels, placement, labels=True)
    assert content == image_bytes(labels, placement, labels=True)
    (tmp_path / "a.nii.gz").write_bytes(content)
    header = nib.load(tmp_path / "a.nii.gz").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (2, 4)
    np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)
    assert header.get_xyzt_units() == ("mm", "msec")
    assert header.get_intent()[0] == "label"
    assert content[4:8] == bytes(4)


def test_sheared_affine_is_kept_in_the_sform(tmp_path):
    sheared = AFFINE.copy()
    sheared[1, 2] = 1.3
    grid = Grid(head_voxels().shape, sheared)
    (tmp_path / "a.nii").write_bytes(image_bytes(Volume(head_voxels(), grid), Placement(), compress=False))
    np.testing.assert_allclose(nib.load(tmp_path / "a.nii").affine, sheared, atol=1e-5)
