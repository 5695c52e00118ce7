"""The workflows in other people's hands: examples as they stand, niworkflows' place, sMRIPrep."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from brainchop_pipe.workflows import dataset_nipype, folder_pydra
from brainchop_pipe.workflows.bids_app import run_participants
from brainchop_pipe.workflows.publish_product import publish_image
from brainchop_pipe.workflows.segment_nipype import (
    init_brainchop_brain_extraction_wf,
    init_brainchop_derivatives_wf,
    init_brainchop_segment_wf,
)

from bids import BIDSLayout
from brainchop_pipe.errors import InputError, UsageError
from brainchop_pipe.file_steps import (
    conform_file,
    extract_brain_file,
    segment_labels_file,
    segment_tissues_file,
)
from brainchop_pipe.settings import Processing, Settings
from brainchop_pipe.step_files import LabelFiles, TissueFiles
from conftest import head_affine, head_voxels, save


@pytest.fixture(autouse=True)
def _hash_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path / "hashes"))


@pytest.fixture
def models(cards) -> tuple[str, ...]:
    return cards.mask, cards.tissue, cards.regions


def load(path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def test_pydra_example_goes_on_after_a_bad_image(tmp_path, head_file, cards, capsys):
    (head_file.parent / "bad.nii.gz").write_bytes(b"no image")
    (head_file.parent / "notes.txt").write_text("no image either")
    results = folder_pydra.segment_folder(head_file.parent, tmp_path / "cache", [cards.regions])
    assert {path.name for path in results} == {"bad.nii.gz", "head_T1w.nii.gz"}
    assert results[head_file.parent / "bad.nii.gz"] is None
    assert (load(results[head_file].labels[0]) == 2).any()
    arguments = [str(head_file.parent), str(tmp_path / "cache"), cards.regions]
    assert folder_pydra.main(arguments) == 75
    (head_file.parent / "bad.nii.gz").unlink()
    capsys.readouterr()
    assert folder_pydra.main(arguments) == 0
    assert "seg-maderegions.nii.gz" in capsys.readouterr().out


def test_nipype_example_writes_what_the_app_takes_for_its_own(tmp_path, dataset, models):
    arguments = [dataset, tmp_path / "out", tmp_path / "work", *models]
    command = [sys.executable, "-m", "brainchop_pipe.workflows.dataset_nipype", *map(str, arguments)]
    subprocess.run(command, check=True, env={**os.environ, "HOME": str(tmp_path / "home")})
    settings = Settings(
        tmp_path / "out", Processing(models=models), bids_dir=dataset, skip_bids_validation=True
    )
    statuses = {(o.source.name, o.status) for o in run_participants(settings, lambda *_: None)}
    assert {status for name, status in statuses if "T1w" in name} == {"complete"}


def test_models_are_nodes_with_the_needs_of_their_cards(models):
    workflow = init_brainchop_segment_wf(models=models, omp_nthreads=3)
    nodes = {name: workflow.get_node(name) for name in ("tissues", "segment_maderegions", "conform")}
    assert [nodes[n].n_procs for n in ("tissues", "segment_maderegions")] == [3, 3]
    assert [nodes[n].mem_gb for n in ("tissues", "segment_maderegions")] == [2.5, 2.5]
    assert nodes["conform"].n_procs == 1


def test_derivatives_need_a_dataset(tmp_path, dataset, models, head_file):
    workflow = init_brainchop_derivatives_wf(
        bids_dir=dataset, output_dir=tmp_path / "out", models=models, name="w"
    )
    workflow.base_dir = tmp_path / "work"
    workflow.inputs.inputnode.source_file = str(head_file)
    with pytest.raises(UsageError, match="is not in the dataset"):
        workflow.get_node("write").interface.run(cwd=str(tmp_path), source_file=str(head_file))


@pytest.fixture
def made(tmp_path, dataset, cards) -> tuple[Path, Settings, TissueFiles, LabelFiles]:
    """An image of a dataset, and what the steps made of it."""
    image = dataset / "sub-01/anat/sub-01_T1w.nii.gz"
    conformed = conform_file(image, tmp_path / "conformed.nii")
    brain = extract_brain_file(conformed, tmp_path, mask_model=cards.mask)
    tissues = segment_tissues_file(
        conformed, image, tmp_path / "made", **brain._asdict(), tissue_model=cards.tissue
    )
    labels = segment_labels_file(conformed, image, tmp_path / "made", model=cards.regions)
    processing = Processing(models=(cards.mask, cards.tissue, cards.regions))
    return image, Settings(tmp_path / "out", processing, bids_dir=dataset), tissues, labels


def test_files_of_another_model_are_not_published(made, cards):
    image, settings, tissues, labels = made
    other = replace(settings.processing, models=(cards.mask, cards.tissue, cards.mask.replace("mask", "m")))
    shutil.copy(cards.mask, cards.mask.replace("mask", "m"))
    card = json.loads(Path(cards.mask).read_text()) | {"name": "other", "bids_label": "other"}
    Path(cards.mask.replace("mask.json", "m.json")).write_text(json.dumps(card))
    with pytest.raises(InputError, match="were made by made_regions, not by other"):
        publish_image(image, replace(settings, processing=other), tissues, [labels])


def test_files_of_other_parameters_are_not_published(made):
    image, settings, tissues, labels = made
    native = replace(settings, processing=replace(settings.processing, output_orientation="native"))
    with pytest.raises(InputError, match=r"were made with \{'OutputOrientation': 'ras'\}"):
        publish_image(image, native, tissues, [labels])
    assert not list(settings.output_dir.rglob("*.nii.gz"))


def test_files_of_another_person_are_not_published(made, dataset):
    image, settings, tissues, labels = made
    other = dataset / "sub-03/anat/sub-03_T1w.nii.gz"
    save(other, head_voxels()[::-1].copy(), head_affine())
    with pytest.raises(InputError, match=r"tissues\.json was not made of sub-03_T1w\.nii\.gz"):
        publish_image(other, settings, tissues, [labels])
    misnamed = image.with_name("sub-01_space-MNI_T1w.nii.gz")
    shutil.copy(image, misnamed)
    with pytest.raises(InputError, match="not that of a raw BIDS image"):
        publish_image(misnamed, settings, tissues, [labels])
    assert len(publish_image(image, settings, tissues, [labels])) == 6


def test_brain_extraction_needs_a_mask_model(cards):
    with pytest.raises(UsageError, match="cannot own the tissue maps"):
        init_brainchop_brain_extraction_wf(mask_model=cards.regions, tissue_model=cards.tissue)


def test_brain_extraction_gives_what_niworkflows_does(tmp_path, cards):
    affine = np.diag([-1.0, 1, 1, 1]) @ head_affine()
    images = [str(save(tmp_path / f"{n}_T1w.nii.gz", head_voxels() * n, affine)) for n in (1, 2)]
    workflow = init_brainchop_brain_extraction_wf(mask_model=cards.mask, tissue_model=cards.tissue)
    workflow.base_dir = tmp_path / "work"
    workflow.inputs.inputnode.in_files = images
    nodes = {node.name: node for node in workflow.run(plugin="Linear").nodes()}
    fields = {"out_file", "out_mask", "bias_corrected", "bias_image", "out_segm", "out_tpms"}
    assert set(workflow.get_node("outputnode").interface._fields) == fields
    assert set(workflow.get_node("inputnode").interface._fields) == {"in_files", "in_mask"}
    corrected = nodes["correct_bias"].result.outputs
    mask = load(nodes["tissues"].result.outputs.mask)
    assert len(corrected.corrected) == len(corrected.brain) == len(corrected.field) == 2
    assert nib.aff2axcodes(nib.load(corrected.brain[0]).affine) == ("L", "A", "S")
    assert not load(corrected.brain[1])[mask == 0].any()
    segm, dseg = load(nodes["reorder"].result.outputs.out_file), load(nodes["tissues"].result.outputs.dseg)
    np.testing.assert_array_equal(segm, np.array([0, 2, 3, 1])[dseg])
    assert [Path(p).name[:2] for p in nodes["tpms"].result.outputs.out] == ["CS", "GM", "WM"]


@pytest.fixture
def derivatives(dataset, tmp_path, models) -> tuple[Path, Path]:
    settings = Settings(
        tmp_path / "out", Processing(models=models), bids_dir=dataset, skip_bids_validation=True
    )
    run_participants(settings, lambda *_: None)
    return dataset, tmp_path / "out"


def names(found: object) -> list[str]:
    paths = found if isinstance(found, list) else [found]
    return [Path(str(path)).name for path in paths]


def test_smriprep_finds_mask_dseg_and_probsegs_and_skips_its_stages(derivatives, tmp_path):
    python = _python_with_smriprep()
    if python is None:
        _check_queries_of_smriprep(derivatives[1])
        return
    bids_dir, out = derivatives
    t1w = bids_dir / "sub-01/anat/sub-01_T1w.nii.gz"
    script = Path(__file__).with_name("smriprep_check.py")
    environment = {"HOME": str(tmp_path), "TEMPLATEFLOW_HOME": str(tmp_path / "tf"), "NO_ET": "1"}
    result = subprocess.run(
        [python, str(script), str(bids_dir), str(out), str(t1w), "01"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert result.returncode == 0, result.stderr
    found, log = json.loads(result.stdout.splitlines()[0]), result.stdout
    assert names(found["t1w_mask"]) == ["sub-01_desc-brain_mask.nii.gz"]
    assert names(found["t1w_dseg"]) == ["sub-01_dseg.nii.gz"]
    assert names(found["t1w_tpms"]) == [f"sub-01_label-{t}_probseg.nii.gz" for t in ("GM", "WM", "CSF")]
    for line in (
        "ANAT Found brain mask",
        "ANAT Skipping skull-strip, INU-correction only",
        "ANAT Skipping Stage 3",
        "ANAT Found discrete segmentation",
        "ANAT Found tissue probability maps",
    ):
        assert line in log


def _python_with_smriprep() -> str | None:
    """Find a Python that has smriprep: named by the environment, or a newer one on the path."""
    for python in (
        os.environ.get("BRAINCHOP_SMRIPREP_PYTHON"),
        *map(shutil.which, ("python3.12", "python3.13")),
    ):
        if python and subprocess.run([python, "-c", "import smriprep"], capture_output=True).returncode == 0:
            return python
    return None


def _check_queries_of_smriprep(out: Path) -> None:
    """Ask what sMRIPrep 0.20 asks (its ``io_spec.json``), where it is not installed itself."""
    layout = BIDSLayout(out, validate=False, is_derivative=True, config=["bids", "derivatives"])
    base = {"subject": "01", "datatype": "anat", "space": None, "extension": [".nii.gz", ".nii"]}
    queries = {
        "mask": ({"desc": "brain", "suffix": "mask"}, 1),
        "dseg": ({"desc": None, "suffix": "dseg"}, 1),
        "tpms": ({"label": ["GM", "WM", "CSF"], "suffix": "probseg"}, 3),
        "preproc": ({"desc": "preproc", "suffix": "T1w"}, 0),
    }
    for query, count in queries.values():
        assert len(layout.get(**base, **query)) == count


def test_queries_of_smriprep_find_one_of_each(derivatives):
    _check_queries_of_smriprep(derivatives[1])


def test_examples_explain_themselves():
    for example in (folder_pydra, dataset_nipype):
        with pytest.raises(SystemExit, match="0"):
            example.main(["--help"])
