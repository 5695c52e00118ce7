import json
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from brainchop_pipe.bids import dataset as module
from brainchop_pipe.bids import walk
from brainchop_pipe.bids.dataset import check_dataset, find_images, read_filter_file
from brainchop_pipe.errors import BidsError, MissingInputError, NoMatchError, UsageError
from brainchop_pipe.settings import Query


def names(*args, **kwargs) -> list[str]:
    return [source.name for source in find_images(*args, Query(**kwargs))]


def test_all_contrasts_of_all_sessions_are_found_in_order(dataset):
    assert names(dataset) == [
        "sub-01_T1w.nii.gz",
        "sub-02_ses-a_T1w.nii.gz",
        "sub-02_ses-b_T1w.nii.gz",
        "sub-03_T1w.nii.gz",
        "sub-03_T2w.nii.gz",
    ]


def test_source_says_what_its_name_says(dataset):
    source = find_images(dataset, Query(participant_labels=("02",), session_labels=("b",)))[0]
    assert source.uri == "bids:raw:sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz"
    assert str(source.folder) == "sub-02/ses-b/anat"
    assert (source.participant, source.suffix) == ("sub-02", "T1w")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"participant_labels": ("03", "01")}, 3),
        ({"session_labels": ("a",)}, 1),
        ({"filters": {"t1w": {"session": "b"}}, "participant_labels": ("02",)}, 1),
        ({"filters": {"t1w": {"session": "Query.NONE"}}}, 3),
        ({"filters": {"t1w": {"session": "Query.ANY"}, "t2w": {"run": 4}}}, 2),
    ],
)
def test_filters_choose(dataset, query, expected):
    assert len(names(dataset, **query)) == expected


def test_other_folders_and_files_are_not_looked_at(dataset):
    for path in ("derivatives/x/sub-01/anat", "sub-01/func", "sub-01/anat", "sourcedata/sub-01/anat"):
        (dataset / path).mkdir(parents=True, exist_ok=True)
        (dataset / path / "sub-01_desc-x_T1w.nii.gz.bak").touch()
    (dataset / "derivatives/x/sub-01/anat/sub-01_T1w.nii.gz").touch()
    (dataset / "sub-01/anat/sub-01_T1map.nii.gz").touch()
    (dataset / "sub-01/anat/sub-01_T1w.json").write_text("{ this is no JSON")
    assert len(names(dataset)) == 5


def test_walk_finds_what_pybids_finds(dataset):
    odd = ("sub-01/anat/T1w.nii", "sub-01/anat/sub-01_run-2_T1w.nii", "sub-03/anat/sub-03_T1w.x.nii.gz")
    hidden = ("sub-01/anat/._sub-01_T1w.nii.gz", "sub-02/ses-a/anat/deep/sub-02_ses-a_T1w.nii.gz")
    for path in (*odd, *hidden, "sub-03/ses-c/sub-03_T1w.nii.gz", "sub-03/anat/sub-03_mask.nii.gz"):
        (dataset / path).parent.mkdir(parents=True, exist_ok=True)
        (dataset / path).touch()
    (dataset / "sub-04").symlink_to(dataset / "sub-01")
    by_walk = names(dataset)
    assert by_walk == names(dataset, filters={"bold": {}})
    assert len(by_walk) == 5 + 2 + 3


def test_named_participants_are_found_without_a_look_at_the_others(dataset, monkeypatch):
    looked_at = []
    entries = walk._entries
    monkeypatch.setattr(walk, "_entries", lambda folder: looked_at.append(folder) or entries(folder))
    monkeypatch.setattr(module.os, "scandir", lambda path: pytest.fail(f"{path} was walked"))
    assert len(names(dataset, participant_labels=("03", "01"))) == 3
    assert {folder.relative_to(dataset).parts[0] for folder in looked_at} == {"sub-01", "sub-03"}


def test_broken_link_is_found_and_left_for_its_own_error(dataset):
    (dataset / "sub-01/anat/sub-01_run-2_T1w.nii.gz").symlink_to(".git/annex/objects/x")
    assert "sub-01_run-2_T1w.nii.gz" in names(dataset)


def test_unknown_participant_is_named_with_those_there_are(dataset):
    with pytest.raises(NoMatchError, match=r"participant 77 is not in .* which has 3: 01, 02, 03"):
        names(dataset, participant_labels=("01", "77"))


@pytest.mark.parametrize(
    "query", [{"session_labels": ("z",)}, {"filters": {"t1w": {"acquisition": "q"}, "t2w": {"run": 1}}}]
)
def test_nothing_left_is_an_error(dataset, query):
    with pytest.raises(NoMatchError, match="matches"):
        names(dataset, **query)


def test_folder_without_participants_is_an_error(make_dataset):
    with pytest.raises(NoMatchError, match=r"no sub-\* folder"):
        names(make_dataset())


