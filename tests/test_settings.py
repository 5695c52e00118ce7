import os

import pytest

from brainchop_pipe.settings import Processing, available_cpus


@pytest.mark.parametrize(("share", "expected"), [("1", 1), ("1000", None), ("all", None), ("", None)])
def test_cpus_are_those_of_the_affinity_mask_and_of_slurm(monkeypatch, share, expected):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", share)
    assert available_cpus() == (expected or len(os.sched_getaffinity(0)))


def test_cpus_without_affinity_masks(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


def test_parameters_are_what_changes_an_output():
    assert Processing().parameters() == Processing(device="cpu", threads=9).parameters()
    assert Processing().parameters() != Processing(full_volume=True).parameters()
