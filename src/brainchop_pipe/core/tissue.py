"""Grey matter, white matter and CSF from a brain mask and a tissue model together."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

GM, WM, CSF = 1, 2, 3
TISSUE_NAMES = {GM: "Grey matter", WM: "White matter", CSF: "Cerebrospinal fluid"}

# Slices at a time, which stay in the cache.
_SLAB = 8

# A voxel is brain where its probability of being so is larger than that of not being so.
_BRAIN_ABOVE = 0.5


@dataclass(frozen=True, eq=False)
class TissueMaps:
    """Tissue maps that agree with each other, on one grid.

    Parameters
    ----------
    mask : bool, shape (I, J, K)
        Brain with the CSF around it.
    labels : uint8, shape (I, J, K)
        0 outside of the mask; inside the class of the largest probability: 1 = GM,
        2 = WM, 3 = CSF. The lowest wins ties.
    probabilities : float32, shape (3, I, J, K), 0 to 1
        GM, WM, CSF of what is brain: they add up to 1 within the mask, and are 0 outside.
    """

    mask: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def tissue_share(self) -> float:
        """Share of the mask that is grey or white matter, 0 to 1; 0 for an empty mask."""
        tissue = int(np.count_nonzero((self.labels == GM) | (self.labels == WM)))
        return tissue / max(int(np.count_nonzero(self.mask)), 1)


def csf_probability(brain: np.ndarray, neither: np.ndarray) -> np.ndarray:
    """Give p(CSF) = p(brain, CSF included) · p(neither grey nor white matter), float32."""
    return np.asarray(brain * neither)


def tissue_maps(brain: np.ndarray, tissues: Iterable[np.ndarray]) -> TissueMaps:
    """Combine probabilities on one grid into maps that do not contradict each other.

    Parameters
    ----------
    brain : float32, shape (I, J, K), 0 to 1
    tissues : iterable of three arrays like `brain`
        GM, WM, and CSF of `csf_probability`, so that they add up to at most 1. They are
        taken one after the other, and need not all be there at once.

    Returns
    -------
    TissueMaps
        Labels lie within the mask, and are the arg-max of the probabilities there.
    """
    mask = brain > _BRAIN_ABOVE
    del brain
    probabilities = np.empty((3, *mask.shape), np.float32)
    for masked, probability in zip(probabilities, tissues, strict=True):
        np.multiply(probability, mask, out=masked)
    labels = np.zeros(mask.shape, np.uint8)
    for start in range(0, len(mask), _SLAB):
        slab = slice(start, start + _SLAB)
        part = probabilities[:, slab]
        # At the rim they add up to the probability of brain, above one half; inside the mask that is decided.
        total = part.sum(axis=0)
        np.divide(part, total, out=part, where=total > 0)
        best = np.zeros(total.shape, np.float32)
        for label, probability in zip((GM, WM, CSF), part, strict=True):
            labels[slab][probability > best] = label
            np.maximum(best, probability, out=best)
    return TissueMaps(mask, labels, probabilities)
