"""Files that can be trusted: what made them, whether they are still the same, and the same once more."""

import gzip
import json
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from brainchop_pipe.workflows.bids_app import run_images, run_participants
from brainchop_pipe.workflows.group_level import run_group
from brainchop_pipe.workflows.rerun_file import rerun
from brainchop_pipe.workflows.trace_file import check_digests, trace
from brainchop_pipe.workflows.verify_output import verify_output

from brainchop_pipe.bids.failures import without_places
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.publish import sidecar_path
from brainchop_pipe.cli.main import main
from brainchop_pipe.errors import InputError, MissingInputError, UsageError
from brainchop_pipe.settings import Processing, Settings
from brainchop_pipe.storage import sha256_of_file
from conftest import MADE_INPUT, head_affine, head_voxels, make_card, save

# The only keys of sidecars that differ between two runs of the same.
DIFFER = {
    ("Provenance", "StartTime"),
    ("Provenance", "EndTime"),
    ("Provenance", "StageSeconds"),
    ("Provenance", "PeakMemoryMB"),
}


@pytest.fixture
def settings(make_dataset, tmp_path, cards) -> Settings:
    dataset = make_dataset("sub-01/anat/sub-01_T1w.nii.gz")
    processing = Processing(models=(cards.mask, cards.tissue, cards.regions))
    return Settings(
        tmp_path / "out",
        processing,
        bids_dir=dataset,
        skip_bids_validation=True,
        command="brainchop BIDS_DIR",
    )


@pytest.fixture(scope="module")
def made_before(tmp_path_factory) -> Path:
    """Place for a dataset and its output, made once for all tests."""
    return tmp_path_factory.mktemp("made") / "all"


@pytest.fixture
def anat(settings, made_before) -> Path:
    """The folder of a participant's maps, in a dataset and output of the test's own."""
    root = settings.output_dir.parent
    if not made_before.exists():
        assert all(o.status == "done" for o in run_participants(settings, lambda *_: None))
        shutil.copytree(root, made_before)
    shutil.copytree(made_before, root, dirs_exist_ok=True)
    return settings.output_dir / "sub-01" / "anat"


def rewrite(path: Path, change) -> None:
    """Change the voxels of an image, and let its sidecar say that this is how it was written."""
    image = nib.load(path)
    voxels = change(np.asarray(image.dataobj))
    nib.save(nib.Nifti1Image(voxels, image.affine, image.header), path)
    sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
    content = json.loads(sidecar.read_text())
    content["Provenance"]["Output"]["SHA256"] = sha256_of_file(path)
    sidecar.write_text(json.dumps(content))


def problems(settings: Settings) -> list[str]:
    return [problem.found for problem in verify_output(settings.output_dir)[1]]


def flatten(content: dict, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], object]:
    flat: dict[tuple[str, ...], object] = {}
    for key, value in content.items():
        flat |= flatten(value, (*above, key)) if isinstance(value, dict) else {(*above, key): value}
    return flat


def test_two_runs_give_the_same_bytes_and_sidecars_but_for_known_keys(settings, anat, tmp_path):
    again = replace(settings, output_dir=tmp_path / "again")
    run_participants(again, lambda *_: None)
    made = {p.relative_to(settings.output_dir) for p in settings.output_dir.rglob("*") if p.is_file()}
    made = {p for p in made if p.parts[0] not in (".brainchop", "logs")}
    assert {p.suffix for p in made} == {".gz", ".json", ".tsv", ".png", ".html", ".md", ""}
    for path in made:
        first, second = settings.output_dir / path, again.output_dir / path
        if path.suffix == ".json" and path.parts[0] == "sub-01":
            one, two = (flatten(json.loads(each.read_text())) for each in (first, second))
            differ = {key[:2] for key in one.keys() | two.keys() if one.get(key) != two.get(key)}
            assert differ <= DIFFER
        elif path.suffix != ".html":
            assert first.read_bytes() == second.read_bytes(), path