def test_unusable_filter_is_named(dataset):
    with pytest.raises(UsageError, match="cannot be used"):
        names(dataset, filters={"t1w": {"aquisition": "x"}})
    with pytest.raises(UsageError, match="cannot be used"):
        names(dataset, filters={"t1w": {"return_type": "x"}})


def test_database_of_pybids_holds_all_participants_of_one_dataset(dataset, tmp_path):
    database = tmp_path / "db"
    assert len(names(dataset, database_dir=database, participant_labels=("01",))) == 1
    assert database.exists()
    assert len(names(dataset, database_dir=database)) == 5
    copied = shutil.copytree(dataset, tmp_path / "copied")
    with pytest.raises(UsageError, match="is of another dataset"):
        names(copied, database_dir=database)
    moved = dataset.rename(tmp_path / "moved")
    with pytest.raises(UsageError, match="pybids cannot index"):
        names(moved, database_dir=database)


@pytest.mark.parametrize("name", ["sub-01_what-1_T1w.nii.gz", "sub-01_desc-preproc_T1w.nii.gz"])
def test_image_with_a_name_that_is_no_raw_ones_has_no_entities(dataset, name):
    (dataset / "sub-01/anat" / name).touch()
    (odd,) = (s for s in find_images(dataset, Query()) if not s.entities)
    assert (odd.name, odd.suffix, odd.participant) == (name, "T1w", "sub-01")


def test_contrast_that_is_not_there_is_an_error_that_lists_those_there_are(dataset):
    with pytest.raises(NoMatchError, match=r"is t1w or FLAIR .* there are T1w, T2w"):
        names(dataset, modalities=("t1w", "FLAIR"))


def test_participant_or_session_without_an_image_is_an_error(dataset):
    (dataset / "sub-04").mkdir()
    with pytest.raises(NoMatchError, match="for sub-04, ses-z that"):
        names(dataset, participant_labels=("02", "04"), session_labels=("a", "z"))


def test_folders_above_the_dataset_do_not_matter(dataset, tmp_path):
    moved = tmp_path / "sub-99_x" / "ses-a" / "bids"
    moved.parent.mkdir(parents=True)
    dataset.rename(moved)
    assert len(names(moved)) == 5
    assert names(moved, session_labels=("b",)) == ["sub-02_ses-b_T1w.nii.gz"]


def test_folder_must_be_a_dataset(tmp_path):
    with pytest.raises(MissingInputError, match="is no folder"):
        check_dataset(tmp_path / "none")
    with pytest.raises(BidsError, match=r"no dataset_description\.json.*--skip-bids-validation"):
        check_dataset(tmp_path)
    check_dataset(tmp_path, skip_validation=True)
    (tmp_path / "dataset_description.json").write_text("{")
    with pytest.raises(BidsError, match="is no JSON"):
        check_dataset(tmp_path)


def test_valid_dataset_passes_the_official_validator(dataset):
    check_dataset(dataset)


def test_invalid_dataset_is_refused_with_the_finding(dataset):
    (dataset / "sub-01" / "anat" / "notes.txt").write_text("x")
    with pytest.raises(BidsError, match="NOT_INCLUDED"):
        check_dataset(dataset)


def test_one_damaged_image_does_not_make_the_dataset_invalid(dataset):
    (dataset / "sub-01/anat/sub-01_T1w.nii.gz").write_bytes(b"")
    (dataset / "sub-03/anat/sub-03_T1w.nii.gz").write_bytes(b"no image")
    (dataset / "sub-03/anat/sub-03_run-1_T1w.nii.gz").symlink_to(".git/annex/objects/x")
    check_dataset(dataset)


def test_validator_that_breaks_is_named(dataset, monkeypatch):
    broken = SimpleNamespace(stdout="", stderr="no memory", returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: broken)
    monkeypatch.setattr(module, "find_validator", lambda: "/bin/validator")
    with pytest.raises(BidsError, match="no memory"):
        check_dataset(dataset)


def test_without_a_validator_the_description_is_enough(dataset, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda *_, **__: None)
    (dataset / "sub-01" / "anat" / "notes.txt").write_text("x")
    check_dataset(dataset)


def test_filter_file_is_that_of_fmriprep(tmp_path):
    path = tmp_path / "filter.json"
    path.write_text(json.dumps({"T1w": {"run": 1}}))
    assert read_filter_file(path) == {"t1w": {"run": 1}}
    for content, message in (
        ("{", "is no JSON"),
        ("[1]", "object of objects"),
        ('{"t1w": 3}', "object of objects"),
        ('{"T1": {}, "bold": {}}', "has T1; known are"),
    ):
        path.write_text(content)
        with pytest.raises(UsageError, match=message):
            read_filter_file(path)
    with pytest.raises(MissingInputError, match="is not there"):
        read_filter_file(tmp_path / "none.json")
