"""How right a model is that is to find the brain by default: ``python -m tests.benchmarks.embedded CARD``.

On images that its training never saw: masks of all heads against those of `mindgrab`;
masks and tissues of the head that has FreeSurfer's labels against these; disturbed
variants of the heads against its own undisturbed masks; time and memory. A JSON line for
each row. Other programs take part with files of theirs: ``--masks NAME=FOLDER`` and
``--labels NAME=FOLDER`` (FreeSurfer's numbers), called like the images, such as
``sub-ecog_T1w.nii.gz``. Needs the folder of real data (BRAINCHOP_SHARED).
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

import numpy as np
from tests.benchmarks.quality import DATASET, FLUID, LABELLED, SHARED, WHITE, reference_on, tissue_dice
from tests.benchmarks.variants import vary

from brainchop_pipe.brain_steps import find_brain
from brainchop_pipe.core.conform import conform
from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.core.metrics import dice, hausdorff_95
from brainchop_pipe.core.resample import resample_nearest
from brainchop_pipe.errors import InputError
from brainchop_pipe.file_steps import conform_file, segment_tissues_file
from brainchop_pipe.images import read_image
from brainchop_pipe.inference.predict import predict
from brainchop_pipe.preparation import what_model_sees
from brainchop_pipe.record import peak_memory_mb
from brainchop_pipe.report.mosaic import draw
from brainchop_pipe.settings import Processing, available_cpus
from brainchop_pipe.steps import conform_image, load_model
from brainchop_pipe.zoo.plan import preparing_of

OTHER = "mindgrab"
TABLES = ("heads", "tissues", "variants", "cost")
VARIANTS = 200
Row = dict[str, object]


def images() -> dict[str, Path]:
    """Give all heads by the names of their files."""
    return {path.name.removesuffix(".nii.gz"): path for path in sorted(DATASET.glob("sub-*/**/*.nii.gz"))}


def brain_mask(conformed: Volume, model: str) -> np.ndarray:
    """Give the brain on the conformed grid; empty where the model finds nothing."""
    processing = Processing(threads=available_cpus())
    try:
        return find_brain(conformed, load_model(model), processing, correct=False).inside
    except InputError:
        return np.zeros(conformed.grid.shape, bool)


def compared(found: np.ndarray, reference: np.ndarray, grid: Grid) -> Row:
    """Give Dice and the 95 % Hausdorff distance."""
    distance = hausdorff_95(found, reference, grid.spacing_mm)
    return {"dice": round(dice(found, reference), 3), "hd95_mm": round(distance, 1)}


def file_on(folder: Path, name: str, grid: Grid) -> np.ndarray | None:
    """Give a label map of another program on a grid, if there is one."""
    path = next(iter(sorted(folder.glob(f"{name}*"))), None)
    if path is None:
        return None
    volume = read_image(path, allow_constant=True).volume
    return resample_nearest(Volume(volume.voxels.astype(np.int32), volume.grid), grid)


def heads_table(model: str, masks: dict[str, Path], kept: Path) -> Iterator[Row]:
    """Compare masks of all heads with mindgrab's, which are kept in a folder: they take a minute each."""
    rows: dict[str, list[Row]] = {}
    for name, path in images().items():
        volume = conform_image(path).conformed.volume
        reference = _kept_mask(kept / f"{name}.npy", volume)
        found = {model: brain_mask(volume, model)}
        found |= {program: file_on(folder, name, volume.grid) for program, folder in masks.items()}
        for program, mask in found.items():
            if mask is not None:
                row = compared(mask > 0, reference, volume.grid)
                rows.setdefault(program, []).append(row)
                sizes = {"mL": int((mask > 0).sum() / 1000), f"{OTHER} mL": int(reference.sum() / 1000)}
                yield {"table": "heads", "image": name, "program": program, **row, **sizes}
        own, other = (Volume(m.astype(np.uint8), volume.grid) for m in (found[model], reference))
        (kept / f"{name}.png").write_bytes(draw(volume, own, {1: "#E69F00"}, mask=other))
    for program, each in rows.items():
        dices, distances = ([float(str(row[key])) for row in each] for key in ("dice", "hd95_mm"))
        yield {
            "table": "heads",
            "program": program,
            "median dice": statistics.median(dices),
            "median hd95_mm": statistics.median(distances),
            "worst hd95_mm": max(distances),
        }


def tissues_table(model: str, masks: dict[str, Path], labels: dict[str, Path], kept: Path) -> Iterator[Row]:
    """Compare masks and tissues of the labelled head with FreeSurfer's."""
    name = f"sub-{LABELLED}_T1w"
    image = images()[name]
    reference, grid = reference_on(image), read_image(image).volume.grid
    volume = conform_image(image).conformed.volume
    wanted = file_on(SHARED / "data" / "reference", f"sub-{LABELLED}_brainmask", volume.grid)
    found = {model: brain_mask(volume, model), OTHER: _kept_mask(kept / f"{name}.npy", volume)}
    found |= {program: file_on(folder, name, volume.grid) for program, folder in masks.items()}
    for program, mask in found.items():
        if mask is not None and wanted is not None:
            row = compared(mask > 0, wanted > 0, volume.grid)
            yield {"table": "tissues", "program": program, "mask against": "FreeSurfer's", **row}
    dsegs = {model: own_tissues(image, model)}
    dsegs |= {program: _as_tissues(file_on(folder, name, grid)) for program, folder in labels.items()}
    for program, dseg in dsegs.items():
        if dseg is not None:
            yield {"table": "tissues", "program": program, **tissue_dice(dseg, reference)}


