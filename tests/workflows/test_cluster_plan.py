"""Who is not done, how participants are dealt, what a task asks for, what a manifest holds."""

from dataclasses import replace
from pathlib import Path

import pytest
from brainchop_pipe.workflows import cluster_needs, resources
from brainchop_pipe.workflows.bids_app import run_participants
from brainchop_pipe.workflows.cluster_manifest import read_manifest, read_slice, write_manifest
from brainchop_pipe.workflows.cluster_needs import task_needs
from brainchop_pipe.workflows.cluster_plan import Choices, count_tasks, deal, plan_jobs
from brainchop_pipe.workflows.cluster_task import run_slice
from brainchop_pipe.workflows.group_level import run_group
from brainchop_pipe.workflows.resources import model_need_gb, share_processors
from hypothesis import given
from hypothesis import strategies as st

from brainchop_pipe.bids import walk
from brainchop_pipe.errors import MissingInputError, UsageError
from brainchop_pipe.settings import Processing, Query, Settings
from brainchop_pipe.zoo.catalog import find_models

PUBLISHED = ("mindgrab", "tissue")


@pytest.fixture
def settings(dataset, tmp_path, cards) -> Settings:
    processing = Processing(models=(cards.regions,))
    return Settings(tmp_path / "out", processing, bids_dir=dataset, skip_bids_validation=True)


def run(settings: Settings, *labels: str) -> None:
    query = replace(settings.query, participant_labels=labels)
    run_participants(replace(settings, query=query), lambda *_: None)


def left(settings: Settings) -> list[str]:
    """Participants that a plan has."""
    return [label for labels in plan_jobs(settings, Choices(array_size=2)).slices for label in labels]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=60), st.integers(1, 80))
def test_every_participant_is_dealt_once_and_evenly(counts, tasks):
    images = {str(n): count for n, count in enumerate(counts)}
    slices = deal(images, tasks)
    assert [label for labels in slices for label in labels] == list(images)
    assert 1 <= len(slices) <= tasks
    assert all(slices)
    share = sum(counts) / tasks
    assert max(sum(images[label] for label in labels) for labels in slices) < share + max(counts)


def test_tasks_take_the_minutes_that_were_asked_for():
    assert count_tasks(images=1000, seconds_per_image=60, task_minutes=40) == 25
    assert count_tasks(images=1, seconds_per_image=1, task_minutes=40) == 1


