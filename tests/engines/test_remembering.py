"""What leads to a new result in both engines, and what does not."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from nipype.pipeline import engine as pe
from pydra.engine.submitter import Submitter

from brainchop_pipe import file_steps, segment_files
from brainchop_pipe.engines import nipype_interfaces, pydra_tasks
from brainchop_pipe.errors import UsageError
from brainchop_pipe.zoo.plan import plan_names
from conftest import head_affine, head_voxels, make_card, save


@pytest.fixture(autouse=True)
def _hash_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path / "hashes"))


@pytest.fixture
def runs(monkeypatch) -> list[str]:
    """One entry for each time that the model was run."""
    seen: list[str] = []
    original = segment_files.segment_labels

    def counted(*args, **kwargs):
        seen.append("run")
        return original(*args, **kwargs)

    monkeypatch.setattr(segment_files, "segment_labels", counted)
    return seen


@pytest.fixture(params=["pydra", "nipype"])
def segment(request, tmp_path) -> Callable[..., Path]:
    """Run SegmentLabels in an engine that remembers; gives the label map."""

    def with_pydra(**given):
        return Path(pydra_tasks.SegmentLabels(**given)(cache_root=tmp_path / "cache").labels)

    def with_nipype(**given):
        node = pe.Node(nipype_interfaces.SegmentLabels(**given), name="node", base_dir=tmp_path / "work")
        return Path(node.run().outputs.labels)

    return with_pydra if request.param == "pydra" else with_nipype


@pytest.fixture
def given(tmp_path, head_file, cards) -> dict[str, object]:
    conformed = file_steps.conform_file(head_file, tmp_path / "conformed.nii")
    return {"in_file": conformed, "reference": head_file, "model": cards.regions}


def edit_image(given, tmp_path):
    save(given["reference"], head_voxels()[::-1].copy(), head_affine())


def edit_conformed(given, tmp_path):
    other = save(tmp_path / "other.nii.gz", head_voxels()[::-1].copy(), head_affine())
    file_steps.conform_file(other, given["in_file"])


def change_parameter(given, tmp_path):
    given["orientation"] = "native"


def change_model(given, tmp_path):
    card = json.loads(Path(given["model"]).read_text())
    card["post_filter"] = {"largest_component": False}
    Path(given["model"]).write_text(json.dumps(card))


def change_weights(given, tmp_path):
    make_card(Path(given["model"]).parent, "regions", bids_label="maderegions2")


def change_version(given, tmp_path):
    given["version"] = "another"


@pytest.mark.parametrize(
    "change",
    [edit_image, edit_conformed, change_parameter, change_model, change_weights, change_version],
)
def test_change_leads_to_a_new_result(segment, given, tmp_path, runs, change):
    segment(**given)
    change(given, tmp_path)
    segment(**given)
    assert len(runs) == 2


def touch_nothing(given, tmp_path):
    pass


def change_resources(given, tmp_path):
    given |= {"threads": 2, "device": "cpu", "mem_gb": 100.0}


def name_the_card_otherwise(given, tmp_path):
    os.chdir(Path(given["model"]).parent)
    given["model"] = Path(given["model"]).name


@pytest.mark.parametrize("change", [touch_nothing, change_resources, name_the_card_otherwise])
def test_nothing_else_does(segment, given, tmp_path, runs, change, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = segment(**given)
    change(given, tmp_path)
    assert segment(**given) == first
    assert len(runs) == 1


def test_copy_of_an_image_is_the_same_image_to_pydra(given, tmp_path, runs):
    pydra_tasks.SegmentLabels(**given)(cache_root=tmp_path / "cache")
    copy = tmp_path / "elsewhere" / given["reference"].name
    copy.parent.mkdir()
    shutil.copy(given["reference"], copy)
    pydra_tasks.SegmentLabels(**{**given, "reference": copy})(cache_root=tmp_path / "cache")
    assert len(runs) == 1


def test_workflow_conforms_once_and_runs_all_models(head_file, cards, tmp_path):
    task = pydra_tasks.Segment(in_file=head_file, models=[cards.mask, cards.tissue, cards.regions])
    outputs = task(cache_root=tmp_path / "cache")
    maps = (outputs.mask, outputs.dseg, outputs.gm, outputs.wm, outputs.csf, *outputs.labels)
    assert [Path(m).name for m in maps] == [
        *("mask.nii.gz", "dseg.nii.gz", "GM.nii.gz", "WM.nii.gz", "CSF.nii.gz", "seg-maderegions.nii.gz")
    ]
    assert len(list((tmp_path / "cache").glob("*/conformed.nii"))) == 1


def test_another_model_leaves_the_conform_as_it_is(head_file, cards, tmp_path):
    for models in ([cards.regions], [cards.mask, cards.regions]):
        outputs = pydra_tasks.Segment(in_file=head_file, models=models)(cache_root=tmp_path / "cache")
    assert [Path(m).name for m in outputs.labels] == ["seg-mademask.nii.gz", "seg-maderegions.nii.gz"]
    assert outputs.mask is None
    assert len(list((tmp_path / "cache").glob("*/conformed.nii"))) == 1


def test_workflow_is_split_over_images(head_file, cards, tmp_path):
    other = save(tmp_path / "other_T1w.nii", head_voxels()[::-1].copy(), head_affine())
    task = pydra_tasks.Segment(models=[cards.regions]).split(in_file=[head_file, other]).combine("in_file")
    with Submitter(worker="cf", n_procs=2, cache_root=tmp_path / "cache") as submit:
        outputs = submit(task).outputs
    assert len(outputs.labels) == 2
    assert len({Path(files[0]).read_bytes() for files in outputs.labels}) == 2


def test_tasks_are_found_where_users_of_pydra_look():
    from pydra.tasks import brainchop

    assert brainchop.Segment is pydra_tasks.Segment
    assert {name for name in brainchop.__all__} >= {"Conform", "Infer", "PostFilter", "Restore", "Segment"}


@pytest.mark.parametrize("kind", [tuple, list, lambda names: [Path(name) for name in names]])
def test_models_are_remembered_by_their_cards_however_they_are_named(
    given, tmp_path, runs, kind, monkeypatch
):
    monkeypatch.chdir(Path(given["model"]).parent)
    for _ in range(2):
        task = pydra_tasks.Segment(in_file=given["reference"], models=kind(["regions.json"]))
        task(cache_root=tmp_path / "cache")
        change_model(given, tmp_path)
    assert len(runs) == 2


def test_task_is_split_over_models(given, cards, tmp_path, monkeypatch):
    monkeypatch.chdir(Path(cards.mask).parent)
    del given["model"]
    task = pydra_tasks.SegmentLabels(**given).split(model=["mask.json", "regions.json"]).combine("model")
    outputs = task(cache_root=tmp_path / "cache")
    assert [Path(p).name for p in outputs.labels] == ["seg-mademask.nii.gz", "seg-maderegions.nii.gz"]


def test_node_is_mapped_over_models(given, cards, tmp_path):
    del given["model"]
    interface = nipype_interfaces.SegmentLabels(**given)
    node = pe.MapNode(interface, iterfield=["model"], name="node", base_dir=tmp_path / "work")
    node.inputs.model = [cards.mask, cards.regions]
    assert len(node.run().outputs.labels) == 2


@pytest.mark.parametrize("name", ["typo", "made_mask"])
def test_model_that_cannot_own_the_tissue_maps_is_refused(head_file, cards, tmp_path, name):
    task = pydra_tasks.Segment(in_file=head_file, models=[cards.mask, cards.tissue], tissue_model=name)
    with pytest.raises(UsageError, match="cannot own the tissue maps"):
        task(cache_root=tmp_path / "cache")


def test_owner_of_the_tissue_maps_may_be_named_by_its_card(cards):
    names = [cards.tissue, cards.mask, cards.regions]
    plan = plan_names(names, cards.tissue, "auto")
    assert tuple(m.asked_as for m in plan.pair) == (cards.mask, cards.tissue)
    assert tuple(m.asked_as for m in plan.singles) == (cards.regions,)
