import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from brainchop_pipe.brain import box_of_brain
from brainchop_pipe.brain_steps import find_brain
from brainchop_pipe.core.grid import part_of_volume
from brainchop_pipe.core.metrics import dice
from brainchop_pipe.core.tissue import TissueMaps
from brainchop_pipe.errors import InputError, UsageError
from brainchop_pipe.inference.card_input import NoScaling
from brainchop_pipe.preparation import what_model_sees
from brainchop_pipe.record import EVEN_HEAD, Clock
from brainchop_pipe.settings import Processing
from brainchop_pipe.steps import (
    check_tissue_share,
    conform_image,
    load_model,
    on_models_grid,
    run_model,
    segment_brain_and_tissues,
    segment_labels,
    segment_tissues,
    tissue_probabilities,
)
from brainchop_pipe.zoo.catalog import Model, find_model, shipped_models
from brainchop_pipe.zoo.plan import plan_names, preparing_of
from conftest import MADE_INPUT, head_affine, head_voxels, make_card, save

WANTS_BRAIN = {**MADE_INPUT, "prepare": "brain"}


def run(prepared, card, brain=None, **processing):
    heads, ready = (prepared.conformed.volume,), load_model(card)
    return run_model(heads, ready, Processing(**processing), brain, Clock(), with_probabilities=True)[0]


def brain_of(prepared, card, *, correct=True, telling=None, **processing):
    ready, model = load_model(card), telling and find_model(telling)
    volume, processing = prepared.conformed.volume, Processing(**processing)
    return find_brain(volume, ready, processing, correct=correct, contrast_model=model)


def dim_on_the_left(folder):
    """Give the made head, half as bright on its one side as on the other."""
    field = np.broadcast_to(np.linspace(0.5, 1.0, 44).reshape(-1, 1, 1), (44, 52, 46))
    return conform_image(
        save(folder / "dim.nii.gz", (head_voxels() * field).astype(np.float32), head_affine())
    )


def test_image_in_which_a_model_finds_nothing_is_refused(tmp_path, cards):
    dim = head_voxels() * 0 + np.arange(44).reshape(-1, 1, 1).astype(np.int16) % 2
    prepared = conform_image(save(tmp_path / "a.nii.gz", dim, head_affine()))
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
        conform_image(path)


def test_brain_alone_is_shown_evenly_lit_and_in_its_own_scale(tmp_path, cards):
    """White matter is 1 whatever the gain and the field of the coil; outside of the mask is nothing."""
    prepared = dim_on_the_left(tmp_path)
    volume, brain = prepared.conformed.volume, brain_of(prepared, cards.mask)
    card = find_model(cards.regions).card
    scaled = what_model_sees((volume,), card, "brain", brain, full_volume=True).view.channels[0]
    assert not scaled[~brain.inside].any()
    core = ndimage.binary_erosion(volume.voxels > 0, iterations=62) & brain.inside
    assert core.sum() > 1000
    assert np.median(scaled[core]) == pytest.approx(1, abs=0.05)
    assert scaled.max() <= 1


def test_mask_model_sees_the_head_evenly_lit_where_its_card_asks_for_that(tmp_path, cards):
    """Its record, and that of who uses its mask, say so; the run's word overrides the card's."""
    prepared = dim_on_the_left(tmp_path)
    wanting = str(make_card(tmp_path / "w", "both", input={**MADE_INPUT, "prepare": "head"}))
    even, plain = brain_of(prepared, wanting), brain_of(prepared, wanting, prepare="none")
    assert (even.record.mask_run.preparation, plain.record.mask_run.preparation) == (EVEN_HEAD, "")
    asked = brain_of(prepared, cards.both, prepare="head")
    np.testing.assert_array_equal(asked.inside, even.inside)
    expected = brain_of(conform_image(save(tmp_path / "a.nii.gz", head_voxels(), head_affine())), cards.both)
    assert dice(even.inside, expected.inside) > dice(plain.inside, expected.inside) + 0.01
    volume = prepared.conformed.volume
    both = segment_brain_and_tissues(volume, volume, volume.grid, load_model(wanting), Processing())
    assert both.record.preparation == EVEN_HEAD


