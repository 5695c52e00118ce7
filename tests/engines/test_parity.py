"""Function, task and interface of a step: one set of parameters, one result."""

import inspect
from pathlib import Path

import attrs
import pytest
from pydra.utils.general import get_fields

from brainchop_pipe import file_steps
from brainchop_pipe.engines import nipype_interfaces, pydra_tasks
from brainchop_pipe.engines.describe import descriptions, parameters
from brainchop_pipe.images import read_image
from brainchop_pipe.record import BrainRecord
from brainchop_pipe.versions import code_version

STEPS = {
    "Conform": file_steps.conform_file,
    "ExtractBrain": file_steps.extract_brain_file,
    "Infer": file_steps.infer_file,
    "PostFilter": file_steps.post_filter_file,
    "Restore": file_steps.restore_file,
    "SegmentLabels": file_steps.segment_labels_file,
    "SegmentTissues": file_steps.segment_tissues_file,
    "CorrectBias": file_steps.correct_bias_file,
}
OUTSIDE = {"name", "version", "function", "args"}
steps = pytest.mark.parametrize("name", STEPS)


@pytest.fixture(autouse=True)
def _hash_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PYDRA_HASH_CACHE", str(tmp_path / "hashes"))


def defaults_of_task(name) -> dict[str, object]:
    fields = {f.name: f.default for f in get_fields(getattr(pydra_tasks, name))}
    return {n: None if getattr(d, "name", "") == "NO_DEFAULT" or d == () else d for n, d in fields.items()}


@steps
def test_parameters_and_defaults_are_the_same(name):
    step = {n: None if p.default in (p.empty, ()) else p.default for n, p in parameters(STEPS[name]).items()}
    task = {n: d for n, d in defaults_of_task(name).items() if n not in OUTSIDE}
    interface = getattr(nipype_interfaces, name)()
    traits = {n: getattr(interface.inputs, n) for n in interface.inputs.copyable_trait_names()}
    traits = {n: v if interface.inputs.trait(n).usedefault else None for n, v in traits.items()}
    assert task == step
    assert {n: v for n, v in traits.items() if n not in OUTSIDE} == step


@steps
def test_docstrings_are_the_same(name):
    step, task = STEPS[name], getattr(pydra_tasks, name)
    texts = descriptions(step)
    interface = getattr(nipype_interfaces, name)
    assert inspect.getdoc(task) == inspect.getdoc(interface) == inspect.getdoc(step)
    assert texts.keys() >= parameters(step).keys()
    helps = {f.name: f.help for f in get_fields(task)}
    for parameter in parameters(step):
        assert texts[parameter]
        assert helps[parameter] == texts[parameter] == interface.input_spec().trait(parameter).desc


@steps
def test_version_is_an_input_of_both(name):
    task = {f.name: f for f in get_fields(getattr(pydra_tasks, name))}["version"]
    assert isinstance(task.default, attrs.Factory)
    assert task.default.factory() == getattr(nipype_interfaces, name)().inputs.version == code_version()


@pytest.fixture
def inputs(tmp_path, head_file, cards) -> dict[str, dict[str, object]]:
    """Inputs of each step, made by the functions."""
    conformed = file_steps.conform_file(head_file, tmp_path / "conformed.nii")
    labels = file_steps.infer_file(conformed, tmp_path / "labels.nii", model=cards.regions)
    native = file_steps.segment_labels_file(
        conformed, head_file, tmp_path / "n", model=cards.mask, orientation="native"
    )
    brain = file_steps.extract_brain_file(conformed, tmp_path, mask_model=cards.mask)
    return {
        "Conform": {"in_file": head_file},
        "ExtractBrain": {"in_file": conformed, "mask_model": cards.mask},
        "Infer": {"in_file": conformed, "model": cards.regions},
        "PostFilter": {"in_file": labels, "model": cards.regions},
        "Restore": {"in_file": labels, "reference": head_file},
        "SegmentLabels": {"in_file": conformed, "reference": head_file, "model": cards.regions},
        "SegmentTissues": {
            **{"in_file": conformed, "reference": head_file, "tissue_model": cards.tissue},
            **brain._asdict(),
        },
        "CorrectBias": {"in_file": head_file, "mask": native.labels},
    }


def images(folder: Path) -> dict[str, bytes]:
    return {p.name: content(p) for p in folder.glob("*.nii*")}


def content(path: Path) -> bytes:
    """Give the bytes of an image; of one that says how long its making took, header and voxels."""
    image = read_image(path, allow_constant=True)
    if '"seconds"' not in image.comment:
        return path.read_bytes()
    record = BrainRecord.model_validate_json(image.comment).model_copy(update={"seconds": {}})
    volume = image.volume
    return record.model_dump_json().encode() + volume.grid.affine.tobytes() + volume.voxels.tobytes()


@steps
def test_outputs_are_the_same_byte_for_byte(name, inputs, tmp_path):
    given, step = inputs[name], STEPS[name]
    task = getattr(pydra_tasks, name)(**given)(cache_root=tmp_path / "cache")
    of_task = Path(getattr(task, next(iter(get_fields(task))).name)).parent
    interface = getattr(nipype_interfaces, name)(**given)
    (tmp_path / "node").mkdir()
    interface.run(cwd=str(tmp_path / "node"))
    place = {"out_dir": tmp_path / "function"}
    if "out_file" in inspect.signature(step).parameters:
        place = {"out_file": tmp_path / "function" / next(iter(images(of_task)))}
    step(**given, **place)
    expected = images(tmp_path / "function")
    assert expected
    assert images(of_task) == images(tmp_path / "node") == expected
