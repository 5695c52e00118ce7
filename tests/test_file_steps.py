import errno
import json

import nibabel as nib
import numpy as np
import pytest

from brainchop_pipe.core.grid import Grid, is_conformed
from brainchop_pipe.errors import InputError, OutputError, UsageError
from brainchop_pipe.file_steps import (
    conform_file,
    correct_bias_file,
    extract_brain_file,
    infer_file,
    post_filter_file,
    restore_file,
    segment_labels_file,
    segment_tissues_file,
)
from brainchop_pipe.inference.predict import predict
from brainchop_pipe.record import Clock, StepRecord
from brainchop_pipe.settings import Processing
from brainchop_pipe.steps import conform_image, load_model, run_model
from brainchop_pipe.storage import sha256_of_file
from conftest import head_affine, head_voxels, save


def test_file_steps_follow_each_other_and_end_on_the_images_grid(tmp_path, head_file, cards):
    conformed = conform_file(head_file, tmp_path / "conformed.nii.gz")
    raw = infer_file(conformed, tmp_path / "raw.nii.gz", model=cards.regions)
    labels = post_filter_file(raw, tmp_path / "labels.nii", model=cards.regions)
    restored = nib.load(restore_file(labels, head_file, tmp_path / "restored.nii.gz"))
    assert is_conformed(Grid(nib.load(conformed).shape, nib.load(conformed).affine))
    np.testing.assert_allclose(restored.affine, head_affine())
    found = np.asarray(restored.dataobj)
    assert set(np.unique(found)) == {0, 1, 2}
    inside = head_voxels() == 1000
    assert (found[inside] == 2).mean() > 0.9


def test_file_steps_and_array_steps_give_the_same_labels(tmp_path, head_file, cards):
    conformed = conform_file(head_file, tmp_path / "c.nii")
    raw = infer_file(conformed, tmp_path / "r.nii", model=cards.regions)
    filtered = post_filter_file(raw, tmp_path / "f.nii", model=cards.regions)
    volume = conform_image(head_file).conformed.volume
    prediction, _ = run_model((volume,), load_model(cards.regions), Processing(), None, Clock())
    np.testing.assert_array_equal(np.asarray(nib.load(filtered).dataobj), prediction.labels.voxels)


def test_native_orientation_on_request(tmp_path, cards):
    flipped = np.diag([-1.0, 1, 1, 1]) @ head_affine()
    image = save(tmp_path / "las.nii.gz", head_voxels(), flipped)
    conformed = conform_file(image, tmp_path / "c.nii")
    raw = infer_file(conformed, tmp_path / "r.nii", model=cards.regions, full_volume=True)
    native = nib.load(restore_file(raw, image, tmp_path / "n.nii", orientation="native"))
    canonical = nib.load(restore_file(raw, image, tmp_path / "o.nii", interpolation="nearest"))
    assert nib.aff2axcodes(native.affine) == ("L", "A", "S")
    assert nib.aff2axcodes(canonical.affine) == ("R", "A", "S")
    np.testing.assert_allclose(canonical.affine, nib.as_closest_canonical(nib.load(image)).affine)


def test_empty_label_map_passes_the_post_filter(tmp_path, head_file, cards):
    conformed = conform_file(head_file, tmp_path / "c.nii")
    image = nib.load(conformed)
    empty = save(tmp_path / "e.nii", np.zeros(image.shape, np.uint8), image.affine)
    assert not np.asarray(
        nib.load(post_filter_file(empty, tmp_path / "f.nii", model=cards.mask)).dataobj
    ).any()


def test_image_that_is_not_conformed_is_refused_by_later_steps(tmp_path, head_file, cards):
    with pytest.raises(InputError, match="conform it first"):
        infer_file(head_file, tmp_path / "r.nii", model=cards.mask)


def test_name_that_is_no_nifti_is_refused(tmp_path, head_file):
    with pytest.raises(InputError, match=r"ends in \.nii or \.nii\.gz"):
        conform_file(head_file, tmp_path / "c.mgz")


