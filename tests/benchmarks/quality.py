"""How right the models are: ``python -m tests.benchmarks.quality [MODEL...]``.

Dice against FreeSurfer's labels of ``sub-ecog`` (automatic ones: a second opinion, not
the truth), and the volumes found on the raw heads that have no labels; a JSON line for
each model and preparation, half an hour on two cores. Needs the folder of real data
(BRAINCHOP_SHARED).
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np

from brainchop_pipe.core.grid import Volume
from brainchop_pipe.core.metrics import dice
from brainchop_pipe.core.resample import resample_nearest
from brainchop_pipe.errors import InputError
from brainchop_pipe.file_steps import (
    conform_file,
    extract_brain_file,
    segment_labels_file,
    segment_tissues_file,
)
from brainchop_pipe.images import read_image
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.record import StepRecord
from brainchop_pipe.settings import Preparation, available_cpus
from brainchop_pipe.step_files import BrainFiles
from brainchop_pipe.steps import load_model
from brainchop_pipe.zoo.catalog import shipped_models
from brainchop_pipe.zoo.plan import DEFAULT_MASK_MODEL

SHARED = Path(os.environ.get("BRAINCHOP_SHARED", Path(__file__).parents[3] / "shared")).resolve()
DATASET = SHARED / "data" / "heads"
LABELLED = "ecog"
HEADS = (LABELLED, "uih", "xa30", "oblique")

# FreeSurfer's labels as tissues, after upstream's merging; what is brain and neither is grey matter.
WHITE = (2, 41, 7, 46, 16, 28, 60, 85, 77, *range(251, 256))
FLUID = (4, 5, 14, 15, 24, 43, 44, 72)
CORTEX = (3, 42, *range(1000, 1036), *range(2000, 2036))
# Classes of the models that take several of FreeSurfer's together.
REFERENCE_OF = {
    "Cerebral-Cortex": CORTEX,
    "Ventricle": (4, 43, 5, 44),
    "Corpus-Callosum": tuple(range(251, 256)),
}
FEWEST_VOXELS = 50


def reference_on(image: Path) -> np.ndarray:
    """Give FreeSurfer's labels on the RAS+ grid of the outputs."""
    labels = read_image(SHARED / "data" / "reference" / "sub-ecog_aparc+aseg.nii.gz").volume
    return resample_nearest(
        Volume(labels.voxels.astype(np.int32), labels.grid), read_image(image).volume.grid
    )


def tissue_dice(dseg: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    white, fluid = np.isin(reference, WHITE), np.isin(reference, FLUID)
    brain = (reference > 0) & (reference != 24)
    pairs = {
        "WM": (dseg == 2, white),
        "GM": (dseg == 1, brain & ~white & ~fluid),
        "brain": ((dseg == 1) | (dseg == 2), brain),
    }
    return {name: round(dice(found, wanted), 3) for name, (found, wanted) in pairs.items()}


def region_dice(labels: np.ndarray, card: ModelCard, reference: np.ndarray) -> dict[str, float]:
    values = []
    for label in card.output.labels[1:]:
        indices = REFERENCE_OF.get(label.name, label.freesurfer)
        wanted = np.isin(reference, indices)
        if wanted.sum() > FEWEST_VOXELS:
            values.append(dice(labels == label.index, wanted))
    brain = (reference > 0) & (reference != 24)
    mean, median = statistics.mean(values), statistics.median(values)
    scores = {"mean": mean, "median": median, "brain": dice(labels > 0, brain)}
    return {name: round(score, 3) for name, score in scores.items()} | {"classes": len(values)}


def segment(image: Path, name: str, prepare: Preparation, folder: Path) -> tuple[np.ndarray, StepRecord]:
    """Give a model's label map, native order, and the record; a head's brain is looked for once."""
    stem = f"{image.name.removesuffix('.nii.gz')}"
    conformed, brain = (
        folder / f"{stem}.nii",
        BrainFiles(folder / stem / "mask.nii", folder / stem / "brain.nii"),
    )
    threads = available_cpus()
    if not conformed.exists():
        conform_file(image, conformed)
        extract_brain_file(conformed, folder / stem, mask_model=DEFAULT_MASK_MODEL, threads=threads)
    common = {"prepare": prepare, "threads": threads, "orientation": "native"}
    if load_model(name).card.output.role == "tissue":
        files = segment_tissues_file(conformed, image, folder, **brain._asdict(), tissue_model=name, **common)
        path, record = files.dseg, files.record
    else:
        given = brain._asdict()
        path, _, record = segment_labels_file(conformed, image, folder, model=name, **given, **common)
    return read_image(path, allow_constant=True).volume.voxels, StepRecord.model_validate_json(
        record.read_bytes()
    )


def measure(
    model: str, prepare: Preparation, heads: list[str], reference: np.ndarray, folder: Path
) -> dict[str, object]:
    """Give a row of the table: agreement on the head with labels, volumes (mL) on the others."""
    card = load_model(model).card
    row: dict[str, object] = {"model": model, "prepare": prepare}
    for head in heads:
        image = DATASET / f"sub-{head}/anat/sub-{head}_T1w.nii.gz"
        try:
            labels, record = segment(image, model, prepare, folder)
        except InputError as error:
            row[head] = f"refused: {error}"
            continue
        if head == LABELLED:
            row[head] = agreement(labels, card, reference)
        else:
            row[head] = {
                "brain mL": round(sum(record.volumes_mm3.values()) / 1000),
                **(
                    {i: round(v / 1000) for i, v in record.volumes_mm3.items()}
                    if len(card.output.labels) < 5
                    else {}
                ),
            }
        if record.flags:
            row[f"{head}, flags"] = record.flags
    return row


def agreement(labels: np.ndarray, card: ModelCard, reference: np.ndarray) -> dict[str, float]:
    """Give the Dice coefficients that suit a model."""
    if card.output.role == "tissue":
        return tissue_dice(labels, reference)
    if card.output.role == "mask":
        return {"brain": round(dice(labels > 0, (reference > 0) & (reference != 24)), 3)}
    return region_dice(labels, card, reference)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(shipped_models()))
    parser.add_argument(
        "--prepare",
        nargs="+",
        default=["auto"],
        choices=get_args(Preparation),
        help="what the models see; auto, what their cards ask for",
    )
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=HEADS)
    given = parser.parse_args()
    reference = reference_on(DATASET / f"sub-{LABELLED}/anat/sub-{LABELLED}_T1w.nii.gz")
    with tempfile.TemporaryDirectory() as name:
        for model in given.models:
            for prepare in given.prepare:
                row = measure(model, prepare, given.heads, reference, Path(name))
                sys.stdout.write(json.dumps(row) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