def test_whole_output_is_verified(settings, anat):
    count, found = verify_output(settings.output_dir)
    assert (count, found) == (6, ())
    assert main(["verify", str(settings.output_dir)]) == 0


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("sub-01_dseg", lambda v: v.astype(np.float32), "has the type float32; labels are integers"),
        ("sub-01_dseg", lambda v: np.where(v == 2, 9, v).astype(np.uint8), "labels that its table lacks: 9"),
        ("sub-01_desc-brain_mask", lambda v: v * np.uint8(3), "has other values than 0 and 1"),
        ("sub-01_desc-brain_mask", lambda v: v * np.uint8(0), "covers other voxels than the tissue labels"),
        ("sub-01_label-GM_probseg", lambda v: v * np.float32(2), "probabilities lie from 0 to 1"),
        ("sub-01_label-GM_probseg", lambda v: v * np.float32(0.5), "do not add up to 1"),
        ("sub-01_dseg", lambda v: v[:-1], "lies on another grid than sub-01_T1w.nii.gz"),
    ],
)
def test_what_the_validator_does_not_see_is_found(settings, anat, name, change, message):
    rewrite(anat / f"{name}.nii.gz", change)
    assert any(message in found for found in problems(settings))


def test_shifted_grid_is_found(settings, anat):
    image = nib.load(anat / "sub-01_dseg.nii.gz")
    affine = image.affine.copy()
    affine[0, 3] += 4
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), affine), anat / "sub-01_dseg.nii.gz")
    assert any("lies on another grid" in found for found in problems(settings))


def test_damage_and_loss_are_found(settings, anat, capsys):
    path = anat / "sub-01_dseg.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    (anat / "sub-01_desc-brain_mask.json").unlink()
    (anat / "sub-01_label-WM_probseg.nii.gz").unlink()
    (anat / ".sub-01_x.nii.gz.1-abc.brainchop-tmp").touch()
    shutil.rmtree(settings.output_dir / "prov")
    raw = settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz"
    save(raw, head_voxels()[::-1], head_affine())
    found = "\n".join(problems(settings))
    assert "has another SHA-256 than its sidecar says" in found
    assert "is truncated or corrupt" in found
    assert "has no sidecar that says how it was made" in found
    assert "is what a killed run left behind" in found
    assert "is the sidecar of an image that is not there any more" in found
    assert "refers to a description in prov/ that is not there" in found
    assert "was made of other content than sub-01_T1w.nii.gz has now" in found
    raw.unlink()
    assert any(
        "refers to bids:raw:sub-01/anat/sub-01_T1w.nii.gz, which is not there" in f
        for f in problems(settings)
    )
    assert main(["verify", str(settings.output_dir), "--participant-label", "01"]) == 65
    assert "problems" in capsys.readouterr().out


def test_output_that_is_not_there_or_empty_is_no_success(tmp_path):
    assert main(["verify", str(tmp_path / "none")]) == 66
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 65


def test_provenance_is_told_and_compared(settings, anat, capsys):
    assert main(["provenance", str(anat / "sub-01_dseg.json")]) == 0
    out = capsys.readouterr().out
    for expected in ("brainchop BIDS_DIR", "made_tissue", "onnxruntime"):
        assert expected in out
    (anat / "sub-01_dseg.nii.gz").write_bytes(b"x")
    assert main(["provenance", str(anat / "sub-01_dseg.nii.gz")]) == 65
    statuses = {check.what: check.status for check in check_digests(trace(anat / "sub-01_dseg.nii.gz"))}
    assert statuses["output"] == "changed"
    assert statuses["input bids:raw:sub-01/anat/sub-01_T1w.nii.gz"] == "same"
    assert statuses["model made_tissue"] == "not here"


def test_file_of_nobody_has_no_provenance(head_file, tmp_path):
    with pytest.raises(InputError, match="has no sidecar that says how it was made"):
        trace(head_file)
    with pytest.raises(MissingInputError, match="is not there"):
        trace(tmp_path / "none.nii.gz")


@pytest.mark.parametrize("name", ["sub-01_dseg", "sub-01_seg-maderegions_desc-regions_dseg"])
def test_rerun_makes_the_same_bytes(settings, anat, tmp_path, cards, name):
    found = rerun(
        trace(anat / f"{name}.nii.gz"), tmp_path / "again", (cards.mask, cards.tissue, cards.regions)
    )
    assert {file.name for file in found.comparisons} >= {f"{name}.nii.gz"}
    assert all(file.same_bytes for file in found.comparisons)
    assert found.differences == ()


