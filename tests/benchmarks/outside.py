"""What an image costs besides networks, and when a command begins: ``python -m tests.benchmarks.outside``.

    python -m tests.benchmarks.outside [--model NAME] [--rounds N]

Two JSON lines. `steps`: processor seconds of one image and model (`--prepare none`) outside of
inference, step by step in one process, and together: medians, and the range, over images after the
first. `start`: seconds from the start of `brainchop segment` until a process has its first job,
and of `brainchop --version`: medians. Needs the folder of real data (BRAINCHOP_SHARED), and quiet.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from brainchop_pipe.workflows.draw_pictures import PictureJob, Pictures, draw_pictures

from brainchop_pipe.file_steps import conform_file, segment_labels_file
from brainchop_pipe.inference.network import Network
from brainchop_pipe.settings import available_cpus
from brainchop_pipe.zoo.catalog import find_model

from .__main__ import ECOG

PROGRAM = Path(sys.executable).parent / "brainchop"
_LOOK_SECONDS = 0.01


class _InferenceClock:
    """Adds up the processor seconds of networks."""

    def __init__(self) -> None:
        self.seconds = 0.0
        run = Network.run

        def timed(network: Network, channels: object) -> object:
            start = time.process_time()
            try:
                return run(network, channels)
            finally:
                self.seconds += time.process_time() - start

        Network.run = timed


def steps(model: str, folder: Path, clock: _InferenceClock) -> dict[str, float]:
    """Give the processor seconds of one image."""
    seconds: dict[str, float] = {}
    colors = {label.index: label.color for label in find_model(model).card.output.labels if label.color}
    start, clock.seconds = time.process_time(), 0.0
    conformed = conform_file(ECOG, folder / "conformed.nii")
    seconds["conform"], start = time.process_time() - start, time.process_time()
    made = segment_labels_file(conformed, ECOG, folder, model=model, prepare="none", threads=available_cpus())
    seconds["labels"], start = time.process_time() - start - clock.seconds, time.process_time()
    pictures = Pictures(folder / "mosaic.png", folder / "thumbnail.png")
    draw_pictures(conformed, [PictureJob(made.labels, None, colors, pictures)])
    seconds["pictures"] = time.process_time() - start
    return seconds | {"together": sum(seconds.values()), "inference": clock.seconds}


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
    clock = _InferenceClock()
    with tempfile.TemporaryDirectory() as folder:
        # The first one imports libraries.
        _, *images = [steps(model, Path(folder), clock) for _ in range(rounds + 1)]
    together = [image["together"] for image in images]
    middle = {name: round(statistics.median(i[name] for i in images), 2) for name in images[0]}
    yield {"steps": model, "CPU s": middle, "range": [round(f(together), 2) for f in (min, max)]}
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
