"""Made data: a head with left ≠ right, models that read intensities, a three-subject dataset."""

import importlib
import json
import multiprocessing
import os
import pkgutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NoReturn

import nibabel as nib
import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.engines import server
from brainchop_pipe.inference import openvino_runner
from brainchop_pipe.storage import sha256_of_bytes

REPOSITORY = Path(__file__).parents[1]

# Times say nothing on a busy machine; in CI the examples are the same each time.
settings.register_profile("tests", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("tests")


def lack(reason: str) -> NoReturn:
    """Skip a test, or a module at its top, for want of something; in CI, where all must be, fail it."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real images, weights and references; in CI its absence is a failure."""
    folder = Path(os.environ.get("BRAINCHOP_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        lack(f"needs the folder of real data, which is not at {folder} (BRAINCHOP_SHARED)")
    return folder.resolve()


@pytest.fixture(scope="session", autouse=True)
def _hear_interrupts() -> None:
    """Shells start what runs in the background deaf to Ctrl-C, and so is all that it starts in turn."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_inherited_choices(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests from a user's cache, mirror and SLURM share."""
    monkeypatch.setenv("BRAINCHOP_MODEL_DIR", str(tmp_path_factory.getbasetemp() / "models"))
    for name in ("BRAINCHOP_MODEL_MIRROR", "SLURM_CPUS_PER_TASK", "BRAINCHOP_CONTAINER_DIGEST"):
        monkeypatch.delenv(name, raising=False)


def require_openvino() -> None:
    """Skip a test without OpenVINO; importing it here would bring its uploader along."""
    if not openvino_runner.is_installed():
        pytest.skip("openvino is not installed")


def compiled(module: str) -> ModuleType:
    """Import a module in C, which is built where a compiler is."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        lack(f"needs a package that was built with a compiler ({error})")


def require_native() -> None:
    """Skip a test without convolutions of our own."""
    compiled("brainchop_pipe.inference.native._convolution")


def head_voxels(shape: tuple[int, int, int] = (44, 52, 46)) -> np.ndarray:
    """Give a head in RAS order: skin, brain of two tissues, and a bright spot on its right side only."""
    ijk = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    radius = np.sqrt((ijk**2).sum(axis=0))
    head = np.zeros(shape, np.int16)
    head[radius < 0.9] = 100
    head[radius < 0.7] = 500
    head[radius < 0.45] = 1000
    spot = np.sqrt(((ijk - np.array([0.62, 0, 0]).reshape(3, 1, 1, 1)) ** 2).sum(axis=0))
    head[spot < 0.15] = 1000
    return head


def head_affine(spacing_mm: float = 4.0, shape: tuple[int, int, int] = (44, 52, 46)) -> np.ndarray:
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = -spacing_mm * (np.array(shape) - 1) / 2
    return affine


@pytest.fixture
def head() -> Volume:
    voxels = head_voxels()
    return Volume(voxels, Grid(voxels.shape, head_affine()))


def save(path: Path, voxels: np.ndarray, affine: np.ndarray | None, **header: object) -> Path:
    """Write an image; sform and qform codes are 1 unless the header says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(voxels, affine)
    if affine is not None:
        image.set_sform(affine, int(header.pop("sform_code", 1)))
        image.set_qform(affine, int(header.pop("qform_code", 1)), strip_shears=True)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


@pytest.fixture
def head_file(tmp_path: Path) -> Path:
    return save(tmp_path / "in" / "head_T1w.nii.gz", head_voxels(), head_affine())


def linear_model(weights: list[float], biases: list[float]) -> bytes:
    """Make a model whose class logits are straight lines of the intensity at the same voxel."""
    classes = len(weights)
    kernel = np.array(weights, np.float32).reshape(classes, 1, 1, 1, 1)
    tensors = [("kernel", kernel), ("bias", np.array(biases, np.float32))]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["volume", "kernel", "bias"], ["logits"], kernel_shape=[1, 1, 1])],
        "linear",
        [helper.make_tensor_value_info("volume", TensorProto.FLOAT, [1, 1, "D", "H", "W"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes, "D", "H", "W"])],
        [numpy_helper.from_array(array, name) for name, array in tensors],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def label(index: int, name: str, color: str = "#808080", **more: object) -> dict[str, object]:
    return {"index": index, "name": name, "color": color, **more}


# The box of the made head is a third of the lattice, and takes a third of the time.
MADE_INPUT = {
    "intensity": {"method": "minmax"},
    "crop": {"threshold": 20, "margin_voxels": 4, "agreement": 1, "measured_on": "made heads"},
}

# Intensities of the made head after scaling by the range: skin 0.1, grey 0.5, white 1.
_TISSUE_LABELS = [
    label(0, "Background", "#000000"),
    label(1, "White matter", tissue="WM"),
    label(2, "Grey matter", tissue="GM"),
]
_BOTH_LABELS = [*_TISSUE_LABELS, label(3, "Cerebrospinal fluid", tissue="CSF")]
_MADE_MODELS: dict[str, tuple[list[float], list[float], dict[str, object]]] = {
    "mask": (
        [0, 20],
        [0, -4],
        {"role": "mask", "description": "brain", "includes_csf": True},
    ),
    "tissue": ([0, 60, 20], [0, -40, -8], {"role": "tissue", "description": "tissue"}),
    "both": (
        [0, 70, 30, 10],
        [0, -40, -10, -2],
        {"role": "tissue", "description": "tissue", "includes_csf": True},
    ),
    "regions": ([0, 20, 60], [0, -8, -40], {"role": "regions", "description": "regions"}),
}


def make_card(folder: Path, kind: str, **changes: object) -> Path:
    """Write a made model and its card; `changes` replace keys of the card at its top level."""
    weights, biases, output = _MADE_MODELS[kind]
    content = linear_model(weights, biases)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{kind}.onnx").write_bytes(content)
    digest = sha256_of_bytes(content)
    numbered = [label(i, f"Class {i}") for i in range(len(weights))]
    labels = {"tissue": _TISSUE_LABELS, "both": _BOTH_LABELS}.get(kind, numbered)
    card = {
        "schema_version": 1,
        "name": f"made_{kind}",
        "version": "1",
        "bids_label": f"made{kind}",
        "title": f"Made {kind} model",
        "description": "Reads intensities.",
        "intended_use": "Tests. Not for clinical use.",
        "training_data": "None.",
        "modalities": ["T1w", "T2w"] if kind == "mask" else ["T1w"],
        "license": {"id": "MIT", "url": "https://opensource.org/license/mit"},
        "citations": [],
        "weights": {
            "format": "onnx",
            "files": [{"path": f"{kind}.onnx", "sha256": digest}],
            "onnx_sha256": digest,
        },
        "input": MADE_INPUT,
        "output": {**output, "labels": labels},
        "memory": {"full_gb": 1.0, "cropped_gb": 0.5},
        **changes,
    }
    path = folder / f"{kind}.json"
    path.write_text(json.dumps(card))
    return path


@pytest.fixture
def cards(tmp_path: Path) -> SimpleNamespace:
    """Paths of the cards of made models: mask, tissue, both of these in one, regions."""
    folder = tmp_path / "cards"
    return SimpleNamespace(**{kind: str(make_card(folder, kind)) for kind in _MADE_MODELS})


@pytest.fixture
def make_dataset(tmp_path: Path) -> Callable[..., Path]:
    """Make a BIDS dataset of heads: `make_dataset("sub-01/anat/sub-01_T1w.nii.gz", ...)`."""

    def make(*files: str) -> Path:
        root = tmp_path / "bids"
        root.mkdir(exist_ok=True)
        description = {"Name": "made", "BIDSVersion": "1.11.1", "Authors": ["A", "B"]}
        (root / "dataset_description.json").write_text(json.dumps(description))
        (root / "README.md").write_text("A dataset made for tests. " * 10)
        for file in files:
            save(root / file, head_voxels(), head_affine())
        return root

    return make


@pytest.fixture
def dataset(make_dataset: Callable[..., Path]) -> Path:
    """Three participants, one with two sessions, one with a T2w beside its T1w."""
    return make_dataset(
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
        "sub-02/ses-b/anat/sub-02_ses-b_T1w.nii.gz",
        "sub-03/anat/sub-03_T1w.nii.gz",
        "sub-03/anat/sub-03_T2w.nii.gz",
    )


@pytest.fixture
def break_worker(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make a function fail in worker processes: see `faults/sitecustomize.py`."""

    def break_it(fault: str) -> None:
        module, function, _ = fault.split(":", 2)
        pkgutil.resolve_name(f"{module}:{function}")  # A name that is not there would break nothing.
        monkeypatch.setattr(server, "_context", lambda: multiprocessing.get_context("spawn"))
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests" / "faults"))
        monkeypatch.setenv("BRAINCHOP_TEST_FAULT", fault)

    return break_it
