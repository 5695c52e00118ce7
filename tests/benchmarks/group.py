"""What the group level costs: ``python -m tests.benchmarks.group [--participants N] [--maps M]``.

Made outputs, as sidecars and tables of the app's own form: the tissue maps and M label
maps of 50 labels for each participant, raw images without content. A JSON line: wall and CPU seconds,
peak memory (MB, of a process of its own), and how large the page is (MB).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from made_outputs import VOLUMES, made_source, make_result


def make_study(output_dir: Path, bids_dir: Path, participants: int, maps: int) -> None:
    rng = np.random.default_rng(0)
    labels = {index: f"Region {index}" for index in range(1, 51)}
    picture = rng.integers(0, 256, 10_000, np.uint8).tobytes()
    for number in range(participants):
        name = f"sub-{number:05d}_T1w.nii.gz"
        raw = bids_dir / made_source(name).folder / name
        raw.parent.mkdir(parents=True)
        raw.touch()
        sidecar = make_result(output_dir, name, {i: v * rng.normal(1, 0.05) for i, v in VOLUMES.items()})
        figures = sidecar.parents[1] / "figures"
        figures.mkdir()
        (figures / f"{sidecar.stem}_thumbnail.png").write_bytes(picture)
        for n in range(maps):
            volumes = {index: 1e4 * rng.normal(1, 0.1) for index in labels}
            make_result(output_dir, name, volumes, labels=labels, segmentation=f"made{n}")
    description = {"Name": "Made study", "BIDSVersion": "1.10.0"}
    (bids_dir / "dataset_description.json").write_text(json.dumps(description))


def measure(output_dir: Path, bids_dir: Path) -> None:
    """Run the group level in this process, and say what it took."""
    from brainchop_pipe.cli.main import main

    start = time.perf_counter()
    main([str(bids_dir), str(output_dir), "group"])
    used = resource.getrusage(resource.RUSAGE_SELF)
    row = {
        "wall_s": round(time.perf_counter() - start, 2),
        "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "peak_mb": round(used.ru_maxrss * 1024 / 1e6),
        "page_mb": round((output_dir / "index.html").stat().st_size / 1e6, 1),
    }
    sys.stdout.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--participants", type=int, default=1000)
    parser.add_argument("--maps", type=int, default=2)
    parser.add_argument("--measure", nargs=2, type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        measure(*given.measure)
        return
    with tempfile.TemporaryDirectory() as name:
        places = [Path(name) / "out", Path(name) / "bids"]
        make_study(*places, given.participants, given.maps)
        command = [sys.executable, "-m", "tests.benchmarks.group", "--measure", *map(str, places)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
