import subprocess
import sys

import numpy as np

from brainchop_pipe import record as module
from brainchop_pipe.core.grid import Volume
from brainchop_pipe.record import InputDigests, peak_memory_mb, utc_now


def test_voxels_have_the_same_digest_in_any_file(tmp_path, head):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"y")
    first = InputDigests.of(tmp_path / "a", head)
    second = InputDigests.of(tmp_path / "b", Volume(np.asfortranarray(head.voxels), head.grid))
    assert first.voxels_sha256 == second.voxels_sha256
    assert first.sha256 != second.sha256
    assert first.size == 1


def test_memory_and_time_have_their_units(monkeypatch):
    assert 10 < peak_memory_mb() < 100_000
    kilobytes = peak_memory_mb()
    monkeypatch.setattr(module.sys, "platform", "darwin")
    assert peak_memory_mb() < kilobytes
    assert utc_now().endswith("Z")


def test_memory_is_this_programs_and_not_that_of_who_started_it():
    """A process begins as a copy of the one that starts it, and getrusage never forgets that one's size."""
    code = (
        "import subprocess, sys; held = bytearray(b'x') * 1_000_000_000\n"
        "look = 'from brainchop_pipe.record import peak_memory_mb; print(peak_memory_mb())'\n"
        "print(subprocess.run([sys.executable, '-c', look], capture_output=True, text=True).stdout)"
    )
    told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 10 < int(told) < 500
