"""Grey levels of structures: entirely random, or in the order that a kind of image has."""

import numpy as np
from brainchop_pipe.models.train.structures import FLUID, GREY, INDEX, STRUCTURES, TISSUE_OF, WHITE

Range = tuple[float, float]

# Plausible grey levels relative to the brightest tissue: white matter, grey matter, fluid, and the classes
# outside of the brain. What is not named is drawn from everywhere.
_KINDS: dict[str, dict[str, Range]] = {
    "T1w": {
        "WM": (0.70, 0.95),
        "GM": (0.42, 0.70),
        "CSF": (0.05, 0.30),
        "scalp": (0.5, 1.4),
        "soft tissue": (0.25, 0.75),
        "skull": (0.0, 0.30),
        "marrow": (0.1, 1.0),
        "eyes": (0.05, 0.35),
        "arteries": (0.0, 1.4),
    },
    "T2w": {
        "WM": (0.22, 0.42),
        "GM": (0.36, 0.60),
        "CSF": (0.70, 1.1),
        "scalp": (0.2, 1.0),
        "soft tissue": (0.08, 0.45),
        "skull": (0.0, 0.25),
        "marrow": (0.1, 0.6),
        "eyes": (0.7, 1.1),
        "arteries": (0.0, 0.3),
    },
    "FLAIR": {
        "WM": (0.45, 0.65),
        "GM": (0.58, 0.85),
        "CSF": (0.02, 0.22),
        "scalp": (0.2, 1.2),
        "soft tissue": (0.15, 0.6),
        "skull": (0.0, 0.25),
        "marrow": (0.1, 0.7),
        "eyes": (0.0, 0.25),
        "arteries": (0.0, 0.4),
    },
    "CT": {
        "WM": (0.30, 0.40),
        "GM": (0.36, 0.46),
        "CSF": (0.18, 0.28),
        "scalp": (0.0, 0.4),
        "soft tissue": (0.3, 0.55),
        "skull": (1.2, 3.0),
        "marrow": (0.6, 2.0),
        "eyes": (0.2, 0.4),
        "arteries": (0.4, 0.7),
    },
}
_TISSUE_KEYS = {WHITE: "WM", GREY: "GM", FLUID: "CSF"}

# How far deep grey matter lies from cortex towards white matter, as images weighted by T1 and T2 show it.
_TOWARDS_WHITE: dict[str, Range] = {
    "thalamus": (0.2, 0.75),
    "pallidum": (0.4, 1.0),
    "putamen": (0.0, 0.5),
    "caudate": (-0.1, 0.3),
}


def grey_levels(kind: str, rng: np.random.Generator) -> np.ndarray:
    """Draw a grey level for each structure.

    Parameters
    ----------
    kind : {"random", "T1w", "T2w", "FLAIR", "CT"}
    rng : numpy.random.Generator

    Returns
    -------
    float32, shape (structures,), about 0 to 1
        Left and right are one structure; air is near 0.
    """
    levels = rng.uniform(0.0, 1.0, len(STRUCTURES))
    if kind == "random":
        # Structures of a tissue are alike in most images, but not in all.
        spread = rng.choice([0.02, 0.08, 0.3], p=[0.4, 0.4, 0.2])
        for tissue in _TISSUE_KEYS:
            inside = np.flatnonzero(tissue == TISSUE_OF)
            levels[inside] = rng.uniform(0.05, 1.0) + rng.normal(0, spread, len(inside))
    else:
        _set_plausible(levels, _KINDS[kind], rng)
    levels[INDEX["fluid around the cord"]] = levels[INDEX["fluid around the brain"]]
    levels[0] = 0.0 if rng.random() < 0.8 else rng.uniform(0.0, 0.6 if kind == "random" else 0.1)
    return levels.clip(0, 3).astype(np.float32)


def _set_plausible(levels: np.ndarray, ranges: dict[str, Range], rng: np.random.Generator) -> None:
    tissue_levels = {tissue: rng.uniform(*ranges[key]) for tissue, key in _TISSUE_KEYS.items()}
    towards_white = tissue_levels[WHITE] - tissue_levels[GREY]
    for index, structure in enumerate(STRUCTURES):
        if structure.name in ranges:
            levels[index] = rng.uniform(*ranges[structure.name])
        elif structure.tissue:
            share = rng.uniform(*_TOWARDS_WHITE.get(structure.name, (0.0, 0.0)))
            levels[index] = tissue_levels[structure.tissue] + share * towards_white + rng.normal(0, 0.015)
