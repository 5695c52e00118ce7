"""The command as a user types it: output, exit codes, what is left behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from benchmarks.processes import descendants_of
from brainchop_pipe import __version__
from brainchop_pipe.cli.arguments import describe_command
from brainchop_pipe.cli.main import main
from brainchop_pipe.zoo.catalog import shipped_models
from conftest import REPOSITORY, head_affine, head_voxels, save


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """Run the command; gives exit code, standard output, standard error. Temporary files are watched."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)

    def call(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_participant_and_group_level_of_a_dataset(run, dataset, tmp_path, cards):
    code, out, err = run(dataset, tmp_path / "out", "participant", "--models", cards.regions)
    assert code == 0, err
    assert out.count("done") == 4
    assert "sub-03_T2w.nii.gz: T2w is not among --modality T1w" in out
    assert "[5/5]" in err
    # The server that starts workers keeps its socket as long as this process lives.
    assert not [p for p in (tmp_path / "tmp").iterdir() if not p.name.startswith("pymp-")]
    code, out, _ = run(dataset, tmp_path / "out", "group")
    assert code == 0
    tables = [f"phenotype/brainchop_maderegions{session}.tsv" for session in ("", "_ses-a", "_ses-b")]
    assert out.splitlines() == [f"wrote {file}" for file in ("index.html", "group.tsv", *tables)]


def test_failure_of_an_image_is_shown_and_its_log_kept(run, dataset, tmp_path, cards):
    (dataset / "sub-01/anat/sub-01_T1w.nii.gz").write_bytes(b"")
    words = (
        dataset,
        tmp_path / "out",
        "participant",
        "--models",
        cards.regions,
        "--participant-label",
        "sub-01",
    )
    code, out, _ = run(*words)
    assert code == 75
    assert "\nsub-01_T1w.nii.gz is empty (0 bytes)" in out
    (log,) = (tmp_path / "out/logs").glob("run-*.log")
    assert "is empty" in log.read_text()
    assert str(tmp_path) not in log.read_text()


def test_work_folder_of_the_user_is_never_removed(run, dataset, tmp_path, cards):
    work = tmp_path / "brainchop-work"
    words = ("participant", "--models", cards.regions, "--participant-label", "01", "-w", work, "-vv")
    assert run(dataset, tmp_path / "out", *words)[0] == 0
    assert work.is_dir()
    (log,) = (tmp_path / "out/logs").glob("run-*.log")
    assert "BIDS_DIR OUT participant" in log.read_text()


def test_segment_takes_images_of_no_dataset(run, tmp_path, cards):
    nib.save(nib.MGHImage(head_voxels(), head_affine()), tmp_path / "orig.mgz")
    other = save(tmp_path / "my scan.nii", head_voxels(), head_affine())
    words = ("-o", tmp_path / "out", "--models", cards.mask, cards.tissue)
    code, out, err = run("segment", tmp_path / "orig.mgz", other, *words)
    assert code == 0, out + err
    names = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert {"orig_dseg.nii.gz", "orig_desc-brain_mask.nii.gz", "my scan_label-GM_probseg.nii.gz"} <= names
    sidecar = json.loads((tmp_path / "out" / "orig_dseg.json").read_text())
    assert sidecar["Sources"] == ["orig.mgz"]
    assert sidecar["Provenance"]["Command"].startswith("brainchop segment orig.mgz my scan.nii -o OUT")


def test_segment_reads_the_contrast_from_a_bids_name_or_is_told(run, tmp_path, cards):
    image = save(tmp_path / "sub-1_T2w.nii.gz", head_voxels(), head_affine())
    code, out, _ = run("segment", image, "-o", tmp_path / "out", "--models", cards.regions)
    assert code == 75
    assert "was not trained for T2w" in out
    told = ("--models", cards.regions, "--modality", "T1w")
    assert run("segment", image, "-o", tmp_path / "out", *told)[0] == 0
    assert (tmp_path / "out" / "sub-1_seg-maderegions_desc-regions_dseg.nii.gz").exists()


def test_label_map_as_input_is_not_written_over(run, tmp_path, cards):
    image = save(tmp_path / "sub-1_dseg.nii.gz", head_voxels(), head_affine())
    before = image.read_bytes()
    run("segment", image, "-o", tmp_path, "--models", cards.mask, cards.tissue)
    assert image.read_bytes() == before
    assert (tmp_path / "sub-1_dseg_dseg.nii.gz").exists()


def test_images_of_one_name_are_refused(run, tmp_path, cards):
    images = [save(tmp_path / place / "a.nii", head_voxels(), head_affine()) for place in "xy"]
    code, _, err = run("segment", *images, "-o", tmp_path / "out")
    assert code == 64
    assert "have one name" in err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("{dataset}", "{out}", "session"), 17, "give participant or group"),
        (("{dataset}", "{out}"), 64, "the following arguments are required"),
        (("{dataset}", "{out}", "participant", "--nprocs", "0"), 64, "0 is not 1 or more"),
        (("{dataset}", "{out}", "participant", "--device", "tpu"), 64, "invalid choice"),
        (("{dataset}", "{out}", "participant", "--models", "none"), 64, "there is no model 'none'"),
        (("{dataset}", "{dataset}", "participant"), 64, "is the dataset itself"),
        (("{dataset}", "{dataset}/sub-01", "participant"), 64, "among raw data"),
        (("{dataset}", "{out}", "participant", "--participant-label", "77"), 18, "participant 77 is not in"),
        (("{dataset}", "{out}", "participant", "--session-label", "q"), 18, "matches"),
        (("{dataset}/none", "{out}", "participant"), 66, "is no folder"),
        (("{dataset}/sub-01", "{out}", "participant"), 16, "no dataset_description.json"),
        (("{dataset}", "/dev/null/out", "participant"), 73, "cannot be written"),
        (
            ("{dataset}", "{out}", "participant", "-w", "{dataset}/README.md/w"),
            73,
            "name another with --work-dir",
        ),
        (("{dataset}", "{out}", "participant", "--models", "{dataset}/none.json"), 66, "is not there"),
        (("segment", "{dataset}/none.nii", "-o", "{out}"), 66, "is not there"),
        (("segment", "{dataset}/README.md"), 64, "-o/--output-dir"),
        (("models", "show", "nothing"), 64, "there is no model 'nothing'"),
        (("models",), 64, "required"),
    ],
)
def test_errors_have_the_exit_codes_of_the_bids_draft(run, dataset, tmp_path, words, code, message):
    filled = [word.format(dataset=dataset, out=tmp_path / "out") for word in words]
    found, _, err = run(*filled)
    assert found == code
    assert message in err
    # The server that starts workers keeps its socket as long as this process lives.
    assert not [p for p in (tmp_path / "tmp").iterdir() if not p.name.startswith("pymp-")]


