"""What job arrays cost: ``python -m tests.benchmarks.cluster [--participants N] [--nodes M]``.

JSON lines of what was measured here: the planner over N made participants, none of them done
and all of them; sbatch, where ``SLURM_CONF`` names a cluster (its jobs are held and cancelled);
a task's start, and its file-system calls below dataset and output, an image and besides,
counted with strace. Then what a model makes of these figures: 100 images as the published
comparison has them, one task against many, and 10,000 and 100,000 images on M nodes.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from brainchop_pipe.workflows import cluster_slurm as slurm
from brainchop_pipe.workflows.cluster_manifest import write_manifest
from brainchop_pipe.workflows.cluster_needs import task_needs
from brainchop_pipe.workflows.cluster_plan import Choices, plan_jobs

from brainchop_pipe.settings import Processing, Settings
from brainchop_pipe.zoo.catalog import find_models
from conftest import head_affine, head_voxels, make_card, save

# What a metadata server of a shared file system takes without getting slow, calls a second; an assumption.
_CALLS_PER_SECOND = 10_000

# Tasks of two processors on a node of 64.
_TASKS_PER_NODE = 32


@dataclass(frozen=True)
class Figures:
    """What was measured: seconds, and calls below dataset and output, the work folder aside."""

    plan_per_participant: float
    submit: float
    start: float
    calls_per_image: float
    calls_per_task: float
    work_calls_per_image: float


def make_dataset(folder: Path, participants: int) -> Path:
    """Make a dataset whose images are one and the same file."""
    bids = folder / "bids"
    image = save(folder / "head_T1w.nii.gz", head_voxels(), head_affine())
    for number in range(participants):
        path = bids / f"sub-{number:06}" / "anat" / f"sub-{number:06}_T1w.nii.gz"
        path.parent.mkdir(parents=True)
        # File systems allow some ten thousand links.
        shutil.copy2(image, path) if number < 100 else os.link(image, path)
    (bids / "dataset_description.json").write_text('{"Name": "made", "BIDSVersion": "1.11.1"}')
    return bids


def make_outputs(settings: Settings, bids: Path) -> None:
    """Give all participants the outputs of the first one, under their own names and input times."""
    first = "sub-000000"
    source = settings.output_dir / first
    texts = {p.relative_to(source): p.read_bytes() for p in source.rglob("*") if p.is_file()}
    old = (bids / first / "anat" / f"{first}_T1w.nii.gz").stat().st_mtime_ns
    for folder in bids.glob("sub-*"):
        new = (folder / "anat" / f"{folder.name}_T1w.nii.gz").stat().st_mtime_ns
        for place, text in texts.items():
            path = settings.output_dir / folder.name / str(place).replace(first, folder.name)
            path.parent.mkdir(parents=True, exist_ok=True)
            made = text.replace(str(old).encode(), str(new).encode()) if path.suffix == ".json" else text
            path.write_bytes(made)
        (settings.output_dir / f"{folder.name}.html").touch()


def measure_planner(settings: Settings, participants: int) -> float:
    """Time the planner with nothing done and with all done; seconds a participant of the first."""
    start = time.perf_counter()
    plan = plan_jobs(settings, Choices())
    nothing = time.perf_counter() - start
    tell("planner, nothing done", participants=participants, seconds=nothing, tasks=len(plan.slices))
    assert settings.bids_dir is not None
    run_task(settings, ["000000"])
    make_outputs(settings, settings.bids_dir)
    start = time.perf_counter()
    left = plan_jobs(settings, Choices()).left
    tell("planner, all done", participants=participants, seconds=time.perf_counter() - start, left=left)
    return nothing / participants


def measure_submission(folder: Path) -> float:
    """Time sbatch for an array as large as the site allows; seconds, 0 without a cluster."""
    if not os.environ.get("SLURM_CONF"):
        return 0.0
    tasks = slurm.max_array_size()
    script = folder / "nothing.sh"
    script.write_text("#!/bin/sh\n")
    start = time.perf_counter()
    job = slurm.submit(["--hold", f"--array=0-{tasks - 1}", "--output=/dev/null"], script)
    seconds = time.perf_counter() - start
    slurm.cancel([job])
    tell("sbatch", tasks=tasks, seconds=seconds, tasks_per_second=tasks / seconds)
    return seconds


def command_of(settings: Settings, labels: list[str], manifest: Path) -> list[str]:
    write_manifest(manifest, [labels])
    words = ("--manifest", manifest, "--manifest-slice", 0, settings.bids_dir, settings.output_dir)
    models = ("participant", "--models", *settings.processing.models, "--nprocs", 2)
    return [sys.executable, "-P", "-m", "brainchop_pipe.cli.main", *map(str, (*words, *models))]


def run_task(settings: Settings, labels: list[str]) -> float:
    """Run a slice; gives the seconds from its start to the first image that it takes."""
    out = settings.output_dir
    manifest = out.parent / f"{labels[0]}.tsv"
    lock = out / ".brainchop" / "locks" / f"sub-{labels[0]}_.lock"
    start = time.time()
    subprocess.run(command_of(settings, labels, manifest), check=True, capture_output=True)
    return lock.stat().st_mtime - start


def measure_start(settings: Settings) -> float:
    """Time a task from its start to its first image, three times: the median of the seconds."""
    times = sorted(run_task(settings, [f"00000{n}"]) for n in (1, 2, 3))
    tell("task, start to first image", seconds=times[1], spread=[round(t, 2) for t in times])
    return times[1]


@dataclass(frozen=True)
class Calls:
    """File-system calls of a task: of the work folder, of all else below dataset and output, and where."""

    work: int
    others: Counter[str]
    participants: set[str]


def count_calls(settings: Settings, labels: list[str]) -> Calls:
    """Count a task's calls by strace."""
    assert settings.bids_dir is not None
    log = settings.output_dir.parent / "strace.log"
    command = command_of(settings, labels, settings.output_dir.parent / "traced.tsv")
    subprocess.run(
        ["strace", "-f", "-qq", "-y", "-e", "trace=%file,getdents64,flock,fsync", "-o", log, *command],
        check=True,
        capture_output=True,
    )
    places = (str(settings.bids_dir), str(settings.output_dir))
    lines = [x for x in log.read_text(errors="replace").splitlines() if any(p in x for p in places)]
    # Relative names in the work folder have its path from -y.
    in_work = [line for line in lines if "/.brainchop/work/" in line]
    others = Counter(
        re.sub(r"^\d+\s+(?:<\.\.\. )?(\w+).*", r"\1", line)
        for line in lines
        if "/.brainchop/work/" not in line
    )
    seen = {name for line in lines for name in re.findall(rf"{re.escape(places[0])}/(sub-\d+)", line)}
    return Calls(len(in_work), others, seen)


