import json

import numpy as np
import pytest

from brainchop_pipe.core.tissue import TissueMaps
from brainchop_pipe.errors import InputError
from brainchop_pipe.file_steps import load_model
from brainchop_pipe.settings import Processing
from brainchop_pipe.steps import (
    check_tissue_share,
    prepare,
    run_model,
    tissue_probabilities,
    wants_brain,
)
from brainchop_pipe.zoo.catalog import find_model
from conftest import head_affine, head_voxels, make_card, save


def run(prepared, card, **kwargs):
    return run_model(prepared.conformed.volume, load_model(card), Processing(), **kwargs)


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