@pytest.mark.parametrize("way", ["brain", "mask"])
def test_model_sees_the_brain_in_place_of_the_head(head_file, cards, way):
    prepared = conform_image(head_file)
    brain = brain_of(prepared, cards.mask, correct=way == "brain")
    everything = run(prepared, cards.regions)
    alone = run(prepared, cards.regions, brain=brain, prepare=way)
    assert not alone.labels.voxels[~brain.inside].any()
    assert (alone.labels.voxels == 2).sum() == pytest.approx((everything.labels.voxels == 2).sum(), rel=0.1)


def tissues_of_the_whole_head(conformed, card, brain, note):
    models = load_model(str(card)), Processing()
    result = segment_tissues((conformed,), conformed.grid, *models, brain)
    plain = segment_tissues((conformed,), conformed.grid, models[0], Processing(prepare="none"), brain)
    assert any(note in text for text in result.record.notes)
    assert result.record.preparation == ""
    np.testing.assert_array_equal(result.maps["dseg"], plain.maps["dseg"])


def test_brain_without_white_matter_is_shown_as_it_is(head_file, cards, monkeypatch):
    monkeypatch.setattr("brainchop_pipe.brain.white_matter_level", lambda _: None)
    prepared = conform_image(head_file)
    wanting = make_card(Path(cards.tissue).parent, "tissue", input=WANTS_BRAIN)
    brain = brain_of(prepared, cards.mask)
    tissues_of_the_whole_head(prepared.conformed.volume, wanting, brain, "white matter makes no peak")


WANTS_CONTRAST = {**WANTS_BRAIN, "contrast": {"csf": 0.2, "grey_matter": 0.5, "sharpness": 0.9}}


def shown_to(card, prepared, brain):
    volume = prepared.conformed.volume
    return what_model_sees((volume,), find_model(str(card)).card, "brain", brain, full_volume=True)


def test_brain_is_shown_at_the_levels_of_the_card(head_file, cards, tmp_path):
    """The made head has fluid of 0.12, grey matter of 0.5 and white matter of 1, by white matter's level."""
    prepared = conform_image(head_file)
    wanting = make_card(tmp_path / "w", "tissue", input=WANTS_CONTRAST)
    brain = brain_of(prepared, cards.both, telling=cards.both)
    found = brain.record.contrast.as_it_is
    seen = shown_to(wanting, prepared, brain)
    levels = seen.view.channels[0]
    labels = run(prepared, cards.both).labels.voxels
    for label, level in ((1, 1.0), (2, 0.5), (3, 0.2)):
        assert np.median(levels[(labels == label) & brain.inside]) == pytest.approx(level, abs=0.02)
    assert brain.record.contrast_origin == "labels of made_both 1"
    assert f"grey levels {found.csf:.1f}, {found.grey_matter:.1f} and {found.white_matter:.1f}" in (
        seen.shown.preparation
    )
    assert not seen.shown.notes
    assert brain.record.contrast_run is None


def test_tissues_are_told_apart_by_another_model_where_the_mask_model_does_not(head_file, cards):
    prepared = conform_image(head_file)
    plain = brain_of(prepared, cards.mask, telling=cards.both, correct=False).record
    assert (plain.contrast, plain.contrast_run) == (None, None)
    record = brain_of(prepared, cards.mask, telling=cards.both).record
    assert (record.mask_model, record.contrast_run.model) == ("made_mask", "made_both")
    assert record.contrast_origin == "labels of made_both 1"
    assert "infer made_both" in record.seconds
    own = brain_of(prepared, cards.both, telling=cards.both).record.contrast.as_it_is
    assert record.contrast.as_it_is.white_matter == pytest.approx(own.white_matter, rel=0.05)


def test_own_labels_of_a_mask_model_are_those_of_its_card_not_of_its_name(head_file, cards, tmp_path):
    """A user's card may be called like one of the package's."""
    namesake = make_card(tmp_path / "n", "mask", name="made_both")
    record = brain_of(conform_image(head_file), str(namesake), telling=cards.both).record
    assert record.contrast is not None
    assert record.contrast_run is not None