@pytest.mark.parametrize(
    ("also", "name"),
    [
        ("brain", "sub-01_desc-brain_T1w"),
        ("conformed", "sub-01_space-conformed_dseg"),
        ("conformed", "sub-01_space-conformed_seg-maderegions_desc-regions_dseg"),
        ("prepared", "sub-01_res-1mm_desc-biascorr_T1w"),
    ],
)
def test_what_was_written_besides_can_be_made_again(settings, tmp_path, cards, also, name):
    run_participants(replace(settings, extras=(also,)), lambda *_: None)
    own = (cards.mask, cards.tissue, cards.regions)
    path = settings.output_dir / f"sub-01/anat/{name}.nii.gz"
    found = rerun(trace(path), tmp_path / "again", own)
    assert f"{name}.nii.gz" in {file.name for file in found.comparisons}
    assert all(file.same_bytes for file in found.comparisons)


def test_tissues_of_a_given_mask_can_be_made_again(settings, anat, tmp_path, cards):
    mask = tmp_path / "mask.nii.gz"
    shutil.copy(anat / "sub-01_desc-brain_mask.nii.gz", mask)
    processing = replace(settings.processing, models=(cards.mask, cards.tissue), mask=mask)
    given = replace(settings, processing=processing, output_dir=tmp_path / "given")
    assert all(o.status == "done" for o in run_participants(given, lambda *_: None))
    path = given.output_dir / "sub-01/anat/sub-01_dseg.nii.gz"
    with pytest.raises(UsageError, match="a brain mask that was given"):
        rerun(trace(path), tmp_path / "none", (cards.tissue,))
    found = rerun(trace(path), tmp_path / "again", (cards.tissue,), mask)
    assert len(found.comparisons) == 5
    assert all(file.same_bytes for file in found.comparisons)


@pytest.fixture
def wanting(tmp_path) -> str:
    """A tissue model that is used to a contrast."""
    contrast = {"csf": 0.2, "grey_matter": 0.5, "sharpness": 0.9}
    return str(
        make_card(tmp_path / "w", "tissue", input={**MADE_INPUT, "prepare": "brain", "contrast": contrast})
    )


@pytest.mark.parametrize(
    ("mask_model", "mask_is_given", "models"),
    [
        ("mask", False, ["made_mask", "brainchop_any", "made_tissue"]),
        ("mask", True, ["brainchop_any", "made_tissue"]),
        ("both", False, ["made_both", "made_tissue"]),
        ("both", True, ["made_both", "made_tissue"]),
    ],
)
def test_model_that_told_tissues_apart_for_their_contrast_is_named(
    settings, anat, tmp_path, cards, wanting, mask_model, mask_is_given, models
):
    mask = tmp_path / "mask.nii.gz" if mask_is_given else None
    if mask:
        shutil.copy(anat / "sub-01_desc-brain_mask.nii.gz", mask)
    finder = getattr(cards, mask_model)
    # The regions see the brain as well, whatever its contrast.
    processing = Processing(models=(finder, wanting, cards.regions), tissue_model="made_tissue", mask=mask)
    own = replace(settings, processing=replace(processing, prepare="brain"), output_dir=tmp_path / "own")
    assert all(o.status == "done" for o in run_participants(own, lambda *_: None))
    of_regions = [*([] if mask else [f"made_{mask_model}"]), "made_regions"]
    for name, ran in (("", models), ("_seg-maderegions_desc-regions", of_regions)):
        path = own.output_dir / f"sub-01/anat/sub-01{name}_dseg.nii.gz"
        provenance = json.loads(sidecar_path(path).read_text())["Provenance"]
        assert [model["Name"] for model in provenance["Models"]] == ran
        assert list(provenance["Execution"]) == ran
        found = rerun(trace(path), tmp_path / f"again{name}", (finder, wanting, cards.regions), mask)
        assert all(file.same_bytes for file in found.comparisons)
        assert found.differences == ()


def test_tissues_of_one_model_alone_can_be_made_again(settings, tmp_path, cards):
    """One model finds the brain and its tissues: it is named once, and its times are those of both."""
    alone = replace(settings, processing=Processing(models=(cards.both,)))
    outcomes = run_participants(alone, lambda *_: None)
    assert [(o.model, o.status) for o in outcomes] == [("made_both", "done")]
    path = alone.output_dir / "sub-01/anat/sub-01_dseg.nii.gz"
    provenance = json.loads(sidecar_path(path).read_text())["Provenance"]
    assert [model["Name"] for model in provenance["Models"]] == ["made_both"]
    found = rerun(trace(path), tmp_path / "again", (cards.both,))
    assert len(found.comparisons) == 5
    assert all(file.same_bytes for file in found.comparisons)


