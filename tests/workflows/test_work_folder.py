"""The folder of a run for intermediate files, and what else is kept there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from brainchop_pipe.workflows.work_folder import work_folder

from brainchop_pipe.settings import Settings


def test_pydra_is_imported_where_a_user_has_no_home(tmp_path, monkeypatch):
    """As in a container: no HOME, and a user that no file of users has."""
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    nobody = "import pwd; pwd.getpwuid = lambda uid: {}[uid]; import brainchop_pipe.engines.pydra_worker"
    command = [sys.executable, "-W", "ignore", "-c", nobody]
    with pytest.raises(RuntimeError):
        Path.home()
    with work_folder(Settings(tmp_path)) as folder:
        subprocess.run(command, check=True)
        assert Path(os.environ["XDG_CACHE_HOME"]) == folder
    assert "XDG_CACHE_HOME" not in os.environ
    assert "PYDRA_HASH_CACHE" not in os.environ or os.environ["PYDRA_HASH_CACHE"] != str(folder / "hashes")
    failed = subprocess.run(command, capture_output=True, text=True)
    assert "could not determine the home directory" in failed.stderr
