"""A real SLURM of two nodes on this machine, for as long as the tests last."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import REPOSITORY, lack
from jobs.cluster import Cluster

_NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "slurmdbd", "mariadbd")


def _unmet() -> str:
    """Why there can be no SLURM here; empty where there can."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing:
        return f"needs Debian's slurm-wlm, munge, slurmdbd and mariadb-server ({', '.join(missing)} missing)"
    return "" if os.getuid() == 0 else "needs to be root"


def _start(shared: Path, state: Path, **options: str) -> Iterator[Path]:
    reason = _unmet()
    if reason:
        lack(reason)
    environment = {**os.environ, "MEM": "9000", **options}
    start = ["bash", str(shared / "cluster" / "start_slurm.sh"), str(state)]
    subprocess.run(start, env=environment, check=True, stdout=subprocess.DEVNULL)
    yield state / "slurm.conf"
    subprocess.run(["bash", str(shared / "cluster" / "stop_slurm.sh"), str(state)], check=True)


@pytest.fixture(scope="session")
def with_accounting(shared, tmp_path_factory) -> Iterator[Path]:
    yield from _start(shared, tmp_path_factory.mktemp("slurm"), BASEPORT="17200")


@pytest.fixture(scope="session")
def without_accounting(shared, tmp_path_factory) -> Iterator[Path]:
    yield from _start(shared, tmp_path_factory.mktemp("slurm"), BASEPORT="17300", ACCT="0")


@pytest.fixture
def cluster(with_accounting, monkeypatch, tmp_path, capsys) -> Cluster:
    """Eight participants."""
    monkeypatch.setenv("SLURM_CONF", str(with_accounting))
    return Cluster(tmp_path, capsys).add(*(f"{n:02}" for n in range(8)))


@pytest.fixture
def bare_cluster(without_accounting, monkeypatch, tmp_path, capsys) -> Cluster:
    """Four participants on a site without accounting."""
    monkeypatch.setenv("SLURM_CONF", str(without_accounting))
    return Cluster(tmp_path, capsys).add(*(f"{n:02}" for n in range(4)))


@pytest.fixture
def break_tasks(monkeypatch, tmp_path) -> Callable[..., None]:
    """Break the inference on images in tasks, by `ACTION:IMAGE`; none: no more."""

    def break_them(*faults: str) -> None:
        monkeypatch.setenv("PYTHONPATH", str(REPOSITORY / "tests" / "faults"))
        monkeypatch.setenv("BRAINCHOP_TEST_MARK", str(tmp_path / "marks"))
        monkeypatch.setenv(
            "BRAINCHOP_TEST_FAULT", " ".join(f"brainchop_pipe.steps:predict:{fault}" for fault in faults)
        )

    return break_them
