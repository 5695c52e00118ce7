"""What images install is pinned, all of it, and named after nobody's registry."""

import re
import tomllib

import pytest

from conftest import REPOSITORY


@pytest.mark.parametrize("kind", ["", "-cuda"])
def test_every_dependency_is_pinned_with_its_hashes(kind):
    text = (REPOSITORY / "containers" / f"requirements{kind}.lock").read_text()
    pinned = dict(re.findall(r"^([a-z0-9-]+)==\S+.*\\\n((?:\s+--hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.M))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {re.split(r"[=<>~ ]", line)[0].lower() for line in project["dependencies"]}
    if kind:
        wanted = (wanted - {"onnxruntime"}) | {"onnxruntime-gpu"}
        assert "onnxruntime" not in pinned
    else:
        wanted.add("openvino")
    assert wanted <= pinned.keys()
    assert "://" not in text
