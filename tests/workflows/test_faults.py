"""What happens to the others, to the output and to a rerun when something breaks."""

import gzip
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from brainchop_pipe.workflows.bids_app import run_participants
from brainchop_pipe.workflows.run_log import run_log

from brainchop_pipe.settings import Processing, Settings
from conftest import MADE_INPUT, lack, make_card, require_openvino

IMAGES = [f"sub-0{n}" for n in range(1, 4)]


@pytest.fixture
def settings(make_dataset, tmp_path, cards) -> Settings:
    """Three participants; two models make the tissue maps, with preparation, and one a map of its own."""
    dataset = make_dataset(*(f"{s}/anat/{s}_T1w.nii.gz" for s in IMAGES))
    wanting = make_card(tmp_path / "w", "tissue", input={**MADE_INPUT, "prepare": "brain"})
    processing = Processing(models=(cards.mask, str(wanting), cards.regions))
    return Settings(tmp_path / "out", processing, bids_dir=dataset, skip_bids_validation=True, nprocs=2)


def run(settings: Settings, report: Callable[..., None] = lambda *_: None) -> dict[str, set[str]]:
    """Statuses by participant."""
    statuses: dict[str, set[str]] = {}
    for outcome in run_participants(settings, report):
        statuses.setdefault(outcome.source.participant, set()).add(outcome.status)
    return statuses


def reasons(settings: Settings) -> tuple[dict[str, set[str]], str]:
    outcomes = run_participants(settings, lambda *_: None)
    statuses: dict[str, set[str]] = {}
    for outcome in outcomes:
        statuses.setdefault(outcome.source.participant, set()).add(outcome.status)
    return statuses, "\n".join(o.reason for o in outcomes if o.status == "failed")


def images(settings: Settings) -> dict[str, bytes]:
    """Headers and voxels; unpacking checks them against what gzip noted."""
    return {p.name: gzip.decompress(p.read_bytes()) for p in settings.output_dir.rglob("sub-*.nii.gz")}


def leftovers(settings: Settings) -> list[Path]:
    """What a killed run may leave: halves, journals, work folders."""
    found = [p for p in settings.output_dir.rglob("*") if "brainchop-" in p.name]
    return found + list((settings.output_dir / ".brainchop" / "work").glob("*"))


def lose_work_folder(settings: Settings) -> None:
    """Delete the work folders of runs at one stroke, whoever writes there."""
    for folder in (settings.output_dir / ".brainchop" / "work").glob("run-*/"):
        lost = settings.output_dir.parent / f"lost-{folder.name}"
        folder.rename(lost)
        shutil.rmtree(lost, ignore_errors=True)


@pytest.fixture(scope="module")
def made_before() -> dict[str, bytes]:
    """What `undisturbed` gave the first time: the same for all tests."""
    return {}


@pytest.fixture
def undisturbed(settings, tmp_path, made_before) -> dict[str, bytes]:
    """The images of a run in which nothing breaks."""
    if not made_before:
        whole = replace(settings, output_dir=tmp_path / "undisturbed")
        run(whole)
        made_before |= images(whole)
    return made_before


@pytest.mark.parametrize(
    "step",
    [
        "brainchop_pipe.file_steps:conform_image",
        "brainchop_pipe.steps:predict",
        "brainchop_pipe.brain:correct_bias",
        "brainchop_pipe.steps:restore_probability",
        "brainchop_pipe.step_files:write_whole",
    ],
)
def test_killed_worker_takes_only_its_own_image(settings, undisturbed, break_worker, monkeypatch, step):
    break_worker(f"{step}:kill:sub-02")
    statuses, reason = reasons(settings)
    assert statuses["sub-01"] == statuses["sub-03"] == {"done"}
    assert "failed" in statuses["sub-02"]
    assert "was killed (SIGKILL)" in reason
    assert leftovers(settings) == []
    assert undisturbed.items() >= images(settings).items()
    monkeypatch.delenv("BRAINCHOP_TEST_FAULT")
    assert run(settings)["sub-01"] == {"complete"}
    assert images(settings) == undisturbed


def test_library_that_takes_its_process_with_it_costs_an_attempt(settings, undisturbed, break_worker):
    require_openvino()
    break_worker("brainchop_pipe.inference.openvino_runner:load_openvino:abort:sub-01")
    statuses, _ = reasons(settings)
    assert set.union(*statuses.values()) == {"done"}
    assert images(settings).keys() == undisturbed.keys()
    sidecars = [p.read_text() for p in settings.output_dir.rglob("sub-01*dseg.json")]
    # A process that had a network of another image open already went on with it.
    hit = [text for text in sidecars if "ended by itself while it ran a network on openvino" in text]
    assert hit
    assert all('"CPUExecutionProvider"' in text for text in hit)


def test_images_at_the_same_time_give_the_same_bytes(settings, undisturbed):
    together = replace(settings, nprocs=3, omp_nthreads=1)
    assert all("done" in status for status in run(together).values())
    assert images(together) == undisturbed