def test_rerun_does_not_write_among_other_files(settings, anat, cards):
    path = anat / "sub-01_seg-maderegions_desc-regions_dseg.nii.gz"
    with pytest.raises(UsageError, match="is not empty"):
        rerun(trace(path), settings.output_dir, (cards.regions,))


def test_input_that_was_moved_can_be_named(settings, anat, tmp_path, cards):
    moved = tmp_path / "elsewhere.nii.gz"
    shutil.move(settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz", moved)
    path = anat / "sub-01_seg-maderegions_desc-regions_dseg.nii.gz"
    found = rerun(trace(path, source=moved), tmp_path / "again", (cards.regions,))
    assert [file.same_bytes for file in found.comparisons] == [True]


def test_rerun_tells_how_much_agrees_where_bytes_do_not(settings, anat, cards, capsys):
    path = anat / "sub-01_seg-maderegions_desc-regions_dseg.nii.gz"
    labels = np.asarray(nib.load(path).dataobj)
    first = np.argwhere(labels > 0)[: (labels > 0).sum() // 4]

    def change(voxels: np.ndarray) -> np.ndarray:
        changed = voxels.copy()
        changed[tuple(first.T)] = 0
        return changed

    rewrite(path, change)
    assert main(["rerun", str(path), "--model", cards.regions]) == 65
    assert "other bytes; 75.0" in capsys.readouterr().out


def test_rerun_of_another_input_or_unknown_model_is_refused(settings, anat, tmp_path, cards):
    path = anat / "sub-01_seg-maderegions_desc-regions_dseg.nii.gz"
    with pytest.raises(UsageError, match="give its card"):
        rerun(trace(path), tmp_path / "again")
    raw = settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz"
    raw.write_bytes(gzip.compress(gzip.decompress(raw.read_bytes()) + b"more"))
    with pytest.raises(InputError, match="has another content"):
        rerun(trace(path), tmp_path / "again", (cards.regions,))
    raw.unlink()
    with pytest.raises(InputError, match="is not there; give the dataset"):
        rerun(trace(path), tmp_path / "again", (cards.regions,))


def test_rerun_with_another_version_of_a_model_is_refused(settings, anat, tmp_path, cards):
    path = anat / "sub-01_seg-maderegions_desc-regions_dseg.nii.gz"
    other = make_card(tmp_path / "other", "mask", name="made_regions")
    with pytest.raises(Exception, match="is another now"):
        rerun(trace(path), tmp_path / "again", (str(other),))


def test_image_of_no_dataset_can_be_made_again(settings, head_file, tmp_path, cards):
    source = Source(Path(), head_file.name, head_file.name, head_file.name, (), "T1w")
    loose = replace(settings, bids_dir=None, processing=replace(settings.processing, models=(cards.regions,)))
    run_images({source: head_file}, loose, lambda *_: None)
    (path,) = settings.output_dir.glob("*_dseg.nii.gz")
    assert "maderegions" in (settings.output_dir / "head_T1w.html").read_text()
    assert verify_output(settings.output_dir) == (1, ())
    found = rerun(trace(path, source=head_file), tmp_path / "again", (cards.regions,))
    assert [file.same_bytes for file in found.comparisons] == [True]


def test_image_with_a_bids_name_in_no_dataset_has_its_page(settings, tmp_path, cards):
    path = save(tmp_path / "in/sub-01_T1w.nii.gz", head_voxels(), head_affine())
    source = Source(Path(), path.name, path.name, path.name, (("sub", "01"),), "T1w")
    loose = replace(settings, bids_dir=None, processing=replace(settings.processing, models=(cards.regions,)))
    run_images({source: path}, loose, lambda *_: None)
    text = (settings.output_dir / "sub-01_T1w.html").read_text()
    assert "maderegions" in text
    assert "Images were segmented with" in text


def test_run_leaves_settings_log_and_citation_without_a_path(settings, anat):
    logs = settings.output_dir / "logs"
    (toml,), (log,) = logs.glob("run-*.toml"), logs.glob("run-*.log")
    content = tomllib.loads(toml.read_text())
    assert content["processing"]["models"] == ["mask.json", "tissue.json", "regions.json"]
    citation = (logs / "CITATION.md").read_text()
    assert "made_tissue" in citation
    assert "doi:10.1038/sdata.2016.44" in citation
    for file in (toml, log, logs / "CITATION.md"):
        assert str(settings.output_dir.parent) not in file.read_text()


def test_crash_report_has_a_traceback_and_no_path(settings, break_worker):
    break_worker("brainchop_pipe.segment_files:segment_labels:memory:sub-01")
    run_participants(settings, lambda *_: None)
    (path,) = (settings.output_dir / "logs/crash").glob("*.json")
    text, content = path.read_text(), json.loads(path.read_text())
    assert content["Image"] == "bids:raw:sub-01/anat/sub-01_T1w.nii.gz"
    assert any("segment_files.py" in line for line in content["Failed"][0]["Traceback"])
    assert {"Versions", "Hardware", "Parameters", "Code"} <= content.keys()
    assert str(settings.output_dir.parent) not in text
    assert str(Path.home()) not in text
    assert "unexpected MemoryError" in (settings.output_dir / "sub-01.html").read_text()


def test_activity_says_what_all_sidecars_have_in_common(settings, anat):
    sidecar = json.loads((anat / "sub-01_dseg.json").read_text())
    assert sidecar["Digest"] == {"sha256": sha256_of_file(anat / "sub-01_dseg.nii.gz")}
    label = sidecar["GeneratedBy"].removeprefix("bids::prov#segment-")
    prov = settings.output_dir / "prov"
    (activity,) = json.loads((prov / f"prov-{label}_act.json").read_text())["Activities"]
    assert activity["Id"] == sidecar["GeneratedBy"]
    known = set()
    for suffix, key in (("ent", "ProvEntities"), ("env", "Environments"), ("soft", "Software")):
        known |= {
            entry["Id"] for entry in json.loads((prov / f"prov-{label}_{suffix}.json").read_text())[key]
        }
    assert {*activity["Used"], *activity["AssociatedWith"]} == known
    run_group(settings.output_dir, settings.bids_dir, settings.query)
    labels = [line.split("\t")[0] for line in (prov / "provenance.tsv").read_text().splitlines()[1:]]
    assert sorted(labels) == sorted(p.name.removesuffix("_act.json") for p in prov.glob("*_act.json"))
    assert f"prov-{label}" in labels


def test_participant_without_page_gets_one_from_what_is_there(settings, anat):
    page = settings.output_dir / "sub-01.html"
    before = page.read_text()
    page.unlink()
    shutil.rmtree(settings.output_dir / "sub-01/figures")
    assert all(o.status == "complete" for o in run_participants(settings, lambda *_: None))
    assert "There is no picture" not in page.read_text()
    assert before.count("data:image/png") == page.read_text().count("data:image/png") == 2


def test_no_picture_of_other_maps_stays(settings, anat, break_worker):
    """A redo whose drawing fails shows no picture rather than the old one."""
    break_worker("brainchop_pipe.report.mosaic:draw:memory:")
    run_participants(replace(settings, force=True), lambda *_: None)
    assert not list((settings.output_dir / "sub-01/figures").glob("*.png"))
    assert "There is no picture" in (settings.output_dir / "sub-01.html").read_text()


def test_report_that_cannot_be_written_stops_nothing(settings, monkeypatch):
    def broken(*_):
        raise RuntimeError("no page")

    monkeypatch.setattr("brainchop_pipe.workflows.outcome.write_participant_page", broken)
    outcomes = run_participants(settings, lambda *_: None)
    assert all(o.status == "done" and "The report was not written" in o.reason for o in outcomes)


def test_paths_in_messages_are_told_by_their_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(Path("out"), bids_dir=Path("bids"))
    text = f"{tmp_path}/out/x: no mask /data/jane_doe/mask.nii.gz; see https://a.b/c (in {tmp_path}/bids/s)"
    assert without_places(text, settings) == "OUT/x: no mask mask.nii.gz; see https://a.b/c (in BIDS_DIR/s)"


def test_what_nobody_can_write_besides_is_refused(settings, cards):
    alone = replace(settings, processing=replace(settings.processing, models=(cards.regions,)))
    for what in ("brain", "prepared"):
        with pytest.raises(UsageError, match=f"--write-also {what}"):
            run_participants(replace(alone, extras=(what,)), lambda *_: None)


def test_maps_without_pictures_are_as_right_as_with(settings, break_worker):
    break_worker("brainchop_pipe.report.mosaic:draw:memory:")
    assert all(o.status == "done" for o in run_participants(settings, lambda *_: None))
    assert "There is no picture" in (settings.output_dir / "sub-01.html").read_text()