def test_white_matter_alone_is_scaled_where_tissues_cannot_be_told_apart(
    head_file, cards, tmp_path, monkeypatch
):
    prepared = conform_image(head_file)
    find = run_model

    def fails(heads, ready, *others, **more):
        if ready.card.name == "made_both":
            raise InputError("finds nothing")
        return find(heads, ready, *others, **more)

    monkeypatch.setattr("brainchop_pipe.brain_steps.run_model", fails)
    brain = brain_of(prepared, cards.mask, telling=cards.both)
    assert (brain.record.contrast, brain.record.contrast_origin) == (None, "")
    assert brain.record.contrast_run is None
    plain = shown_to(make_card(tmp_path / "p", "tissue", input=WANTS_BRAIN), prepared, brain)
    seen = shown_to(make_card(tmp_path / "w", "tissue", input=WANTS_CONTRAST), prepared, brain)
    np.testing.assert_array_equal(seen.view.channels, plain.view.channels)
    assert "white matter alone was brought to its level" in seen.shown.notes[0]
    assert not plain.shown.notes


def test_head_is_shown_whole_where_the_mask_cannot_be_a_brain(head_file, cards, monkeypatch):
    monkeypatch.setattr("brainchop_pipe.brain.is_plausible_brain", lambda _: False)
    prepared = conform_image(head_file)
    wanting = make_card(Path(cards.tissue).parent, "tissue", input=WANTS_BRAIN)
    brain = brain_of(prepared, cards.mask)
    assert not brain.record.usable
    tissues_of_the_whole_head(prepared.conformed.volume, wanting, brain, "the brain mask looks wrong")


def test_mask_that_the_field_of_view_cuts_is_doubted(tmp_path, cards):
    """Where a fifth of the surface lies on the border, it is no brain that was cut, but a wrong mask."""
    voxels = head_voxels()[:, :, 16:30]
    prepared = conform_image(save(tmp_path / "slab.nii.gz", voxels, head_affine()))
    record = brain_of(prepared, cards.mask).record
    assert not record.usable
    assert "of its surface on the border of the field of view" in record.notes[0]


def test_mask_and_tissue_models_may_have_grids_of_their_own(tmp_path, head_file, cards):
    """BrainMaGe's: a mask on 128 voxels of 2 mm; and a tissue model on yet another grid."""
    own = {"shape": [128, 128, 128], "spacing_mm": [2, 2, 2], "orientation": "RAS"}
    other = {"shape": [150, 160, 170], "spacing_mm": [1.5, 1.5, 1.5], "orientation": "LPS"}
    scaling = {"intensity": {"method": "minmax"}}
    mask = make_card(tmp_path / "m", "mask", input={**scaling, "grid": own})
    tissue = make_card(tmp_path / "t", "tissue", input={**scaling, "grid": other})
    conformed = conform_image(head_file).conformed.volume
    brain = brain_of(conform_image(head_file), str(mask), correct=False)
    expected = brain_of(conform_image(head_file), cards.mask, correct=False)
    assert brain.probability.grid.matches(conformed.grid)
    assert dice(brain.inside, expected.inside) > 0.98
    ready = load_model(str(tissue))
    heads = (on_models_grid(ready.card.input.grid, conformed, conform_image(head_file).image.volume),)
    found = segment_tissues(heads, conformed.grid, ready, Processing(), brain).maps["dseg"]
    usual = load_model(cards.tissue), Processing(), expected
    wanted = segment_tissues((conformed,), conformed.grid, *usual).maps["dseg"]
    assert min(dice(found == n, wanted == n) for n in (1, 2)) > 0.97


def test_mask_model_that_found_the_brain_is_not_run_again(head_file, cards, monkeypatch):
    prepared = conform_image(head_file)
    volume, brain = prepared.conformed.volume, brain_of(prepared, cards.mask)
    expected = run(prepared, cards.mask).labels.voxels
    monkeypatch.setattr("brainchop_pipe.steps.run_model", None)
    result = segment_labels((volume,), volume.grid, load_model(cards.mask), Processing(), brain)
    np.testing.assert_array_equal(result.maps["labels"], expected)
    assert result.record.model == "made_mask"


