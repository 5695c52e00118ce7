"""What an image costs besides networks, and when a command begins: ``python -m tests.benchmarks.outside``.

    python -m tests.benchmarks.outside [--model NAME] [--rounds N]

Three JSON lines. `steps`: processor seconds of one image and model (`--prepare none`) outside of
inference, step by step in one process, and together: medians, and the range, over images after the
first. `dataset`: the same of each image in a run over a dataset of as many, where all that the
command itself does counts too, its start among it. `start`: seconds from the start of `brainchop
segment` until a process has its first job, and of `brainchop --version`: medians. Needs the folder
of real data (BRAINCHOP_SHARED), and quiet.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from brainchop_pipe.workflows.draw_pictures import PictureJob, Pictures, draw_pictures

from brainchop_pipe.file_steps import conform_file, segment_labels_file
from brainchop_pipe.settings import available_cpus
from brainchop_pipe.zoo.catalog import find_model

from .__main__ import ECOG
from .counted import count_networks
from .processes import cost_of

PROGRAM = Path(sys.executable).parent / "brainchop"
_LOOK_SECONDS = 0.01


def steps(model: str, folder: Path, networks: list[float]) -> dict[str, float]:
    """Give the processor seconds of one image."""
    seconds: dict[str, float] = {}
    colors = {label.index: label.color for label in find_model(model).card.output.labels if label.color}
    start = time.process_time()
    networks.clear()
    conformed = conform_file(ECOG, folder / "conformed.nii")
    seconds["conform"], start = time.process_time() - start, time.process_time()
    made = segment_labels_file(conformed, ECOG, folder, model=model, prepare="none", threads=available_cpus())
    seconds["labels"], start = time.process_time() - start - sum(networks), time.process_time()
    pictures = Pictures(folder / "mosaic.png", folder / "thumbnail.png")
    draw_pictures(conformed, [PictureJob(made.labels, None, colors, pictures)])
    seconds["pictures"] = time.process_time() - start
    return seconds | {"together": sum(seconds.values()), "inference": sum(networks)}


def dataset(model: str, images: int, folder: Path) -> dict[str, object]:
    """Give the processor seconds of each image in a run over copies of one."""
    raw, seconds = folder / "raw", folder / "seconds"
    for number in range(images):
        image = raw / f"sub-{number:02}" / "anat" / f"sub-{number:02}_T1w.nii.gz"
        image.parent.mkdir(parents=True)
        shutil.copyfile(ECOG, image)
    (raw / "dataset_description.json").write_text('{"Name": "copies", "BIDSVersion": "1.10.0"}')
    counted = [sys.executable, "-m", "tests.benchmarks.counted", seconds]
    command = [*counted, raw, folder / "out", "participant", "--work-dir", folder / "work"]
    options = ["--models", model, "--prepare", "none", "--skip-bids-validation"]
    cost = cost_of([*command, *options], memory=False)
    networks = [float(line) for line in seconds.read_text().split()]
    return {
        "dataset": model,
        "images": images,
        "CPU s of each": round((cost.cpu_s - sum(networks)) / images, 2),
        "inference of each": round(sum(networks) / images, 2),
        "wall s": round(cost.wall_s, 1),
    }


def first_job_s(model: str, folder: Path) -> float:
    """Run a command, and tell when the work folder has the first job's folder."""
    command = [PROGRAM, "segment", ECOG, "-o", folder / "out", "--work-dir", folder, "--models", model]
    start = time.perf_counter()
    process = subprocess.Popen([*map(str, command), "--prepare", "none"], stdout=subprocess.DEVNULL)
    while not any(folder.glob("run-*/*/python-*")):
        if process.poll() is not None:
            raise RuntimeError(f"{PROGRAM.name} ended with {process.returncode} before it began")
        time.sleep(_LOOK_SECONDS)
    seconds = time.perf_counter() - start
    process.wait()
    return seconds


def version_s() -> float:
    start = time.perf_counter()
    subprocess.run([PROGRAM, "--version"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(model: str, rounds: int) -> Iterator[dict[str, object]]:
    networks: list[float] = []
    count_networks(networks.append)
    with tempfile.TemporaryDirectory() as folder:
        # The first one imports libraries.
        _, *images = [steps(model, Path(folder), networks) for _ in range(rounds + 1)]
    together = [image["together"] for image in images]
    middle = {name: round(statistics.median(i[name] for i in images), 2) for name in images[0]}
    yield {"steps": model, "CPU s": middle, "range": [round(f(together), 2) for f in (min, max)]}
    with tempfile.TemporaryDirectory() as folder:
        yield dataset(model, rounds, Path(folder))
    starts = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            starts.append(first_job_s(model, Path(folder)))
    yield {
        "start": "brainchop segment",
        "s": round(statistics.median(starts), 2),
        "range": [round(f(starts), 2) for f in (min, max)],
        "--version s": round(statistics.median(version_s() for _ in range(rounds)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="tissue_fast")
    parser.add_argument("--rounds", type=int, default=9)
    given = parser.parse_args()
    for row in measure(given.model, given.rounds):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