def test_filter_file_and_memory_limit_are_read(run, dataset, tmp_path, cards):
    filters = tmp_path / "filter.json"
    filters.write_text('{"t1w": {"session": "b"}, "t2w": {"session": "b"}}')
    words = ("participant", "--models", cards.regions, "--bids-filter-file", filters)
    code, out, _ = run(dataset, tmp_path / "out", *words, "--mem-mb", "4000")
    assert code == 0
    assert out.count("done") == 1
    assert run(dataset, tmp_path / "out", *words, "--mem-gb", "0.1")[0] == 64


def test_version_and_help(run, capsys):
    assert run("--version")[:2] == (0, f"brainchop_pipe {__version__}\n")
    for words in (["--help"], ["segment", "--help"], ["models", "--help"], ["a", "--version"]):
        with pytest.raises(SystemExit) as stop:
            main(words)
        assert stop.value.code == 0
    assert "brainchop segment IMAGE" in capsys.readouterr().out


def test_version_loads_no_library():
    code = (
        "import sys; from brainchop_pipe.cli.main import main; main(['--version']);"
        "print([m for m in ('numpy', 'nibabel', 'onnxruntime', 'bids') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.endswith("[]\n")


def test_models_are_listed_shown_and_verified(run, tmp_path, monkeypatch):
    folder = tmp_path / "models"
    monkeypatch.setenv("BRAINCHOP_MODEL_DIR", str(folder))
    code, out, _ = run("models", "list")
    assert code == 0
    assert all(name in out for name in shipped_models())
    code, out, _ = run("models", "show", "tissue_fast")
    assert json.loads(out)["bids_label"] == "tissuefast"
    assert "mindgrab: not on this machine" in run("models", "verify")[1]
    card = shipped_models()["mindgrab"].card
    folder.mkdir()
    (folder / f"mindgrab-{card.weights.onnx_sha256[:12]}.onnx").write_bytes(b"damaged")
    code, out, err = run("models", "verify")
    assert code == 65
    assert "mindgrab: damaged" in out
    assert "pull" in err


def test_command_line_of_provenance_holds_no_path():
    argv = [
        "/home/ann/study",
        "/scratch/ann/out",
        "participant",
        "-w",
        "/tmp/w",
        "--bids-filter-file=/home/ann/f.json",
    ]
    places = {
        Path("/home/ann/study"): "BIDS_DIR",
        Path("/scratch/ann/out"): "OUT",
        Path("/tmp/w"): "WORK_DIR",
        None: "x",
    }
    expected = "brainchop BIDS_DIR OUT participant -w WORK_DIR --bids-filter-file=f.json"
    assert describe_command(argv, places) == expected
    assert describe_command(["--force", "--model=", "tissue"], {}) == "brainchop --force --model= tissue"
    assert describe_command(["-o/home/ann", "-vv"], {Path("/home/ann"): "OUT"}) == "brainchop -oOUT -vv"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_ends_soon_and_the_same_command_goes_on(dataset, tmp_path, cards, number):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "brainchop_pipe.cli.main", str(dataset), str(out), "participant"]
    command += ["--models", cards.mask, cards.tissue, "--skip-bids-validation"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    while not (out / "sub-01").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert not list(out.rglob("*.brainchop-tmp"))
    assert not list(tmp_path.glob("brainchop-*"))
    again = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert again.returncode == 0
    assert len(list(out.rglob("*_dseg.json"))) == 4
    for path in out.rglob("*.nii.gz"):
        assert np.asarray(nib.load(path).dataobj).any()


def test_signal_that_reaches_other_processes_first_fails_no_image(dataset, tmp_path, cards):
    """A cluster that ends a job tells all of its processes, in an order of its own."""
    out, mark = tmp_path / "out", tmp_path / "mark"
    command = [sys.executable, "-m", "brainchop_pipe.cli.main", str(dataset), str(out), "participant"]
    command += ["--models", cards.mask, "--device", "cpu", "--skip-bids-validation"]
    hold = {
        "PYTHONPATH": str(REPOSITORY / "tests" / "faults"),
        "BRAINCHOP_TEST_FAULT": "brainchop_pipe.steps:predict:hold:sub-01",
        "BRAINCHOP_TEST_MARK": str(mark),
    }
    with subprocess.Popen(command, env=os.environ | hold) as process:
        while not mark.exists():
            assert process.poll() is None
            time.sleep(0.02)
        others = descendants_of(process.pid)
        try:
            for other in others:
                os.kill(other, signal.SIGTERM)
            # Time to miss one that is gone.
            time.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=30) == 130
        finally:
            mark.unlink()
    assert len(others) > 2
    assert not list(out.glob("logs/crash/*"))


