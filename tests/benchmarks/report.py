"""What reports and sidecars cost an image: ``python -m tests.benchmarks.report OUT BIDS_DIR``.

OUT is an output of the app with label maps. A JSON line for each image of it: CPU seconds for reading
the conformed head and drawing all of its pictures, for the participant's page, and for sidecars
with their digests; and all three together.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from brainchop_pipe.workflows.draw_pictures import Pictures, draw_pictures
from brainchop_pipe.workflows.participant_report import picture_job, write_participant_page

from brainchop_pipe.bids.publish import sidecar_path
from brainchop_pipe.bids.results import Result, find_results
from brainchop_pipe.bids.uris import Places
from brainchop_pipe.file_steps import conform_file
from brainchop_pipe.storage import json_bytes, sha256_of_file


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(results: list[Result], image: Path, folder: Path) -> dict[str, object]:
    """Draw and write again what an image has; the pictures go elsewhere."""
    head = conform_file(image, folder / "conformed.nii")
    jobs = [replace(picture_job(r), pictures=Pictures(folder / "m.png", folder / "t.png")) for r in results]
    # The first call imports libraries, once a process.
    draw_pictures(head, jobs[:1])
    files = sorted(results[0].image.parent.glob("*.nii.gz"))

    def write_sidecars() -> None:
        for file in files:
            json_bytes(json.loads(sidecar_path(file).read_bytes()))
            sha256_of_file(file)

    seconds = {
        "pictures": cpu_seconds(lambda: draw_pictures(head, jobs)),
        "page": cpu_seconds(lambda: write_participant_page(results[0].output_dir, results[0].participant)),
        "sidecars": cpu_seconds(write_sidecars),
    }
    seconds["all"] = sum(seconds.values())
    rounded = {what: round(value, 3) for what, value in seconds.items()}
    return {"image": image.name, "label maps": len(jobs), "cpu_s": rounded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("bids_dir", type=Path)
    given = parser.parse_args()
    by_image: dict[str, list[Result]] = defaultdict(list)
    for result in find_results(given.output_dir):
        by_image[result.source_uri].append(result)
    places = Places.of(given.output_dir, given.bids_dir)
    with tempfile.TemporaryDirectory() as folder:
        for uri, results in by_image.items():
            image = places.resolve(uri)
            if image is not None:
                sys.stdout.write(json.dumps(measure(results, image, Path(folder))) + "\n")


if __name__ == "__main__":
    main()
