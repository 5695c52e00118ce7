import json

import nibabel as nib
import numpy as np
import pytest

from brainchop_pipe.core.grid import Grid, is_conformed
from brainchop_pipe.core.tissue import TissueMaps
from brainchop_pipe.errors import InputError
from brainchop_pipe.settings import Processing
from brainchop_pipe.steps import (
    check_tissue_share,
    conform_file,
    infer_file,
    post_filter_file,
    prepare,
    restore_file,
    run_model,
    tissue_probabilities,
    wants_brain,
)
from brainchop_pipe.zoo.catalog import find_model
from conftest import head_affine, head_voxels, make_card, save


def run(prepared, card, **kwargs):
    model = find_model(card)
    content = (model.folder / model.card.weights.files[0].path).read_bytes()
    return run_model(prepared, model, content, Processing(), **kwargs)


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
    prediction = run(prepare(head_file), cards.regions)
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


def test_image_in_which_a_model_finds_nothing_is_refused(tmp_path, cards):
    dim = head_voxels() * 0 + np.arange(44).reshape(-1, 1, 1).astype(np.int16) % 2
    prepared = prepare(save(tmp_path / "a.nii.gz", dim, head_affine()))
    card = make_card(
        tmp_path / "blind",
        "mask",
        name="blind",
        input={"intensity": {"method": "quantile", "low": 0.9, "high": 1}},
    )
    prepared.conformed.volume.voxels[:] = 3
    with pytest.raises(InputError, match="finds nothing in this image"):
        run(prepared, str(card))


def test_errors_of_the_conform_name_the_file(tmp_path):
    voxels = np.ones((120, 120, 120), np.float32)
    voxels[61, 61, 61], voxels[:20] = 1e9, 0
    path = save(tmp_path / "spike.nii.gz", voxels, np.diag([0.5, 0.5, 0.5, 1]))
    with pytest.raises(InputError, match=r"spike\.nii\.gz: every voxel is 0"):
        prepare(path)


def test_brain_alone_is_shown_to_models_that_ask_for_it(tmp_path, head_file, cards):
    changed_input = {"intensity": {"method": "minmax"}, "prepare": "brain"}
    wanting = str(make_card(tmp_path / "w", "regions", input=changed_input))
    prepared = prepare(head_file)
    mask = run(prepared, cards.mask)
    everything, brain = run(prepared, wanting), run(prepared, wanting, mask=mask)
    assert not brain.labels.voxels[mask.labels.voxels == 0].any()
    assert (brain.labels.voxels == 2).sum() == pytest.approx((everything.labels.voxels == 2).sum(), rel=0.1)
    assert not wants_brain(find_model(wanting), Processing(prepare="none"))
    assert not wants_brain(find_model(cards.regions), Processing())


def test_csf_is_what_is_brain_but_no_tissue(head_file, cards):
    prepared = prepare(head_file)
    mask, tissue = run(prepared, cards.mask), run(prepared, cards.tissue)
    probabilities = tissue_probabilities(mask, tissue, find_model(cards.tissue).card)
    brain, gm, wm, csf = (p.voxels for p in probabilities)
    np.testing.assert_allclose(csf, brain * (1 - gm - wm), atol=1e-5)


def test_csf_class_of_a_tissue_model_counts_as_csf(tmp_path, head_file, cards):
    card = json.loads(make_card(tmp_path / "c", "tissue").read_text())
    card["output"]["labels"][2]["tissue"] = "CSF"
    card["output"]["labels"][0]["tissue"] = "GM"
    own_csf = make_card(tmp_path / "c", "tissue", output=card["output"])
    prepared = prepare(head_file)
    mask, tissue = run(prepared, cards.mask), run(prepared, str(own_csf))
    _, gm, _, csf = tissue_probabilities(mask, tissue, find_model(str(own_csf)).card)
    grey = tissue.labels.voxels == 2
    assert csf.voxels[grey].min() > 0.4
    assert gm.voxels[grey].max() < 0.5


@pytest.mark.parametrize(("share", "notes"), [(0.8, 0), (0.55, 1)])
def test_low_share_of_tissue_is_noted(share, notes):
    assert len(check_tissue_share(maps_with(share), "m")) == notes


def test_failed_tissue_model_is_refused():
    with pytest.raises(InputError, match="m finds grey or white matter in only 10% of the brain mask"):
        check_tissue_share(maps_with(0.1), "m")


def maps_with(share: float) -> TissueMaps:
    labels = np.full((100, 1, 1), 3, np.uint8)
    labels[: round(100 * share)] = 1
    return TissueMaps(labels > 0, labels, np.zeros((3, 100, 1, 1), np.float32))
