from dataclasses import replace
from pathlib import Path

import pytest
from brainchop_pipe.workflows import resources as module
from brainchop_pipe.workflows.resources import available_memory_gb, share_processors

from brainchop_pipe.settings import Processing, Settings
from brainchop_pipe.zoo.catalog import find_models


@pytest.fixture
def models(cards):
    """Two models, of 0.5 GB; with all that a process needs 2.5 GB."""
    crop = {"threshold": 0, "margin_voxels": 8, "agreement": 1, "measured_on": "made heads"}
    from conftest import make_card

    folder = Path(cards.mask).parent
    return find_models(
        tuple(
            str(make_card(folder, kind, input={"intensity": {"method": "minmax"}, "crop": crop}))
            for kind in ("mask", "tissue")
        )
    )


@pytest.mark.parametrize(
    ("given", "images", "expected"),
    [
        ({"nprocs": 1}, 5, (1, 1)),
        ({"nprocs": 2}, 5, (1, 2)),
        ({"nprocs": 16}, 100, (4, 4)),
        ({"nprocs": 16}, 1, (1, 16)),
        ({"nprocs": 16}, 0, (1, 16)),
        ({"nprocs": 8, "omp_nthreads": 1}, 100, (8, 1)),
        ({"nprocs": 2, "omp_nthreads": 4}, 100, (1, 4)),
        ({"nprocs": 16, "mem_gb": 6.0}, 100, (2, 8)),
        ({"nprocs": 16, "mem_gb": 1.0}, 100, (1, 16)),
    ],
)
def test_processors_are_shared_among_images(models, monkeypatch, given, images, expected):
    monkeypatch.setattr(module, "available_memory_gb", lambda: 1000.0)
    settings = Settings(Path("out"), Processing(), **given)
    share = share_processors(settings, models, images)
    assert (share.workers, share.threads) == expected
    assert share.ahead == (images > share.workers and "mem_gb" not in given)


def test_free_memory_limits_the_images_at_a_time(models, monkeypatch):
    monkeypatch.setattr(module, "available_memory_gb", lambda: 8.0)
    settings = Settings(Path("out"), Processing(), nprocs=64)
    assert share_processors(settings, models, 100)[0] == 3
    whole = replace(settings, processing=Processing(full_volume=True))
    assert share_processors(whole, models, 100)[0] == 2


def test_memory_is_that_of_machine_and_job(monkeypatch):
    free = available_memory_gb()
    assert 0.1 < free < 100_000
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "50")
    assert available_memory_gb() == pytest.approx(0.05)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "0")
    assert available_memory_gb() > 0.05


def test_memory_of_a_container_counts(monkeypatch, tmp_path):
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    monkeypatch.setattr(module, "Path", lambda *parts: tmp_path / Path(*parts).name)
    assert module._cgroup_gb() == 2.0
    (tmp_path / "memory.max").write_text("max\n")
    assert module._cgroup_gb() == float("inf")
    assert module._free_gb() == float("inf")
