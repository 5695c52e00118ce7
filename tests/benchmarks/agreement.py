"""How far the ways of running agree: ``python -m tests.benchmarks.agreement [MODEL...]``.

Each model on the conformed ``sub-uih``, the whole head: its labels in the full volume
against the published network's (golden, float32), before and after the post-filter;
then tiled and cropped against the full volume. With ``--shorter TYPE`` instead: the
cropped head in that type on OpenVINO against float32 there. A JSON line a model: shares of the
foreground with the same label, seconds, peak memory of the process so far (true for the
first model alone), and what was seen. Some ten minutes on two cores. Needs the folder of
real data (BRAINCHOP_SHARED).
"""

import argparse
import json
import sys
import time

import numpy as np

from brainchop_pipe.core.grid import Volume
from brainchop_pipe.images import read_image
from brainchop_pipe.inference.card import PostFilter, ShorterType
from brainchop_pipe.inference.predict import Prediction, post_filter, predict
from brainchop_pipe.inference.runner import Precision
from brainchop_pipe.inference.view import view_of
from brainchop_pipe.inference.ways import least_gb, need_gb
from brainchop_pipe.record import peak_memory_mb
from brainchop_pipe.settings import available_cpus
from brainchop_pipe.steps import ReadyModel, load_model
from brainchop_pipe.zoo.catalog import shipped_models

from .quality import SHARED

GOLDEN = SHARED / "golden" / "uih"


def share_alike(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the foreground of either map in which both have one label."""
    foreground = (found > 0) | (wanted > 0)
    return round(float((found == wanted)[foreground].mean()), 6)


def run(
    ready: ReadyModel, volume: Volume, *, full_volume: bool, mem_gb: float | None = None
) -> tuple[Prediction, float]:
    start = time.perf_counter()
    view = view_of((volume,), ready.card, full_volume=full_volume)
    prediction = predict(view, ready.content, ready.card, threads=available_cpus(), mem_gb=mem_gb)
    return prediction, round(time.perf_counter() - start, 1)


def measure(name: str, volume: Volume) -> dict[str, object]:
    """Give a row of the table."""
    ready = load_model(name)
    card = ready.card
    folder = card.weights.files[0].path.split("/")[-2]
    golden, golden_filtered = (
        read_image(GOLDEN / f"{folder}{suffix}.nii.gz").volume.voxels for suffix in ("", "_largest")
    )
    full, seconds = run(ready, volume, full_volume=True)
    labels = full.labels.voxels
    # The goldens have the published post-filter, which a card may go beyond.
    published = card.model_copy(update={"post_filter": PostFilter()})
    if len(card.output.labels) < golden.max() + 1:
        # The masks merge the classes of a tissue model.
        golden, golden_filtered = golden > 0, golden_filtered > 0
    row: dict[str, object] = {
        "model": name,
        "golden": share_alike(labels, golden),
        "golden, filtered": share_alike(post_filter(full, published).labels.voxels, golden_filtered),
        "full s": seconds,
        "full GB": peak_memory_mb() / 1000,
    }
    if card.input.crop is not None:
        cropped, seconds = run(ready, volume, full_volume=False)
        row |= {"cropped": share_alike(cropped.labels.voxels, labels), "cropped s": seconds}
    half = (least_gb(card) + need_gb(card, volume.voxels.size)) / 2
    if half < card.memory.full_gb:
        tiled, seconds = run(ready, volume, full_volume=True, mem_gb=half)
        row |= {"tiled": share_alike(tiled.labels.voxels, labels), "tiled s": seconds}
        row["tiles"] = tiled.field_of_view.description
    return row


def measure_shorter(name: str, volume: Volume, precision: Precision) -> dict[str, object]:
    """Give a row for a type that is shorter than float32, whether or not the card names it yet."""
    ready = load_model(name)
    allowed = ShorterType(type=precision, agreement=1, measured_on="now")
    card = ready.card.model_copy(update={"shorter_types": (allowed,)})
    row: dict[str, object] = {"model": name}
    labels = []
    for each in ("float32", precision):
        start = time.perf_counter()
        view = view_of((volume,), card)
        found = predict(
            view, ready.content, card, device="openvino", threads=available_cpus(), precision=each
        )
        row[f"{found.execution.precision} s"] = round(time.perf_counter() - start, 1)
        labels.append(found.labels.voxels)
    return row | {"agreement": share_alike(*labels)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(shipped_models()))
    parser.add_argument("--shorter", choices=("bfloat16",))
    given = parser.parse_args()
    volume = read_image(GOLDEN / "conformed_fastsurfer.nii.gz").volume
    for name in given.models:
        row = measure_shorter(name, volume, given.shorter) if given.shorter else measure(name, volume)
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