def own_tissues(image: Path, model: str) -> np.ndarray:
    """Give the tissue map that the default run writes, in the image's own order of voxels."""
    threads = available_cpus()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conformed = conform_file(image, folder / "conformed.nii")
        files = segment_tissues_file(
            conformed, image, folder, tissue_model=model, threads=threads, orientation="native"
        )
        return read_image(files.dseg, allow_constant=True).volume.voxels


def variants_table(model: str, count: int) -> Iterator[Row]:
    """Compare masks of disturbed heads with the undisturbed ones, within the field of view."""
    names, values = list(images()), []
    whole = {name: conform_image(path).conformed.volume for name, path in images().items()}
    masks = {name: brain_mask(volume, model) for name, volume in whole.items()}
    for number in range(count):
        name = names[number % len(names)]
        volume, mask = whole[name], masks[name]
        variant = vary(volume, (1, number))
        conformed = conform(variant.image).volume
        moved = Grid(volume.grid.shape, variant.moved @ volume.grid.affine)
        expected = resample_nearest(Volume((mask & variant.seen).astype(np.uint8), moved), conformed.grid) > 0
        visible = resample_nearest(Volume(variant.seen.astype(np.uint8), moved), conformed.grid) > 0
        value = dice(brain_mask(conformed, model) & visible, expected)
        values.append(value)
        yield {"table": "variants", "image": name, "variant": variant.words, "dice": round(value, 3)}
    share = sum(value >= 0.85 for value in values) / len(values)
    low = sorted(round(value, 3) for value in values)[:5]
    median = round(statistics.median(values), 3)
    yield {"table": "variants", "count": count, "at least .85": share, "median": median, "lowest": low}


def cost_table(model: str) -> Iterator[Row]:
    """Measure inference on each head in a process of its own, with two threads."""
    for name, path in images().items():
        command = [sys.executable, "-m", "tests.benchmarks.embedded", model, "--measure", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        yield {"table": "cost", "image": name, **json.loads(result.stdout)}


def measure(model: str, path: Path) -> Row:
    """Give seconds of preparation and of two runs, and the peak memory of this process, and that before."""
    volume = conform(read_image(path).volume).volume
    ready = load_model(model)
    before = peak_memory_mb()
    start = time.perf_counter()
    way = preparing_of(ready.card, "auto")
    view = what_model_sees((volume,), ready.card, way, None, full_volume=False).view
    prepared = round(time.perf_counter() - start, 2)
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        predict(view, ready.content, ready.card, threads=2, with_probabilities=True)
        seconds.append(round(time.perf_counter() - start, 2))
    box = [s.stop - s.start for s in view.box]
    memory = {"peak MB": peak_memory_mb(), "before MB": before}
    return {"box": box, "prepared s": prepared, "first s": seconds[0], "next s": seconds[1], **memory}


def _kept_mask(path: Path, volume: Volume) -> np.ndarray:
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.packbits(brain_mask(volume, OTHER)))
    return np.unpackbits(np.load(path)).reshape(volume.grid.shape).astype(bool)


def _as_tissues(labels: np.ndarray | None) -> np.ndarray | None:
    """Give FreeSurfer's labels as 1 = GM, 2 = WM."""
    if labels is None:
        return None
    white, fluid = np.isin(labels, WHITE), np.isin(labels, FLUID)
    return np.where(white, 2, np.where((labels > 0) & ~fluid, 1, 0))


def _pairs(given: list[str]) -> dict[str, Path]:
    return {name: Path(folder) for name, _, folder in (word.partition("=") for word in given)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="name, or card")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=TABLES)
    parser.add_argument("--masks", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--labels", nargs="+", default=[], metavar="NAME=FOLDER")
    parser.add_argument(
        "--keep", type=Path, default=Path("build/embedded"), help="mindgrab's masks, pictures"
    )
    parser.add_argument("--variants", type=int, default=VARIANTS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        sys.stdout.write(json.dumps(measure(given.model, given.measure)))
        return
    masks, labels = _pairs(given.masks), _pairs(given.labels)
    rows = {
        "heads": lambda: heads_table(given.model, masks, given.keep),
        "tissues": lambda: tissues_table(given.model, masks, labels, given.keep),
        "variants": lambda: variants_table(given.model, given.variants),
        "cost": lambda: cost_table(given.model),
    }
    for table in given.tables:
        for row in rows[table]():
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
