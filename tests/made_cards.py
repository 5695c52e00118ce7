"""Cards of made networks, and images run through them."""

import json
from pathlib import Path

import numpy as np

from brainchop_pipe.core.grid import Volume, grid_around
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.predict import Prediction, predict
from brainchop_pipe.inference.view import view_of
from brainchop_pipe.storage import sha256_of_bytes
from conftest import make_card


def card_of(folder: Path, content: bytes, *, labels: int = 3, output: object = None, **given) -> ModelCard:
    """Give the card of a made network on a grid of 2 mm; `given` are keys of its input."""
    path = make_card(folder, "regions")
    card = json.loads(path.read_text())
    card["weights"] |= {"files": [{"path": "m.onnx", "sha256": sha256_of_bytes(content)}]}
    card["weights"]["onnx_sha256"] = sha256_of_bytes(content)
    card["input"] = {
        "intensity": {"method": "minmax"},
        "grid": {"shape": [40, 44, 48], "spacing_mm": [2, 2, 2], "orientation": "RAS"},
        **given,
    }
    names = [{"index": i, "name": f"Class {i}", "color": "#808080"} for i in range(labels)]
    card["output"] = {"role": "regions", "description": "made", "labels": names, **(output or {})}
    return ModelCard.model_validate(card)


def smooth_noise() -> Volume:
    """Give an image on the grid of those cards."""
    grid = grid_around(np.zeros(3), (40, 44, 48), (2, 2, 2), "RAS")
    noise = np.random.default_rng(1).integers(0, 256, (10, 11, 12), np.uint8)
    return Volume(noise.repeat(4, 0).repeat(4, 1).repeat(4, 2), grid)


def run(volume, content, card, *, full_volume=True, **kwargs) -> Prediction:
    return predict(view_of((volume,), card, full_volume=full_volume), content, card, **kwargs)
