"""Who may import whom: nothing points back."""

import ast
from pathlib import Path

import pytest

from conftest import REPOSITORY

SOURCES = {
    **{
        p: p.relative_to(REPOSITORY / "src").with_suffix("").parts
        for p in REPOSITORY.glob("src/brainchop_pipe/**/*.py")
    },
    **{
        p: ("brainchop_pipe", *p.relative_to(REPOSITORY).with_suffix("").parts)
        for folder in ("workflows", "models")
        for p in REPOSITORY.glob(f"{folder}/*.py")
    },
    **{p: ("brainchop_pipe", "train", p.stem) for p in REPOSITORY.glob("models/train/*.py")},
}

# Part → the parts of this package that it may import.
ALLOWED = {
    "__init__": {"_version"},
    "errors": set(),
    "storage": set(),
    "versions": {"__init__"},
    "record": {"core", "inference", "storage"},
    "core": {"errors"},
    "headers": {"core", "errors"},
    "images": {"core", "errors", "headers"},
    "inference": {"core", "errors"},
    "settings": {"core", "headers", "inference"},
    "zoo": {"core", "errors", "inference", "record", "storage"},
    "brain": {"core", "errors", "inference", "record"},
    "preparation": {"brain", "core", "inference", "record"},
    "steps": {"brain", "core", "errors", "headers", "images", "inference", "preparation"}
    | {"record", "settings", "zoo"},
    "brain_steps": {"brain", "core", "errors", "record", "settings", "steps", "zoo"},
    "step_files": {"brain", "core", "errors", "headers", "images", "inference"}
    | {"record", "settings", "steps", "storage"},
    "segment_files": {"brain", "core", "errors", "headers", "images", "inference"}
    | {"settings", "step_files", "steps", "zoo"},
    "file_steps": {"brain_steps", "core", "errors", "headers", "images", "inference", "preparation", "record"}
    | {"segment_files", "settings", "step_files", "steps", "storage", "zoo"},
    "engines": {"errors", "file_steps", "settings", "step_files", "versions", "zoo"},
    "bids": {"__init__", "errors", "inference", "record", "settings", "storage", "versions", "zoo"},
    "report": {"core", "errors"},
    "workflows": {
        "__init__",
        "bids",
        "core",
        "engines",
        "environment",
        "errors",
        "file_steps",
        "headers",
        "images",
    }
    | {"inference", "record", "report", "settings", "step_files", "steps", "storage", "zoo"},
    "cli": {"__init__", "bids", "core", "errors", "headers"}
    | {"inference", "settings", "storage", "workflows", "zoo"},
    "models": set(),
    # Nobody may import it: it needs torch.
    "train": {"core", "errors", "images", "inference", "storage", "zoo"},
    "_version": set(),
}

THIRD_PARTY = {
    "onnxruntime": {"inference/onnxruntime_runner.py"},
    "openvino": {"inference/openvino_runner.py"},
    "onnx": {
        "inference/chain.py",
        "inference/onnx_file.py",
        "inference/reduce.py",
        "zoo/convert.py",
        "zoo/inspect.py",
    }
    | {"train/exporting.py"},
    "safetensors": {"zoo/safetensors_meshnet.py", "train/checkpoint.py"},
    "bids": {"bids/dataset.py"},
    "jinja2": {"report/pages.py"},
    "PIL": {"report/mosaic.py", "train/curves.py"},
    "rich": {"cli/display.py", "cli/models_command.py", "cli/trust_commands.py"},
    "tomli_w": {"workflows/run_log.py"},
    "pydra": {"engines/pydra_tasks.py", "engines/pydra_worker.py", "workflows/folder_pydra.py"},
    "nipype": {
        "engines/nipype_interfaces.py",
        "workflows/segment_nipype.py",
        "workflows/derivatives_nipype.py",
        "workflows/dataset_nipype.py",
    },
}


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return names


def own_parts(path: Path) -> set[str]:
    names = {name.replace("brainchop_pipe.models.train", "brainchop_pipe.train") for name in imports(path)}
    known = {name.split(".")[1] for name in names if name.startswith("brainchop_pipe.")}
    plain = {name for name in imports(path) if name == "brainchop_pipe"}
    return {part if part in ALLOWED else "__init__" for part in known} | ({"__init__"} if plain else set())


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_imports_point_one_way(path):
    part = SOURCES[path][1]
    from_package = own_parts(path) - {part}
    # "from brainchop_pipe.x import y" names the package itself too; that alone is no import of it.
    if not any(name in ("brainchop_pipe", "brainchop_pipe.__version__") for name in imports(path)):
        from_package -= {"__init__"}
    assert from_package <= ALLOWED[part]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_libraries_are_imported_in_one_place(path):
    here = "/".join(SOURCES[path][1:]) + ".py"
    for library, places in THIRD_PARTY.items():
        used = any(name.split(".")[0] == library for name in imports(path))
        assert not used or here in places


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_torch_is_for_training_alone(path):
    used = any(name.split(".")[0] == "torch" for name in imports(path))
    assert not used or SOURCES[path][1] == "train"


def test_core_knows_no_files():
    forbidden = {"pathlib", "os", "logging", "io", "shutil", "tempfile"}
    for path, parts in SOURCES.items():
        if parts[1] == "core":
            assert not {name.split(".")[0] for name in imports(path)} & forbidden