def test_preparation_is_for_models_that_ask_for_it(cards, tmp_path):
    wanting = find_model(str(make_card(tmp_path / "w", "regions", input=WANTS_BRAIN))).card
    assert preparing_of(wanting, "auto") == "brain"
    assert preparing_of(wanting, "none") == "none"
    fast = shipped_models()["tissue_fast"].card
    assert (preparing_of(fast, "auto"), preparing_of(fast, "auto", in_pair=True)) == ("none", "brain")
    levels = wanting.model_copy(
        update={
            "input": wanting.input.model_copy(
                update={"prepare": "none", "intensity": NoScaling(method="none")}
            )
        }
    )
    assert preparing_of(levels, "brain") == "mask"
    assert preparing_of(find_model(cards.regions).card, "mask") == "mask"
    assert preparing_of(find_model(cards.mask).card, "brain") == "none"
    default = shipped_models()["brainchop_any"].card
    ways = [preparing_of(default, way) for way in ("auto", "none", "head", "mask", "brain")]
    assert ways == ["head", "none", "head", "head", "head"]


def test_brain_is_looked_for_where_somebody_wants_it(cards, tmp_path):
    wanting = str(make_card(tmp_path / "w", "regions", name="w", bids_label="w", input=WANTS_BRAIN))
    assert plan_names([cards.regions], None, "auto").mask_model is None
    assert plan_names([cards.regions], None, "head").mask_model is None
    assert asked(plan_names([cards.regions], None, "mask").mask_model) == ["brainchop_any"]
    given = plan_names([cards.mask, cards.regions], None, "mask", "mindgrab")
    assert asked(given.mask_model, *given.with_brain) == ["mindgrab", cards.regions]
    with pytest.raises(UsageError, match="'tissue' cannot find the brain for others"):
        plan_names([cards.regions], None, "mask", "tissue")
    plan = plan_names([cards.regions, wanting, cards.mask], None, "auto")
    assert asked(plan.mask_model, *plan.with_brain) == [cards.mask, wanting, cards.mask]
    assert plan.correct


def test_tissue_model_that_finds_the_brain_makes_the_tissue_maps_alone(cards):
    plan = plan_names([cards.both, cards.regions], None, "mask")
    assert asked(*plan.pair, plan.mask_model, *plan.singles) == [*[cards.both] * 3, cards.regions]
    other = plan_names([cards.both, cards.tissue], "made_tissue", "auto")
    assert asked(*other.pair) == [cards.both, cards.tissue]


def test_mask_of_a_tissue_model_is_all_that_is_not_background(head_file, cards):
    prepared = conform_image(head_file)
    labels, brain = run(prepared, cards.both).labels.voxels, brain_of(prepared, cards.both, correct=False)
    assert len(np.unique(labels)) == 4
    # Where no label has half of the probability the brain may still have it.
    assert dice(brain.inside, labels > 0) > 0.98
    assert not (labels[~brain.inside] > 0).any()


def test_label_map_of_a_model_that_found_the_brain_has_its_tissues(head_file, cards):
    conformed, brain = (
        conform_image(head_file).conformed.volume,
        brain_of(conform_image(head_file), cards.both),
    )
    result = segment_labels((conformed,), conformed.grid, load_model(cards.both), Processing(), brain)
    assert set(np.unique(result.maps["labels"])) == {0, 1, 2, 3}


def asked(*models: Model) -> list[str]:
    """Give the names by which models were asked for."""
    return [model.asked_as for model in models]


def test_csf_is_what_is_brain_but_no_tissue(head_file, cards):
    prepared = conform_image(head_file)
    mask, tissue = run(prepared, cards.mask), run(prepared, cards.tissue)
    probabilities = tissue_probabilities(mask.probability(1), tissue, find_model(cards.tissue).card)
    brain, gm, wm, csf = (p.voxels for p in probabilities)
    np.testing.assert_allclose(csf, brain * (1 - gm - wm), atol=1e-5)


def test_csf_class_of_a_tissue_model_counts_as_csf(tmp_path, head_file, cards):
    card = json.loads(make_card(tmp_path / "c", "tissue").read_text())
    card["output"]["labels"][2]["tissue"] = "CSF"
    card["output"]["labels"][0]["tissue"] = "GM"
    own_csf = make_card(tmp_path / "c", "tissue", output=card["output"])
    prepared = conform_image(head_file)
    mask, tissue = run(prepared, cards.mask), run(prepared, str(own_csf))
    _, gm, _, csf = tissue_probabilities(mask.probability(1), tissue, find_model(str(own_csf)).card)
    grey = part_of_volume(tissue.labels, box_of_brain(mask.probability(1))).voxels == 2
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