def test_only_what_is_not_done_is_planned(settings):
    assert left(settings) == ["01", "02", "03"]
    run(settings, "01", "02")
    assert left(settings) == ["03"]
    (settings.output_dir / "sub-02.html").unlink()
    (settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz").touch()
    assert left(settings) == ["01", "02", "03"]
    assert left(replace(settings, force=True)) == ["01", "02", "03"]
    run(settings)
    plan = plan_jobs(settings, Choices())
    assert (plan.slices, plan.participants, plan.left) == ((), 3, 0)


def test_participants_without_an_image_for_the_models_are_not_planned(settings, dataset):
    save_t2w = dataset / "sub-04/anat/sub-04_T2w.nii.gz"
    save_t2w.parent.mkdir(parents=True)
    save_t2w.touch()
    plan = plan_jobs(settings, Choices())
    assert "04" not in [label for labels in plan.slices for label in labels]
    assert plan.participants == 3


def test_planner_and_group_level_write_what_stands_once_and_tasks_do_not(settings, dataset, tmp_path):
    plan_jobs(settings, Choices())
    root = {path.name for path in settings.output_dir.iterdir() if path.is_file()}
    assert root == {"dataset_description.json", "README.md", ".bidsignore", "morph.json"}
    other = replace(settings, output_dir=tmp_path / "other")
    write_manifest(tmp_path / "m.tsv", [["01"]])
    run_slice(other, tmp_path / "m.tsv", 0, lambda *_: None)
    assert {path.name for path in other.output_dir.iterdir() if path.is_file()} == {"sub-01.html"}
    assert not (other.output_dir / "logs" / "CITATION.md").exists()
    run_group(other.output_dir, dataset, other.query)
    assert root <= {path.name for path in other.output_dir.iterdir()}


def test_one_image_with_a_mask_is_no_work_for_a_cluster(settings, tmp_path):
    masked = replace(settings, processing=replace(settings.processing, mask=tmp_path / "m.nii.gz"))
    with pytest.raises(UsageError, match="--derivatives"):
        plan_jobs(masked, Choices())


def test_memory_and_time_come_from_the_cards(settings):
    published = replace(settings, processing=Processing(device="cpu", models=PUBLISHED))
    models = find_models(published.processing.models)
    one = task_needs(published, models, 2)
    assert one.memory_gb == pytest.approx(2.6 + 2.0 + 2.0 + 0.5)
    assert one.seconds_per_image == pytest.approx(20 + 42 + 12)
    four = task_needs(published, models, 16)
    assert four.memory_gb == pytest.approx(4 * 4.6 + 2.0 + 0.5)
    assert four.seconds_per_image == pytest.approx((20 + (42 + 12) / 2) / 4)
    whole = replace(published, processing=replace(published.processing, full_volume=True))
    assert task_needs(whole, models, 2).seconds_per_image == pytest.approx(20 + 42 + 19)
    assert task_needs(replace(published, mem_gb=3.0), models, 2).memory_mb == 3500
    assert one.minutes(30) == 2 * 37 + 15
    unknown = task_needs(settings, find_models(settings.processing.models), 2)
    assert unknown.seconds_per_image == 80


def test_tasks_get_the_memory_that_openvino_takes(settings, monkeypatch):
    published = replace(settings, processing=Processing(models=PUBLISHED))
    models = find_models(published.processing.models)
    monkeypatch.setattr(cluster_needs, "first_choice", lambda device: "openvino")
    needs = task_needs(published, models, 4)
    assert needs.memory_gb == pytest.approx(2.5 * 2.6 + 2.0 + 2.0 + 0.5)
    # What a task of that memory makes of it: one image ahead, and OpenVINO for every model.
    monkeypatch.setattr(resources, "available_memory_gb", lambda: needs.memory_gb - 0.5)
    share = share_processors(replace(published, nprocs=4), models, 2)
    assert share.ahead == 1
    assert share.mem_gb >= 2.5 * max(model_need_gb(model, full_volume=False) for model in models)


def test_slice_looks_at_its_own_participants_alone(settings, tmp_path, monkeypatch):
    manifest = tmp_path / "m.tsv"
    write_manifest(manifest, [["01"], ["03", "gone"]])
    looked_at = []
    entries = walk._entries
    monkeypatch.setattr(walk, "_entries", lambda folder: looked_at.append(folder) or entries(folder))
    outcomes = run_slice(settings, manifest, 1, lambda *_: None)
    assert {outcome.source.participant for outcome in outcomes} == {"sub-03"}
    assert {folder.relative_to(settings.bids_dir).parts[0] for folder in looked_at} == {"sub-03"}
    assert list((settings.output_dir / ".brainchop" / "work").iterdir()) == []


def test_work_folder_is_where_the_tasks_variables_say(settings, tmp_path, monkeypatch):
    manifest = tmp_path / "m.tsv"
    write_manifest(manifest, [["01"]])
    local = replace(settings, work_dir=Path("$SCRATCH/${JOB}"))
    with pytest.raises(UsageError, match=r"\$SCRATCH is not set where the task runs"):
        run_slice(local, manifest, 0, lambda *_: None)
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    monkeypatch.setenv("JOB", "7")
    run_slice(local, manifest, 0, lambda *_: None)
    assert list((tmp_path / "7").iterdir()) == []
    assert not (settings.output_dir / ".brainchop" / "work").exists()


def test_manifest_is_read_as_it_was_written(tmp_path):
    write_manifest(tmp_path / "m.tsv", [["01", "02"], ["x"]])
    assert read_manifest(tmp_path / "m.tsv") == {0: ("01", "02"), 1: ("x",)}
    assert read_slice(tmp_path / "m.tsv", 1) == ("x",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"sub-01\n", "must begin with"),
        (b"slice\tparticipant_id\n0\tsub-01\n1\t01\n", "names sub-01 twice"),
        (b"slice\tparticipant_id\n-1\tsub-01\n", "a slice's number"),
        (b"slice\tparticipant_id\n0\tsub-01\n", "has no slice 5; it has 1"),
        (b"\xff\xfe", "is no table"),
    ],
)
def test_unusable_manifest_is_named(tmp_path, content, message):
    (tmp_path / "m.tsv").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_slice(tmp_path / "m.tsv", 5)
    with pytest.raises(MissingInputError, match="is not there"):
        read_manifest(tmp_path / "none.tsv")


def test_manifest_is_of_a_dataset(settings, tmp_path):
    write_manifest(tmp_path / "m.tsv", [["01"]])
    with pytest.raises(UsageError, match="of a BIDS dataset"):
        run_slice(replace(settings, bids_dir=None, query=Query()), tmp_path / "m.tsv", 0, lambda *_: None)
