"""The app over a made dataset: what is written, skipped, confined, shared, redone."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from brainchop_pipe.workflows import bids_app
from brainchop_pipe.workflows.bids_app import run_images, run_participants
from brainchop_pipe.workflows.group_level import run_group
from brainchop_pipe.workflows.verify_output import verify_output
from filelock import FileLock

from brainchop_pipe.bids.dataset import find_validator
from brainchop_pipe.errors import ChecksumError, OutputError, UsageError
from brainchop_pipe.settings import Processing, Query, Settings
from conftest import head_voxels, save


@pytest.fixture
def settings(make_dataset, tmp_path, cards) -> Settings:
    """Two participants, a T2w beside the second T1w; mask and tissue model."""
    dataset = make_dataset(
        *(f"sub-0{n}/anat/sub-0{n}_{s}.nii.gz" for n, s in ((1, "T1w"), (3, "T1w"), (3, "T2w")))
    )
    processing = Processing(models=(cards.mask, cards.tissue))
    return Settings(tmp_path / "out", processing, bids_dir=dataset, skip_bids_validation=True, nprocs=2)


@pytest.fixture
def full_settings(settings, dataset, cards) -> Settings:
    """Sessions, and a third model that writes label maps of its own."""
    return replace(settings, processing=Processing(models=(cards.mask, cards.tissue, cards.regions)))


def run(settings: Settings) -> dict[tuple[str, str], str]:
    """Statuses by image and model."""
    outcomes = run_participants(settings, lambda *_: None)
    return {
        (o.source.name.removesuffix(".nii.gz"), o.model.removeprefix("made_")): o.status for o in outcomes
    }


def reasons(settings: Settings) -> str:
    return "\n".join(o.reason for o in run_participants(settings, lambda *_: None))


def snapshot(folder: Path) -> dict[str, int]:
    return {
        str(p): p.stat().st_mtime_ns
        for p in folder.rglob("*")
        if p.is_file() and not {".brainchop", "logs"} & {*p.parts}
    }


def load(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_every_image_gets_its_derivatives_on_its_grid(full_settings):
    statuses = run(full_settings)
    assert {s for (image, _), s in statuses.items() if image.endswith("T1w")} == {"done"}
    anat = full_settings.output_dir / "sub-02" / "ses-a" / "anat"
    raw = nib.load(full_settings.bids_dir / "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz")
    images = sorted(anat.glob("*.nii.gz"))
    assert len(images) == 6
    for path in images:
        image = nib.load(path)
        assert image.shape == raw.shape
        np.testing.assert_allclose(image.affine, raw.affine)
        assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1


def test_tissue_maps_agree_with_each_other(settings):
    run(settings)
    stem = settings.output_dir / "sub-01" / "anat" / "sub-01"
    mask, dseg = load(Path(f"{stem}_desc-brain_mask.nii.gz")), load(Path(f"{stem}_dseg.nii.gz"))
    probabilities = np.stack([load(Path(f"{stem}_label-{t}_probseg.nii.gz")) for t in ("GM", "WM", "CSF")])
    assert mask.dtype == dseg.dtype == np.uint8
    assert probabilities.dtype == np.float32
    np.testing.assert_array_equal(dseg, np.where(mask, probabilities.argmax(axis=0) + 1, 0))
    assert (dseg[head_voxels() == 1000] == 2).mean() > 0.9


def test_output_is_valid_bids_without_warnings(full_settings):
    run(full_settings)
    run_group(full_settings.output_dir, full_settings.bids_dir, full_settings.query)
    result = subprocess.run(
        [find_validator(), str(full_settings.output_dir), "--format", "json"],
        capture_output=True,
        text=True,
    )
    assert json.loads(result.stdout)["issues"]["issues"] == []


def test_sidecar_answers_the_questions_of_provenance(settings):
    run(replace(settings, command="brainchop BIDS_DIR OUT participant"))
    sidecar = json.loads((settings.output_dir / "sub-01/anat/sub-01_dseg.json").read_text())
    provenance = sidecar["Provenance"]
    assert sidecar["Sources"] == ["bids:raw:sub-01/anat/sub-01_T1w.nii.gz"]
    assert [m["Name"] for m in provenance["Models"]] == ["made_mask", "made_tissue"]
    assert provenance["Execution"]["made_tissue"]["Provider"] in ("CPUExecutionProvider", "OpenVINO")
    assert {"SHA256", "VoxelsSHA256", "Size"} <= provenance["Input"].keys()
    assert {"conform", "infer made_mask", "infer made_tissue"} <= provenance["StageSeconds"].keys()
    assert sum(sidecar["VolumesMm3"].values()) > 1e5
    text = json.dumps(sidecar)
    assert str(settings.output_dir.parent) not in text
    assert os.uname().nodename not in text


def test_other_contrasts_are_skipped_with_the_reason(settings):
    assert run(settings)[("sub-03_T2w", "tissue")] == "skipped"
    assert "T2w is not among --modality T1w" in reasons(settings)


def test_model_runs_on_the_contrasts_it_was_trained_for(settings):
    both = replace(settings, query=Query(modalities=("T1w", "T2w")))
    statuses = run(both)
    assert statuses[("sub-03_T2w", "mask")] == "done"
    assert statuses[("sub-03_T2w", "tissue")] == "skipped"
    assert "made_tissue was not trained for T2w, only T1w" in reasons(both)
    path = settings.output_dir / "sub-03/anat/sub-03_space-T2w_seg-mademask_desc-brain_dseg.nii.gz"
    assert json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())["SpatialReference"]


def test_phase_images_are_skipped(settings, make_dataset):
    make_dataset("sub-01/anat/sub-01_part-phase_T1w.nii.gz")
    assert run(settings)[("sub-01_part-phase_T1w", "mask")] == "skipped"


def test_second_run_writes_nothing(settings):
    run(settings)
    before = snapshot(settings.output_dir)
    assert set(run(settings).values()) == {"complete", "skipped"}
    assert snapshot(settings.output_dir) == before


def test_only_what_is_missing_is_made(full_settings):
    run(full_settings)
    (full_settings.output_dir / "sub-01/anat/sub-01_label-GM_probseg.nii.gz").unlink()
    statuses = run(full_settings)
    assert [statuses[("sub-01_T1w", m)] for m in ("mask", "tissue", "regions")] == [
        "done",
        "done",
        "complete",
    ]
    assert statuses[("sub-03_T1w", "tissue")] == "complete"


@pytest.mark.parametrize("change", ["input", "parameter", "force"])
def test_what_is_out_of_date_is_made_again(settings, change):
    run(settings)
    if change == "input":
        path = settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz"
        save(path, head_voxels()[::-1], nib.load(path).affine)
    elif change == "parameter":
        settings = replace(settings, processing=replace(settings.processing, output_orientation="native"))
    else:
        settings = replace(settings, force=True)
    statuses = run(settings)
    assert statuses[("sub-01_T1w", "tissue")] == "done"
    assert statuses[("sub-03_T1w", "tissue")] == ("complete" if change == "input" else "done")


def test_content_counts_where_hashes_are_checked(settings):
    run(settings)
    os.utime(settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz")
    assert run(replace(settings, check_hashes=True))[("sub-01_T1w", "tissue")] == "complete"
    assert run(settings)[("sub-01_T1w", "tissue")] == "done"


def test_same_input_gives_the_same_bytes(settings, tmp_path):
    run(settings)
    again = replace(settings, output_dir=tmp_path / "again")
    run(again)
    for path in settings.output_dir.rglob("*.nii.gz"):
        assert path.read_bytes() == (again.output_dir / path.relative_to(settings.output_dir)).read_bytes()


def test_bad_image_fails_alone_and_the_others_complete(settings):
    (settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz").write_bytes(b"")
    link = settings.bids_dir / "sub-03/anat/sub-03_run-2_T1w.nii.gz"
    link.symlink_to(".git/annex/objects/x")
    statuses = run(settings)
    assert statuses[("sub-01_T1w", "mask")] == statuses[("sub-03_run-2_T1w", "mask")] == "failed"
    assert statuses[("sub-03_T1w", "mask")] == statuses[("sub-03_T1w", "tissue")] == "done"
    assert "sub-01_T1w.nii.gz is empty" in reasons(settings)
    assert not (settings.output_dir / "sub-01").exists()


def test_unforeseen_error_fails_one_model_and_leaves_a_traceback(full_settings, break_worker, caplog):
    break_worker("brainchop_pipe.segment_files:segment_labels:memory:sub-01")
    statuses = run(full_settings)
    assert [statuses[("sub-01_T1w", m)] for m in ("mask", "tissue", "regions")] == ["done", "done", "failed"]
    assert "unexpected MemoryError: no more" in reasons(full_settings)
    assert "Traceback" in caplog.text
    assert "in broken" in caplog.text


def test_run_stops_at_the_first_failure_on_request(settings):
    (settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz").write_bytes(b"")
    assert {image for image, _ in run(replace(settings, stop_on_first_crash=True))} == {"sub-01_T1w"}


def test_two_inputs_never_write_one_output(settings):
    path = settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz"
    save(path.with_name("sub-01_T1w.nii"), head_voxels(), nib.load(path).affine)
    statuses = run(settings)
    assert statuses[("sub-01_T1w", "mask")] == statuses[("sub-01_T1w.nii", "mask")] == "failed"
    assert "would write the same files" in reasons(settings)


def test_image_in_another_runs_hands_comes_last(full_settings, monkeypatch):
    locks = full_settings.output_dir / ".brainchop" / "locks"
    locks.mkdir(parents=True)
    monkeypatch.setattr(bids_app, "_POLL_SECONDS", 0.05)
    lock = FileLock(locks / "sub-01_.lock", thread_local=False)
    lock.acquire()
    order = []

    def report(finished, total, outcomes):
        order.append(outcomes[0].source.name)
        if finished == total - 1:
            threading.Timer(0.2, lock.release).start()

    run_participants(full_settings, report)
    assert order[-1] == "sub-01_T1w.nii.gz"
    assert len(order) == 5


def test_two_runs_share_the_work(full_settings, cards):
    """Two processes on one output: each image is done once, neither fails."""
    code = (
        "import sys; from pathlib import Path;"
        "from brainchop_pipe.settings import *;"
        "from brainchop_pipe.workflows.bids_app import run_participants;"
        "s = Settings(Path(sys.argv[2]), Processing(models=tuple(sys.argv[3:])), bids_dir=Path(sys.argv[1]),"
        " skip_bids_validation=True);"
        "print([(o.source.name, o.model, o.status) for o in run_participants(s, lambda *_: None)])"
    )
    command = [sys.executable, "-c", code, str(full_settings.bids_dir), str(full_settings.output_dir)]
    command += [cards.mask, cards.tissue]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [ast.literal_eval(process.communicate()[0]) for process in processes]
    for image in ("sub-01_T1w.nii.gz", "sub-02_ses-a_T1w.nii.gz", "sub-03_T1w.nii.gz"):
        seen = sorted(
            s for output in outputs for name, model, s in output if (name, model) == (image, "made_mask")
        )
        assert seen == ["complete", "done"]


def test_leftovers_of_a_killed_run_are_removed(settings):
    anat = settings.output_dir / "sub-01" / "anat"
    anat.mkdir(parents=True)
    for name in ("dseg.nii.gz", "dseg.json", "dseg.tsv"):
        (anat / f".sub-01_{name}.1-0badcafe.brainchop-tmp").write_bytes(b"half")
    run(settings)
    assert not list(anat.glob("*.brainchop-tmp"))
    assert not list(anat.glob(".*.brainchop-tmp"))


def test_model_that_needs_too_much_memory_is_refused_before_any_image(settings):
    with pytest.raises(UsageError, match=r"needs 2\.5 GB \(2\.0 GB for the image\); --mem-gb allows 0\.5"):
        run(replace(settings, mem_gb=0.5))
    assert not settings.output_dir.exists()


def test_damaged_model_is_refused_before_any_image(settings, cards):
    Path(cards.tissue).with_name("tissue.onnx").write_bytes(b"damaged")
    with pytest.raises(ChecksumError, match="SHA-256"):
        run(settings)
    assert not list(settings.output_dir.glob("sub-*"))


def test_participant_level_needs_a_dataset(settings):
    with pytest.raises(UsageError, match="needs a BIDS dataset"):
        run_participants(replace(settings, bids_dir=None), lambda *_: None)


@pytest.fixture
def with_extras(full_settings) -> Settings:
    """A run that writes all that it can, of two contrasts."""
    query = Query(modalities=("T1w", "T2w"))
    return replace(full_settings, query=query, extras=("brain", "conformed", "prepared"))


def test_what_is_written_besides_is_valid_bids_and_verified(with_extras):
    processing = replace(with_extras.processing, prepare="mask")
    run(replace(with_extras, processing=processing))
    names = {p.name for p in with_extras.output_dir.rglob("sub-03_*.nii.gz")}
    assert {
        "sub-03_desc-brain_T1w.nii.gz",
        "sub-03_space-conformed_desc-conform_T1w.nii.gz",
        "sub-03_space-conformed_dseg.nii.gz",
        "sub-03_space-conformed_seg-maderegions_desc-regions_dseg.nii.gz",
        "sub-03_res-1mm_desc-biascorr_T1w.nii.gz",
        "sub-03_space-T2w_desc-brain_T2w.nii.gz",
        "sub-03_space-T2wconformed_desc-conform_T2w.nii.gz",
        "sub-03_space-T2wconformed_seg-mademask_desc-brain_dseg.nii.gz",
    } <= names
    command = [find_validator(), str(with_extras.output_dir), "--format", "json"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert json.loads(result.stdout)["issues"]["issues"] == []
    assert verify_output(with_extras.output_dir)[1] == ()
    run_group(with_extras.output_dir, with_extras.bids_dir, with_extras.query)
    assert "conformed" not in (with_extras.output_dir / "group.tsv").read_text()


def test_what_is_written_besides_agrees_with_what_always_is(with_extras):
    run(with_extras)
    anat = with_extras.output_dir / "sub-01" / "anat"
    raw, extracted, mask = (
        nib.load(path)
        for path in (
            with_extras.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz",
            anat / "sub-01_desc-brain_T1w.nii.gz",
            anat / "sub-01_desc-brain_mask.nii.gz",
        )
    )
    inside = np.asarray(mask.dataobj) > 0
    np.testing.assert_array_equal(np.asarray(extracted.dataobj), np.where(inside, np.asarray(raw.dataobj), 0))
    conformed = nib.load(anat / "sub-01_space-conformed_dseg.nii.gz")
    head = nib.load(anat / "sub-01_space-conformed_desc-conform_T1w.nii.gz")
    assert conformed.shape == head.shape == (256, 256, 256)
    np.testing.assert_array_equal(conformed.affine, head.affine)
    labels = np.asarray(conformed.dataobj)
    table = (anat / "sub-01_morph.tsv").read_text().splitlines()[1:]
    volumes = {int(line.split("\t")[0]): float(line.split("\t")[2]) for line in table}
    assert {n: float((labels == n).sum()) for n in volumes} == volumes


def test_what_is_written_besides_is_missed_where_it_is_not_there(settings):
    run(settings)
    more = replace(settings, extras=("brain",))
    assert run(more)[("sub-01_T1w", "tissue")] == "done"
    assert run(more)[("sub-01_T1w", "tissue")] == "complete"


def test_paths_may_begin_where_the_command_was_given(settings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {name: getattr(settings, name).relative_to(tmp_path) for name in ("bids_dir", "output_dir")}
    near = replace(settings, **places, extras=("brain",))
    assert set(run(near).values()) <= {"done", "skipped"}
    assert (tmp_path / "out/sub-01/anat/sub-01_desc-brain_T1w.nii.gz").is_file()
    page = tmp_path / "out/sub-01.html"
    before = page.read_text().count("data:image/png")
    assert before > 0
    # What is there already is drawn on the image itself.
    shutil.rmtree(tmp_path / "out/sub-01/figures")
    run(near)
    assert page.read_text().count("data:image/png") == before


def test_volumes_are_those_of_the_made_head(full_settings):
    run(full_settings)
    text = (full_settings.output_dir / "sub-01/anat/sub-01_morph.tsv").read_text()
    head, *rows = [line.split("\t") for line in text.splitlines()]
    assert head == ["index", "name", "volume_mm3", "intracranial_fraction"]
    white = next(float(row[2]) for row in rows if row[1] == "White matter")
    # The core of the made head is an ellipsoid, 0.45 of its half-axes, and a bright spot.
    assert white == pytest.approx(4 / 3 * np.pi * 0.45**3 * 86 * 102 * 90, rel=0.2)


def test_images_of_no_dataset_get_no_dataset_description(settings):
    run_images({}, replace(settings, bids_dir=None), lambda *_: None)
    assert not (settings.output_dir / "dataset_description.json").exists()


def test_misnamed_image_fails_alone(settings, make_dataset):
    make_dataset("sub-01/anat/sub-01_desc-preproc_T1w.nii.gz")
    statuses = run(settings)
    assert statuses[("sub-01_desc-preproc_T1w", "mask")] == "failed"
    assert statuses[("sub-01_T1w", "mask")] == "done"
    assert "is not that of a raw BIDS image" in reasons(settings)


def test_output_folder_without_locks_is_named(settings):
    settings.output_dir.mkdir()
    (settings.output_dir / ".brainchop").mkdir()
    (settings.output_dir / ".brainchop" / "locks").write_text("in the way")
    with pytest.raises(OutputError, match="cannot be locked"):
        run(settings)


def test_signal_ends_a_run_that_has_nothing_to_do(settings):
    """Images that are complete are looked at without a wait; signals count all the same."""
    run(settings)

    def interrupt(finished, *_):
        if finished == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        run_participants(settings, interrupt)
