"""What the engine costs an image: ``python -m tests.benchmarks.engines [IMAGE] [--repeats N]``.

The same image goes through the same steps three ways, in turns: plain calls of the
functions in this process; Pydra's workflow in this process; and the workflow as the app
runs it, in a worker process. The models are tiny, so that their time does not drown the
difference, which is the engine's: hashing, intermediate files, hand-over. Sessions are
warm, caches of results and hashes are not.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
sys.path.insert(0, str(REPOSITORY / "tests"))

from brainchop_pipe.engines.lanes import Lanes  # noqa: E402
from brainchop_pipe.engines.pydra_tasks import Segment  # noqa: E402
from brainchop_pipe.engines.pydra_worker import run_segment  # noqa: E402
from brainchop_pipe.file_steps import (  # noqa: E402
    conform_file,
    extract_brain_file,
    segment_labels_file,
    segment_tissues_file,
)
from brainchop_pipe.settings import available_cpus  # noqa: E402
from conftest import head_affine, head_voxels, make_card, save  # noqa: E402


def measure(image: Path, models: list[str], repeats: int, folder: Path) -> dict[str, list[float]]:
    """Give seconds of each way, by turn; the first turn, which warms up, is left out."""
    threads = available_cpus()
    seconds: dict[str, list[float]] = {"plain": [], "in process": [], "worker process": []}

    def plain(place: Path) -> None:
        conformed = conform_file(image, place / "conformed.nii")
        if len(models) > 1:
            brain = extract_brain_file(conformed, place, mask_model=models[0], correct=False, threads=threads)
            given = {**brain._asdict(), "tissue_model": models[1], "threads": threads}
            segment_tissues_file(conformed, image, place, **given)
        segment_labels_file(conformed, image, place, model=models[-1], threads=threads)

    def in_process(place: Path) -> None:
        Segment(in_file=image, models=models, threads=threads)(cache_root=place)

    # In a thread of its own: Pydra closes the event loop of the one that it is called in.
    runner = asyncio.Runner()
    with Lanes(1) as lanes, ThreadPoolExecutor(1) as thread:

        def in_worker(place: Path) -> None:
            given = {"in_file": image, "models": models, "tissue_model": None, "threads": threads}
            given |= {"prepare": "auto", "mask_model": None}
            thread.submit(lambda: runner.run(run_segment(lanes, place, **given))).result()

        ways: dict[str, Callable[[Path], None]] = dict(
            zip(seconds, (plain, in_process, in_worker), strict=True)
        )
        for turn in range(repeats + 1):
            for way, work in ways.items():
                place = folder / f"{way} {turn}"
                place.mkdir()
                os.environ["PYDRA_HASH_CACHE"] = str(place / "hashes")
                start = time.perf_counter()
                work(place)
                if turn:
                    seconds[way].append(time.perf_counter() - start)
                shutil.rmtree(place)
        thread.submit(runner.close).result()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image", nargs="?", type=Path, help="default: a made head of 4 mm")
    parser.add_argument("--repeats", type=int, default=9)
    given = parser.parse_args()
    report = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = given.image or save(folder / "head_T1w.nii.gz", head_voxels(), head_affine())
        cards = {kind: str(make_card(folder / "cards", kind)) for kind in ("mask", "tissue", "regions")}
        runs = {"one model": [cards["regions"]]}
        if given.image is None:
            # The made models know no tissue but that of the made head.
            runs["tissues and one more"] = list(cards.values())
        for title, models in runs.items():
            place = folder / title
            place.mkdir()
            seconds = measure(image.resolve(), models, given.repeats, place)
            medians = {way: statistics.median(values) for way, values in seconds.items()}
            pairs = {
                way: statistics.median(b - a for a, b in zip(seconds["plain"], values, strict=True))
                for way, values in seconds.items()
            }
            report[title] = {
                way: {"seconds": round(medians[way], 3), "overhead": round(pairs[way], 3)} for way in medians
            }
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
