"""Tables and page of a study, over made outputs."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from brainchop_pipe.workflows.group_level import run_group
from brainchop_pipe.workflows.outcome import Outcome, tell_outcomes

from brainchop_pipe.bids.sidecar import ExecutionRecord
from brainchop_pipe.errors import NoMatchError
from brainchop_pipe.settings import Processing, Query, Settings
from made_outputs import VOLUMES, made_source, make_result


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def group(out, tmp_path):
    """Run the group level over a study whose raw images are named; gives the page."""

    def call(*names: str) -> str:
        bids_dir = tmp_path / "bids"
        for name in names:
            path = bids_dir / made_source(name).folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        bids_dir.mkdir(exist_ok=True)
        description = {"Name": "A <b>study</b>", "BIDSVersion": "1.10.0"}
        (bids_dir / "dataset_description.json").write_text(json.dumps(description))
        run_group(out, bids_dir, Query())
        return (out / "index.html").read_text()

    return call


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def name_of(number: int) -> str:
    return f"sub-{number:02d}_T1w.nii.gz"


def make_study(out: Path, count: int = 12) -> list[str]:
    """Ordinary brains, and a last one without white matter."""
    rng = np.random.default_rng(0)
    for number in range(1, count):
        make_result(out, name_of(number), {i: v * rng.uniform(0.97, 1.03) for i, v in VOLUMES.items()})
    make_result(out, name_of(count), {**VOLUMES, 2: 20e3}, flags=("Something looks wrong.",))
    return [name_of(number) for number in range(1, count + 1)]


def test_every_number_has_a_line_and_outliers_are_marked(out, group):
    group(*make_study(out))
    rows = table(out / "group.tsv")
    assert len({(r["label_map"], r["measure"], r["index"]) for r in rows}) == len(rows) == 12 * (2 * 3 + 4)
    odd = {r["participant_id"] for r in rows if r["outlier"] == "1"}
    assert odd == {"sub-12"}
    white = next(r for r in rows if r["participant_id"] == "sub-12" and r["name"] == "White matter")
    assert (white["measure"], white["value"], white["unit"]) == ("volume", "20000.0", "mm^3")
    assert float(white["robust_z"]) < -3.5
    assert set(json.loads((out / "group.json").read_text())) == set(rows[0])


def test_phenotype_has_a_line_an_image_and_describes_its_columns(out, group):
    group(*make_study(out))
    rows = table(out / "phenotype/brainchop_tissues.tsv")
    assert [r["participant_id"] for r in rows] == [f"sub-{n:02d}" for n in range(1, 13)]
    assert rows[-1]["White_matter_volume_mm3"] == "20000.0"
    assert "White_matter_volume_mm3" in rows[-1]["outliers"]
    dictionary = json.loads((out / "phenotype/brainchop_tissues.json").read_text())
    assert set(dictionary) - {"Description"} == set(rows[0])


def test_page_lists_the_worst_first_with_what_failed_and_what_is_missing(out, group):
    names = make_study(out)
    source = made_source("sub-90_T1w.nii.gz")
    settings = Settings(out, Processing(models=()))
    tell_outcomes([Outcome(source, "made", "failed", reason="it broke")], source, settings)
    page = group(*names, "sub-90_T1w.nii.gz", "sub-91_T1w.nii.gz")
    order = ["sub-90_T1w", "sub-91_T1w", "sub-12_T1w", "sub-03_T1w"]
    body = page[page.index("<tbody>") :]
    assert sorted(order, key=body.index) == order
    assert "failed: 1" in page
    assert "missing: 1" in page
    assert "made: it broke" in page
    assert "White matter (tissues) is smaller than usual here" in page
    assert "A &lt;b&gt;study&lt;/b&gt;" in page


def test_failure_is_forgotten_when_the_image_is_done(out, group):
    names = make_study(out)
    source, settings = made_source(names[0]), Settings(out, Processing(models=()))
    tell_outcomes([Outcome(source, "made", "failed", reason="it broke")], source, settings)
    tell_outcomes([Outcome(source, "made", "done")], source, settings)
    assert "it broke" not in group(*names)
    assert "it broke" not in (out / "sub-01.html").read_text()


def test_failures_of_models_that_were_not_run_again_stay(out):
    source, settings = made_source(name_of(1)), Settings(out, Processing(models=()))
    tell_outcomes([Outcome(source, "one", "failed", reason="it broke")], source, settings)
    tell_outcomes([Outcome(source, "two", "done")], source, settings)
    tell_outcomes([Outcome(source, "one", "skipped"), Outcome(source, "two", "complete")], source, settings)
    assert "it broke" in (out / "sub-01.html").read_text()
    tell_outcomes([Outcome(source, "one", "complete")], source, settings)
    assert "it broke" not in (out / "sub-01.html").read_text()


def test_image_that_lacks_what_others_have_is_flagged(out, group):
    names = make_study(out, 3)
    make_result(out, names[0], segmentation="more")
    page = group(*names)
    assert page.count("There is no more of this image, which others have.") == 2


def test_long_reasons_are_cut_in_the_table(out, group):
    make_result(out, name_of(1), flags=("word " * 100,))
    page = group(name_of(1))
    assert "word …" in page
    assert "word " * 40 not in page


def test_phases_are_not_missed_and_unknown_participants_are_an_error(out, group, tmp_path):
    names = make_study(out, 3)
    page = group(*names, "sub-01_part-phase_T1w.nii.gz")
    assert "missing: 0" in page
    with pytest.raises(NoMatchError):
        run_group(out, tmp_path / "bids", Query(participant_labels=("99",)))


def test_contrasts_are_not_compared_with_each_other(out, group):
    for number in range(1, 13):
        make_result(out, name_of(number), segmentation="made")
        t2w = name_of(number).replace("T1w", "T2w")
        make_result(out, t2w, {i: v * 2 for i, v in VOLUMES.items()}, segmentation="made")
    group()
    rows = table(out / "group.tsv")
    assert {r["segmentation"] for r in rows} == {"made", "made_space-T2w"}
    assert {r["outlier"] for r in rows} <= {"0", "n/a"}
    assert len(table(out / "phenotype/brainchop_made_space-T2w.tsv")) == 12


def test_sessions_and_runs_have_tables_of_their_own(out, group):
    make_result(out, "sub-01_ses-a_run-1_T1w.nii.gz")
    make_result(out, "sub-01_ses-a_run-2_T1w.nii.gz")
    group()
    names = {p.name for p in (out / "phenotype").glob("*.tsv")}
    assert names == {f"brainchop_tissues_ses-a_run-{n}.tsv" for n in (1, 2)}
    (out / "sub-01/anat/sub-01_ses-a_run-2_dseg.nii.gz").unlink(missing_ok=True)
    for path in out.rglob("*run-2_dseg*"):
        path.unlink()
    group()
    assert {p.name for p in (out / "phenotype").glob("*.tsv")} == {"brainchop_tissues_ses-a_run-1.tsv"}


def test_labels_of_one_name_keep_columns_of_their_own(out, group):
    labels = {1: "Stem", 2: "Stem", 3: "Other"}
    make_result(out, name_of(1), labels=labels)
    group(name_of(1))
    (row,) = table(out / "phenotype/brainchop_tissues.tsv")
    assert (row["Stem_volume_mm3_1"], row["Stem_volume_mm3_2"]) == ("600000.0", "500000.0")
    assert row["outliers"] == "n/a"


def test_sidecar_with_no_number_is_passed_over(out, group):
    names = make_study(out)
    path = out / "sub-01/anat/sub-01_dseg.json"
    path.write_text(path.read_text().replace('"MeanConfidence": 0.9', '"MeanConfidence": NaN'))
    group(*names)
    assert "sub-01" not in {r["participant_id"] for r in table(out / "group.tsv")}


def test_mixed_versions_providers_and_precisions_are_told(out, group):
    names = make_study(out)
    gpu = ExecutionRecord(
        requested_device="auto",
        provider="CUDAExecutionProvider",
        fallbacks=(),
        threads=1,
        precision="bfloat16",
    )
    make_result(out, names[0], code={"Name": "brainchop_pipe", "Version": "2.0"}, execution={"made": gpu})
    page = group(*names)
    assert "tissues: brainchop_pipe is not the same for all maps: 1.0 (11), 2.0 (1)." in page
    assert "provider of made is not the same for all maps: CPUExecutionProvider (11)" in page
    assert "precision of made is not the same" in page


def test_output_without_anything_is_an_error(out, group):
    out.mkdir()
    with pytest.raises(NoMatchError, match="run the participant level first"):
        group()


@pytest.mark.parametrize("content", ["{}", "[", '{"VolumesMm3": {"1": "many"}}'])
def test_files_of_others_and_halves_are_passed_over(out, group, content):
    names = make_study(out)
    (out / "sub-01/anat/other_dseg.json").write_text(content)
    (out / "sub-02/anat/sub-02_dseg.nii.gz").unlink()
    (out / "sub-03/anat/sub-03_dseg.tsv").unlink()
    group(*names)
    by_participant = {r["participant_id"] for r in table(out / "group.tsv")}
    assert "sub-02" not in by_participant
    assert {"sub-01", "sub-03"} <= by_participant


def test_names_with_tabs_and_line_feeds_stay_in_their_column(out, group):
    make_result(out, name_of(1), labels={1: 'a "quoted" name', 2: "b", 3: "c"})
    group(name_of(1))
    assert 'a "quoted" name' in {r["name"] for r in table(out / "group.tsv")}
