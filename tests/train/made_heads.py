"""A head of boxes and balls as training takes it."""

import numpy as np
from brainchop_pipe.models.train.structures import INDEX

# FreeSurfer's numbers of the structures that `head_map` has.
NUMBERS = {"soft tissue": 507, "skull": 515, "fluid around the brain": 24, "cortex": 3, "white matter": 2}
_RADII = {
    "soft tissue": 0.95,
    "skull": 0.85,
    "fluid around the brain": 0.75,
    "cortex": 0.6,
    "white matter": 0.4,
}


def head_map(edge: int = 64, *, numbers: bool = False) -> np.ndarray:
    """Give shells from the scalp to white matter: structures, uint8, or FreeSurfer's numbers."""
    axes = np.ogrid[(slice(-1, 1, complex(0, edge)),) * 3]
    radius = np.sqrt(sum(axis**2 for axis in axes))
    head = np.zeros((edge,) * 3, np.int32 if numbers else np.uint8)
    for name, size in _RADII.items():
        head[radius < size] = NUMBERS[name] if numbers else INDEX[name]
    return head