def test_one_corrupt_image_of_eight(make_dataset, settings):
    make_dataset(*(f"sub-1{n}/anat/sub-1{n}_T1w.nii.gz" for n in range(5)))
    bad = settings.bids_dir / "sub-02/anat/sub-02_T1w.nii.gz"
    bad.write_bytes(bad.read_bytes()[:2000])
    statuses, reason = reasons(settings)
    assert statuses.pop("sub-02") == {"failed"}
    assert all(status == {"done"} for status in statuses.values())
    assert len(statuses) == 7
    assert "sub-02_T1w.nii.gz is truncated or corrupt" in reason


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[str], Path]]:
    """Mount a disk of a given size, or give the one there is another size."""
    folder = tmp_path / "small"
    folder.mkdir()

    def mount(size: str) -> Path:
        option = f"size={size}" if not os.path.ismount(folder) else f"remount,size={size}"
        command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(folder)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            lack(f"needs the right to mount a file system: {result.stderr}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)


# A conformed image has 16.8 MB, the brain of the made heads twice 11.7 MB, their maps some 100 kB.
@pytest.mark.parametrize(
    "size", ["4m", "24m", "39500k", "39650k"], ids=["conform", "brain", "hand-over", "maps"]
)
def test_full_work_folder(settings, undisturbed, small_disk, size):
    on_small = replace(settings, work_dir=small_disk(size))
    statuses, reason = reasons(on_small)
    assert any("failed" in s for s in statuses.values())
    assert "space" in reason
    assert undisturbed.items() >= images(settings).items()
    assert leftovers(settings) == []
    small_disk("100m")
    assert all("failed" not in s for s in run(on_small).values())
    assert images(settings) == undisturbed


def test_full_output_folder(settings, undisturbed, small_disk, tmp_path):
    out = small_disk("200k")
    on_small = replace(settings, output_dir=out / "out", work_dir=tmp_path / "work")
    statuses, reason = reasons(on_small)
    assert any("failed" in s for s in statuses.values())
    assert "No space left on device" in reason
    assert undisturbed.items() >= images(on_small).items()
    small_disk("100m")
    assert all("failed" not in s for s in run(on_small).values())
    assert images(on_small) == undisturbed


def test_log_has_no_room(settings, small_disk):
    """What the log could not write is still in its buffer when it is closed."""
    folder = small_disk("64k")
    with run_log(replace(settings, output_dir=folder)) as log:
        with suppress(OSError):
            (folder / "filler").write_bytes(bytes(1 << 20))
        for _ in range(100):
            logging.getLogger("brainchop_pipe").warning("x" * 100)
    assert log.stat().st_size < 100 * 100


def test_work_folder_deleted_in_mid_run(settings, undisturbed):
    first = []

    def delete(finished, _total, outcomes):
        if finished == 1:
            first.append(outcomes[0].source.participant)
            lose_work_folder(settings)

    statuses = run(settings, delete)
    assert statuses[first[0]] == {"done"}
    assert undisturbed.items() >= images(settings).items()
    assert all("failed" not in s for s in run(settings).values())
    assert images(settings) == undisturbed


def test_work_folder_deleted_under_a_step(settings, undisturbed, break_worker, monkeypatch, tmp_path):
    """The folder goes while a worker is in it: that image fails, with a word on why.

    Another image that is worked on at that time fails as well.
    """
    mark, over = tmp_path / "reached", threading.Event()
    monkeypatch.setenv("BRAINCHOP_TEST_MARK", str(mark))
    break_worker("brainchop_pipe.steps:restore_labels:pause:sub-02")

    def delete_when_reached():
        while not mark.exists() and not over.wait(0.05):
            pass
        lose_work_folder(settings)

    thread = threading.Thread(target=delete_when_reached)
    thread.start()
    statuses, reason = reasons(settings)
    over.set()
    thread.join()
    assert mark.exists()
    assert "failed" in statuses["sub-02"]
    assert "work folder" in reason
    assert undisturbed.items() >= images(settings).items()
    monkeypatch.delenv("BRAINCHOP_TEST_FAULT")
    assert all("failed" not in s for s in run(settings).values())
    assert images(settings) == undisturbed


def test_work_folders_of_killed_runs_are_removed_and_those_in_use_stay(settings):
    work = settings.output_dir / ".brainchop" / "work"
    (work / "run-dead" / "sub-01_T1w").mkdir(parents=True)
    seen = []
    run(settings, lambda *_: seen.append(sorted(p.name for p in work.glob("run-*/"))))
    assert seen[0] != ["run-dead"]
    assert len(seen[0]) == 1
    assert list(work.glob("*")) == []


BARE = """
import sys
from pathlib import Path
from brainchop_pipe.engines.nipype_interfaces import Conform as Interface
from brainchop_pipe.engines.pydra_tasks import Conform
head, folder = map(Path, sys.argv[1:])
Interface(in_file=head).run(cwd=str(folder))
Conform(in_file=head)(cache_root=folder / "cache")
"""


@pytest.mark.parametrize("home", [None, "/proc/1/nowhere"], ids=["unset", "read-only"])
def test_neither_home_nor_name_nor_network_is_needed(settings, tmp_path, home):
    kept = {k: v for k, v in os.environ.items() if k not in ("HOME", "LOGNAME", "USER", "USERNAME")}
    environment = kept | ({"HOME": home} if home else {}) | {"PYDRA_HASH_CACHE": str(tmp_path / "hashes")}
    alone = ["unshare", "--net"] if shutil.which("unshare") and os.geteuid() == 0 else []
    app = [sys.executable, "-m", "brainchop_pipe.cli.main", settings.bids_dir, settings.output_dir]
    app += ["participant", "--skip-bids-validation", "--models", settings.processing.models[2]]
    head = settings.bids_dir / "sub-01/anat/sub-01_T1w.nii.gz"
    for command in (app, [sys.executable, "-c", BARE, head, tmp_path]):
        text = [*alone, *map(str, command)]
        result = subprocess.run(text, env=environment, capture_output=True, text=True, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert len(images(settings)) == 3
