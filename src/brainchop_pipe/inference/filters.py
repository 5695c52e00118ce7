"""The post-filter that a card asks for."""

import math

import numpy as np

from brainchop_pipe.core.components import (
    count_removed,
    fill_holes,
    fill_holes_per_label,
    largest_component,
    largest_component_per_label,
    largest_core,
    without_small_components,
)
from brainchop_pipe.inference.card import ModelCard, PostFilter


def filter_labels(labels: np.ndarray, voxel_mm3: float, card: ModelCard) -> tuple[np.ndarray, int]:
    """Apply a card's post-filter to a label map on the model's grid.

    Parameters
    ----------
    labels : uint8 or uint16, shape (I, J, K)
    voxel_mm3 : float
        Volume of a voxel.
    card : ModelCard

    Returns
    -------
    labels : same dtype and shape
        The very same array where the card asks for nothing. Regions are removed first,
        of all labels together and then of each; holes are filled last.
    removed_components : int
        Regions of the map that are gone.
    """
    wanted = card.post_filter
    # A class of both sides has a largest region on each.
    paired = [label.index for label in card.output.labels if len(label.freesurfer) > 1]
    kept = _without_islands(labels, voxel_mm3, wanted, paired)
    removed = 0 if kept is labels else count_removed(labels, kept, wanted.connectivity)
    if wanted.fill_holes_per_label:
        kept = fill_holes_per_label(kept, wanted.connectivity)
    if wanted.fill_holes:
        kept = fill_holes(kept, wanted.connectivity)
    return kept, removed


def _without_islands(
    labels: np.ndarray, voxel_mm3: float, wanted: PostFilter, paired: list[int]
) -> np.ndarray:
    touching = wanted.connectivity
    if wanted.core_voxels:
        labels = np.asarray(labels * largest_core(labels, wanted.core_voxels))
    if wanted.largest_component:
        labels = np.asarray(labels * largest_component(labels, touching))
    if wanted.least_mm3:
        labels = without_small_components(labels, _voxels(wanted.least_mm3, voxel_mm3), touching)
    if wanted.largest_component_per_label:
        labels = largest_component_per_label(labels, touching, paired=paired)
    if wanted.least_mm3_per_label:
        least = _voxels(wanted.least_mm3_per_label, voxel_mm3)
        labels = without_small_components(labels, least, touching, per_label=True)
    return labels


def _voxels(mm3: float, voxel_mm3: float) -> int:
    """Fewest voxels of which a region has at least a volume."""
    return math.ceil(mm3 / voxel_mm3)
