from pathlib import Path

import pytest

import brainchop_pipe
from brainchop_pipe.versions import checkout, code_version


@pytest.fixture(autouse=True)
def _fresh():
    code_version.cache_clear()
    yield
    code_version.cache_clear()


@pytest.fixture
def made_checkout(tmp_path, monkeypatch) -> Path:
    package = tmp_path / "src" / "brainchop_pipe"
    package.mkdir(parents=True)
    (tmp_path / "pyproject.toml").touch()
    (package / "__init__.py").touch()
    monkeypatch.setattr(brainchop_pipe, "__file__", str(package / "__init__.py"))
    return package


def test_edit_of_a_source_is_another_version(made_checkout):
    first = code_version()
    (made_checkout / "steps.py").write_text("edited")
    assert code_version() == first
    code_version.cache_clear()
    assert code_version() != first
    assert brainchop_pipe.__version__ in first


def test_installed_package_is_known_by_its_version(monkeypatch, tmp_path):
    monkeypatch.setattr(brainchop_pipe, "__file__", str(tmp_path / "a/b/brainchop_pipe/__init__.py"))
    assert checkout() is None
    assert code_version() == brainchop_pipe.__version__