def measure_calls(settings: Settings) -> tuple[float, float, float]:
    """Give the calls an image, of a task besides, and an image in the work folder."""
    few = count_calls(settings, [f"{n:06}" for n in (10, 11)])
    many = count_calls(settings, [f"{n:06}" for n in range(20, 26)])
    each = (many.others.total() - few.others.total()) / 4
    besides = few.others.total() - 2 * each
    work = (many.work - few.work) / 4
    kinds = {kind: round((n - few.others[kind]) / 4) for kind, n in many.others.most_common(6)}
    tell(
        "file-system calls",
        an_image=each,
        an_image_in_work_folder=work,
        a_task=besides,
        kinds=kinds,
        participants_seen=len(few.participants),
    )
    return each, besides, work


def model(figures: Figures, images: int, tasks: int, slots: int, seconds_per_image: float) -> None:
    """Say what a study costs, and what share of a file system's calls it takes."""
    waves = -(-tasks // min(slots, tasks))
    work = waves * (figures.start + images / tasks * seconds_per_image)
    calls = images * figures.calls_per_image + tasks * figures.calls_per_task
    plan, submit = images * figures.plan_per_participant, -(-tasks // 1001) * figures.submit
    total = plan + submit + work
    tell(
        "model",
        images=images,
        tasks=tasks,
        at_a_time=min(slots, tasks),
        hours=total / 3600,
        share_plan_and_submit=(plan + submit) / total,
        share_start=waves * figures.start / total,
        calls_per_second=calls / work,
        share_of_file_system=calls / work / _CALLS_PER_SECOND,
        share_with_work_folder_there=(calls + images * figures.work_calls_per_image)
        / work
        / _CALLS_PER_SECOND,
    )


def tell(what: str, **values: object) -> None:
    rounded = {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in values.items()}
    sys.stdout.write(json.dumps({"what": what, **rounded}) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=10_000)
    parser.add_argument("--nodes", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["BRAINCHOP_MODEL_DIR"] = str(folder / "models")
        grid = {"shape": [48, 48, 48], "spacing_mm": [4.5] * 3, "orientation": "RAS"}
        card = make_card(folder / "cards", "regions", input={"intensity": {"method": "minmax"}, "grid": grid})
        bids = make_dataset(folder, given.participants)
        processing = Processing(models=(str(card),))
        settings = Settings(folder / "out", processing, bids_dir=bids, skip_bids_validation=True)
        planner = measure_planner(settings, given.participants)
        submit = measure_submission(folder)
        fresh = Settings(folder / "fresh", processing, bids_dir=bids, skip_bids_validation=True)
        start = measure_start(fresh)
        figures = Figures(planner, submit, start, *measure_calls(fresh))
    default = Settings(Path("out"), Processing())
    seconds = task_needs(default, find_models(default.processing.models), 2).seconds_per_image
    for tasks in (1, 10, 25, 100):
        model(figures, 100, tasks, tasks, seconds)
    for images in (10_000, 100_000):
        tasks = -(-images * int(seconds) // (60 * 40))
        model(figures, images, tasks, given.nodes * _TASKS_PER_NODE, seconds)


if __name__ == "__main__":
    main()
