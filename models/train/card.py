"""The card of a trained model."""

import json
from pathlib import Path
from typing import Any

from brainchop_pipe.models.train.checkpoint import Progress
from brainchop_pipe.models.train.exporting import to_onnx
from brainchop_pipe.models.train.making import MULTIPLE
from brainchop_pipe.models.train.network import Segmenter
from brainchop_pipe.models.train.settings import Card, Settings

from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.storage import sha256_of_bytes, write_whole

_LABELS = (
    {"index": 0, "name": "Background", "abbreviation": "BG", "color": "#000000", "freesurfer": [0]},
    {"index": 1, "name": "White matter", "abbreviation": "WM", "color": "#F5F5F5", "tissue": "WM"},
    {"index": 2, "name": "Grey matter", "abbreviation": "GM", "color": "#CD3E4E", "tissue": "GM"},
    {"index": 3, "name": "Cerebrospinal fluid", "abbreviation": "CSF", "color": "#3C3CC8", "tissue": "CSF"},
)


def export(network: Segmenter, settings: Settings, progress: Progress, folder: Path) -> Path:
    """Write a network as ``NAME.onnx`` and its card as ``NAME.json``.

    Parameters
    ----------
    network : Segmenter
    settings : Settings
        Of the training; `settings.card` has what the card says.
    progress : Progress
        How far the training is.
    folder : Path

    Returns
    -------
    Path
        The card.
    """
    content = to_onnx(network)
    card = card_of(settings, progress, sha256_of_bytes(content))
    path = folder / f"{settings.card.name}.json"
    write_whole(path.with_suffix(".onnx"), content)
    write_whole(path, (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())
    return path


def card_of(settings: Settings, progress: Progress, sha256: str) -> dict[str, Any]:
    """Give the card of an exported network, checked."""
    told: Card = settings.card
    card = {
        "schema_version": 1,
        **told.model_dump(include={"name", "version", "title", "description", "intended_use"}),
        "bids_label": "".join(c for c in told.name if c.isalnum()),
        "training_data": f"{told.training_data} {_training(settings, progress)}".strip(),
        "modalities": list(told.modalities),
        "license": {"id": told.license_id, "url": told.license_url},
        "citations": list(told.citations),
        "weights": {
            "format": "onnx",
            "files": [{"path": f"{told.name}.onnx", "sha256": sha256}],
            "onnx_sha256": sha256,
        },
        "input": {
            "intensity": {"method": "minmax"},
            "prepare": told.prepare,
            "multiple_of": MULTIPLE,
            "crop": {
                "threshold": told.crop_threshold,
                "margin_voxels": told.crop_margin,
                "agreement": told.crop_agreement,
                "measured_on": told.crop_measured_on,
            },
        },
        "output": {
            "role": "tissue",
            "description": "tissue",
            "extent": "box",
            "includes_csf": True,
            "labels": list(_LABELS),
        },
        "post_filter": {"core_voxels": 4, "largest_component": True, "fill_holes": True, "connectivity": 26},
        "memory": {"full_gb": told.full_gb, "cropped_gb": told.cropped_gb},
    }
    if told.full_seconds and told.cropped_seconds:
        card["time"] = {"full_seconds": told.full_seconds, "cropped_seconds": told.cropped_seconds}
    ModelCard.model_validate(card)
    return card


def _training(settings: Settings, progress: Progress) -> str:
    """Say how long the training was, and on what."""
    where = "a GPU" if settings.fitting.device == "cuda" else "two CPU cores"
    return (
        f"Trained for {progress.step} steps of one image each, {progress.seconds / 60:.0f} minutes on "
        f"{where}; seed {settings.fitting.seed}."
    )