def load(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_labels_of_one_go_are_those_of_the_single_steps(tmp_path, head_file, cards):
    conformed = conform_file(head_file, tmp_path / "c.nii")
    raw = infer_file(conformed, tmp_path / "r.nii", model=cards.regions)
    filtered = post_filter_file(raw, tmp_path / "f.nii", model=cards.regions)
    restored = restore_file(filtered, head_file, tmp_path / "l.nii.gz")
    labels, *_ = segment_labels_file(conformed, head_file, tmp_path, model=cards.regions)
    assert labels.read_bytes() == restored.read_bytes()


def test_record_says_what_the_image_was_and_where_models_ran(tmp_path, head_file, cards):
    conformed = conform_file(head_file, tmp_path / "c.nii")
    brain = extract_brain_file(conformed, tmp_path, mask_model=cards.mask)
    files = segment_tissues_file(conformed, head_file, tmp_path, **brain._asdict(), tissue_model=cards.tissue)
    record = StepRecord.model_validate_json(files.record.read_text())
    assert record.digests.sha256 == sha256_of_file(head_file)
    assert record.model == "made_tissue"
    assert record.brain.mask_model == "made_mask"
    # The made mask model tells no tissues apart, whose contrast is measured as well.
    stages = {"infer made_mask", "infer brainchop_any", "prepare brain"}
    assert stages | {"infer made_tissue", "write made_tissue"} == record.seconds.keys()
    assert set(record.volumes_mm3) == {"1", "2", "3"}


def test_model_that_finds_brain_and_tissues_runs_once_and_gives_what_two_runs_give(
    tmp_path, head_file, cards, monkeypatch
):
    conformed = conform_file(head_file, tmp_path / "c.nii")
    brain = extract_brain_file(conformed, tmp_path, mask_model=cards.both, correct=False)
    given = {"tissue_model": cards.both, "keep_conformed": True}
    twice = segment_tissues_file(conformed, head_file, tmp_path / "twice", **brain._asdict(), **given)
    runs = []
    monkeypatch.setattr("brainchop_pipe.steps.predict", lambda *a, **k: runs.append(0) or predict(*a, **k))
    once = segment_tissues_file(conformed, head_file, tmp_path / "once", **given)
    assert len(runs) == 1
    for one, two in zip(once[:-1], twice[:-1], strict=True):
        assert one.read_bytes() == two.read_bytes()
    records = [StepRecord.model_validate_json(files.record.read_text()) for files in (once, twice)]
    assert records[0].brain.mask_model == records[1].brain.mask_model == "made_both"
    assert records[0].quality == records[1].quality


def test_tissues_of_a_model_that_does_not_find_the_brain_need_a_mask(tmp_path, head_file, cards):
    conformed = conform_file(head_file, tmp_path / "c.nii")
    with pytest.raises(UsageError, match="cannot find the brain"):
        segment_tissues_file(conformed, head_file, tmp_path, tissue_model=cards.tissue)


def test_conformed_image_of_others_makes_a_record_without_an_origin(tmp_path, head_file, cards):
    image = nib.load(conform_file(head_file, tmp_path / "c.nii"))
    other = save(tmp_path / "other.nii.gz", np.asarray(image.dataobj), image.affine)
    files = segment_labels_file(other, head_file, tmp_path, model=cards.mask)
    assert json.loads(files.record.read_text())["digests"] is None


def test_bias_field_is_taken_out_within_the_mask(tmp_path):
    inside = head_voxels() >= 500
    field = np.broadcast_to(np.linspace(0.6, 1.4, 44).reshape(-1, 1, 1), inside.shape)
    image = save(tmp_path / "h.nii.gz", (head_voxels() * field).astype(np.float32), head_affine())
    mask = save(tmp_path / "m.nii.gz", inside.astype(np.uint8), head_affine())
    files = correct_bias_file(image, mask, tmp_path)
    grey = (head_voxels() == 500) & inside
    corrected, brain = load(files.corrected), load(files.brain)
    spread = [values[grey].std() / values[grey].mean() for values in (load(image), corrected)]
    assert spread[1] < spread[0] / 2
    np.testing.assert_allclose(corrected * load(files.field), load(image), rtol=1e-3, atol=1e-3)
    assert not brain[~inside].any()
    np.testing.assert_array_equal(brain[inside], corrected[inside])


def test_mask_of_another_grid_is_refused(tmp_path, head_file):
    mask = save(tmp_path / "m.nii.gz", np.ones((20, 20, 20), np.uint8), head_affine())
    with pytest.raises(InputError, match=r"mask m\.nii\.gz is empty, or not on the grid of head_T1w"):
        correct_bias_file(head_file, mask, tmp_path)


def test_full_disk_is_named(tmp_path, head_file, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("brainchop_pipe.step_files.write_whole", full)
    with pytest.raises(OutputError, match=r"c\.nii cannot be written \(No space left.*free space"):
        conform_file(head_file, tmp_path / "c.nii")


def test_given_mask_takes_the_place_of_the_models(tmp_path, head_file, cards):
    inside = head_voxels() >= 500
    inside[:22] = False  # the left half is missing, which no model would say
    mask = save(tmp_path / "mine.nii.gz", inside.astype(np.uint8), head_affine())
    conformed = conform_file(head_file, tmp_path / "c.nii")
    brain = extract_brain_file(conformed, tmp_path, given_mask=mask)
    files = segment_tissues_file(
        conformed, head_file, tmp_path / "t", **brain._asdict(), tissue_model=cards.tissue
    )
    record = StepRecord.model_validate_json(files.record.read_text())
    np.testing.assert_array_equal(load(files.mask), inside)
    assert record.brain.mask_model is None
    assert record.brain.mask_sha256 == sha256_of_file(mask)


def test_empty_mask_is_refused(tmp_path, head_file):
    mask = save(tmp_path / "mine.nii.gz", np.zeros((20, 20, 20), np.uint8), head_affine())
    conformed = conform_file(head_file, tmp_path / "c.nii")
    with pytest.raises(InputError, match="mask that was given has no voxel in the image's place"):
        extract_brain_file(conformed, tmp_path, given_mask=mask)


def test_brain_files_of_others_are_refused(tmp_path, head_file, cards):
    conformed = conform_file(head_file, tmp_path / "c.nii")
    with pytest.raises(InputError, match="does not say how it was made"):
        segment_tissues_file(
            conformed, head_file, tmp_path, mask=conformed, brain=conformed, tissue_model=cards.tissue
        )


def test_brain_must_be_given_to_models_that_want_it(tmp_path, head_file, cards):
    conformed = conform_file(head_file, tmp_path / "c.nii")
    with pytest.raises(UsageError, match=r"is to see the brain alone.*give the mask and the brain"):
        segment_labels_file(conformed, head_file, tmp_path, model=cards.regions, prepare="mask")