# nibabel leaves the file of an .mgh open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_images_of_all_kinds_of_names_and_formats(run, tmp_path, head_file, cards):
    """Formats that are less common, a suffix in capitals, a link to a name without any."""
    voxels, affine = head_voxels(), head_affine()
    nib.save(nib.Nifti2Image(voxels, affine), tmp_path / "two.nii")
    nib.save(nib.MGHImage(voxels.astype(np.float32), affine), tmp_path / "free.mgh")
    shutil.copy(head_file, tmp_path / "SHOUT.NII.GZ")
    shutil.copy(head_file, tmp_path / "0123456789")
    (tmp_path / "link.nii.gz").symlink_to(tmp_path / "0123456789")
    names = ["two.nii", "free.mgh", "SHOUT.NII.GZ", "link.nii.gz"]
    code, out, err = run(
        "segment", *(tmp_path / n for n in names), "-o", tmp_path / "o", "--models", cards.regions
    )
    assert code == 0, out + err
    assert out.count("done") == 4


def test_error_names_the_link_and_not_what_it_leads_to(run, tmp_path, head_file, cards):
    (tmp_path / "JaneDoe.nii.gz").write_bytes(head_file.read_bytes()[:3000])
    (tmp_path / "sub-01_T1w.nii.gz").symlink_to(tmp_path / "JaneDoe.nii.gz")
    code, out, _ = run(
        "segment", tmp_path / "sub-01_T1w.nii.gz", "-o", tmp_path / "o", "--models", cards.regions
    )
    assert code == 75
    assert "sub-01_T1w.nii.gz is truncated or corrupt" in out
    assert "JaneDoe" not in out


def test_run_from_a_folder_that_is_gone_says_so(tmp_path, head_file, cards):
    gone = tmp_path / "gone"
    gone.mkdir()
    command = (
        f"rmdir {gone}; exec {sys.executable} -m brainchop_pipe.cli.main segment {head_file} -o {tmp_path}/o"
    )
    result = subprocess.run(["sh", "-c", command], cwd=gone, capture_output=True, text=True)
    assert result.returncode == 64
    assert "the current folder is not there any more" in result.stderr
