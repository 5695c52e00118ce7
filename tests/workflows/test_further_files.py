"""Masks of others and further contrasts: found, used, recorded, and part of what an output is made of."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from brainchop_pipe.workflows.bids_app import run_participants
from brainchop_pipe.workflows.further_files import find_contrasts

from brainchop_pipe.errors import UsageError
from brainchop_pipe.settings import Processing, Query, Settings
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.zoo.catalog import find_models
from conftest import head_affine, head_voxels, make_card, save

ONE = "sub-01/anat/sub-01_T1w.nii.gz"


@pytest.fixture
def settings(tmp_path, dataset, cards) -> Settings:
    return Settings(
        tmp_path / "out",
        Processing(models=(cards.mask, cards.tissue)),
        Query(participant_labels=("01",)),
        bids_dir=dataset,
        skip_bids_validation=True,
        nprocs=1,
    )


def half_a_brain() -> np.ndarray:
    inside = head_voxels() >= 500
    inside[:22] = False
    return inside.astype(np.uint8)


def run(settings, **processing):
    from dataclasses import replace

    settings = replace(settings, processing=replace(settings.processing, **processing))
    return run_participants(settings, lambda *_: None)


def sidecar(settings, name) -> dict:
    return json.loads((settings.output_dir / "sub-01" / "anat" / f"sub-01_{name}.json").read_text())


def test_mask_that_was_given_is_used_and_recorded(tmp_path, settings):
    mask = save(tmp_path / "mine.nii.gz", half_a_brain(), head_affine())
    outcomes = run(settings, mask=mask)
    assert {o.status for o in outcomes} == {"done"}
    written = nib.load(settings.output_dir / "sub-01/anat/sub-01_desc-brain_mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), half_a_brain())
    provenance = sidecar(settings, "dseg")["Provenance"]
    assert provenance["GivenMask"] == {"SHA256": sha256_of_file(mask)}
    assert [model["Name"] for model in provenance["Models"]] == ["made_tissue"]


def test_edited_mask_has_the_image_done_again(tmp_path, settings):
    mask = save(tmp_path / "mine.nii.gz", half_a_brain(), head_affine())
    run(settings, mask=mask)
    assert {o.status for o in run(settings, mask=mask)} == {"complete"}
    save(mask, (head_voxels() >= 500).astype(np.uint8), head_affine())
    assert {o.status for o in run(settings, mask=mask)} == {"done"}


def test_masks_are_found_in_other_derivatives(tmp_path, settings):
    from dataclasses import replace

    folder = tmp_path / "others"
    save(folder / "sub-01/anat/sub-01_desc-brain_mask.nii.gz", half_a_brain(), head_affine())
    settings = replace(settings, derivatives=(("others", folder),), query=Query())
    outcomes = run(settings)
    assert {o.status for o in outcomes if o.source.participant == "sub-01"} == {"done"}
    lacking = next(o for o in outcomes if o.source.participant == "sub-03" and o.status == "failed")
    assert "there is no brain mask sub-03/anat/sub-03_desc-brain_mask.nii.gz in others" in lacking.reason


def test_one_mask_is_not_for_several_images(tmp_path, settings):
    from dataclasses import replace

    with pytest.raises(UsageError, match="--mask is the mask of one image; there are"):
        run(replace(settings, query=Query()), mask=tmp_path / "mine.nii.gz")


@pytest.fixture
def two_channels(tmp_path) -> str:
    """A model that says 1 where its second channel, a FLAIR, is bright."""
    from brainchop_pipe.storage import sha256_of_bytes
    from networks import brightness_of_channel

    content = brightness_of_channel(1, 2)
    given = {"intensity": {"method": "minmax"}, "contrasts": ["T1w", "FLAIR"]}
    card = make_card(tmp_path / "two", "mask", name="two", bids_label="two", modalities=["T1w"], input=given)
    text = json.loads(card.read_text())
    text["weights"]["onnx_sha256"] = text["weights"]["files"][0]["sha256"] = sha256_of_bytes(content)
    text["output"]["includes_csf"] = False
    card.write_text(json.dumps(text))
    (card.parent / "mask.onnx").write_bytes(content)
    return str(card)


def test_further_contrast_is_found_beside_the_image_and_recorded(dataset, settings, two_channels):
    flair = save(dataset / ONE.replace("T1w", "FLAIR"), head_voxels()[::-1].copy(), head_affine())
    outcomes = run(settings, models=(two_channels,))
    assert [o.source.suffix for o in outcomes if o.status == "done"] == ["T1w"]
    found = np.asarray(
        nib.load(settings.output_dir / "sub-01/anat/sub-01_seg-two_desc-brain_dseg.nii.gz").dataobj
    )
    bright = head_voxels()[::-1] > 500
    assert (found[bright] == 1).mean() > 0.9
    assert not found[(head_voxels() > 500) & (head_voxels()[::-1] <= 100)].any()
    record = sidecar(settings, "seg-two_desc-brain_dseg")["Provenance"]["Contrasts"]
    assert record == {"FLAIR": {"SHA256": sha256_of_file(flair)}}


def test_missing_contrast_is_named(settings, two_channels):
    (outcome,) = run(settings, models=(two_channels,))
    assert outcome.status == "failed"
    assert "needs FLAIR of sub-01_T1w.nii.gz as well" in outcome.reason


def test_contrasts_are_those_that_models_want(tmp_path, two_channels, cards):
    image = save(tmp_path / "sub-1_T1w.nii.gz", head_voxels(), head_affine())
    assert find_contrasts(image, find_models((two_channels,))) == {}
    flair = save(tmp_path / "sub-1_FLAIR.nii", head_voxels(), head_affine())
    assert find_contrasts(image, find_models((two_channels, cards.tissue))) == {"FLAIR": flair}
    assert find_contrasts(image, find_models((cards.tissue,))) == {}
    assert find_contrasts(Path("orig.mgz"), find_models((two_channels,))) == {}


def test_what_models_saw_of_the_brain_is_kept_on_request(settings, cards):
    from dataclasses import replace

    file = settings.output_dir / "sub-01/anat/sub-01_res-1mm_desc-biascorr_T1w.nii.gz"
    run(settings)
    assert not file.exists()
    outcomes = run(replace(settings, extras=("prepared",)))
    assert {o.status for o in outcomes} == {"done"}
    image = nib.load(file)
    assert image.header.get_zooms() == (1, 1, 1)
    assert sidecar(settings, "res-1mm_desc-biascorr_T1w")["SkullStripped"] is True
    assert {o.status for o in run(replace(settings, extras=("prepared",)))} == {"complete"}
