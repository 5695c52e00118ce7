import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from brainchop_pipe.bids import environment as module
from brainchop_pipe.bids.environment import code_record, environment_record


@pytest.fixture(autouse=True)
def _fresh():
    code_record.cache_clear()
    environment_record.cache_clear()
    yield
    code_record.cache_clear()
    environment_record.cache_clear()


def test_code_record_has_commit_and_container(monkeypatch):
    monkeypatch.setenv("BRAINCHOP_CONTAINER_DIGEST", "sha256:abc")
    record = code_record()
    assert record["Container"] == {"Type": "oci", "Digest": "sha256:abc"}
    assert record["Version"]


def test_commit_of_an_installed_package_is_that_of_its_build(monkeypatch, tmp_path):
    monkeypatch.setattr("brainchop_pipe.__file__", str(tmp_path / "a/b/brainchop_pipe/__init__.py"))
    monkeypatch.setattr("brainchop_pipe.__commit__", "gabc")
    monkeypatch.setattr("brainchop_pipe.__version__", "1.0+gabc.d20260101")
    assert code_record() | {"Commit": "gabc", "Dirty": True} == code_record()


def test_commit_of_a_checkout_without_git_is_that_of_its_build(monkeypatch, tmp_path):
    def no_git(*_args, **_kwargs):
        raise FileNotFoundError("git")

    (tmp_path / ".git").mkdir()
    (tmp_path / "src").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr("brainchop_pipe.__file__", str(tmp_path / "src/brainchop_pipe/__init__.py"))
    monkeypatch.setattr("brainchop_pipe.__commit__", None)
    monkeypatch.setattr(subprocess, "run", no_git)
    assert "Commit" not in code_record()


def test_checkout_says_its_commit_and_whether_it_was_changed(monkeypatch, tmp_path):
    for command in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x", "--allow-empty"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    (tmp_path / "src").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr("brainchop_pipe.__file__", str(tmp_path / "src/brainchop_pipe/__init__.py"))
    record = code_record()
    assert len(record["Commit"]) == 40
    assert record["Dirty"] is False


def test_processor_is_named_where_the_kernel_tells(monkeypatch):
    assert isinstance(environment_record()["Hardware"]["CPU"], str)
    environment_record.cache_clear()
    monkeypatch.setattr(module, "Path", lambda _: SimpleNamespace(read_text=_raise, glob=lambda _: iter(())))
    assert environment_record()["Hardware"] | {"GPU": None} == environment_record()["Hardware"]


def _raise(**_kwargs):
    raise OSError


def test_gpu_and_driver_are_named(monkeypatch, tmp_path):
    (tmp_path / "gpus/0").mkdir(parents=True)
    (tmp_path / "version").write_text("NVRM version: 999.1\nmore\n")
    (tmp_path / "gpus/0/information").write_text("Model: \t NVIDIA Test\nIRQ: 1\n")
    real = Path
    monkeypatch.setattr(module, "Path", lambda p: real(str(p).replace("/proc/driver/nvidia", str(tmp_path))))
    assert environment_record()["Hardware"]["GPU"] == "NVIDIA Test; NVRM version: 999.1"


def test_library_that_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "_LIBRARIES", ("numpy", "no-such-library"))
    assert set(environment_record()["Versions"]) == {"python", "numpy"}


@pytest.mark.parametrize(
    ("lines", "sets"),
    [
        ("model name\t: A\nflags\t\t: fpu avx2 avx512f\n", ["avx2", "avx512f"]),
        ("Features\t: fp asimd sve\n", ["asimd", "sve"]),
        ("", []),
    ],
)
def test_instruction_sets_that_decide_roundings_are_named(monkeypatch, lines, sets):
    monkeypatch.setattr(module, "_gpu_name", lambda: None)
    monkeypatch.setattr(module, "Path", lambda _: SimpleNamespace(read_text=lambda **_: lines))
    assert environment_record()["Hardware"]["InstructionSets"] == sets
