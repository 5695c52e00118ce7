"""What the numbers of a label map mean: structures that share one grey level, and their tissues."""

from dataclasses import dataclass

import numpy as np

from brainchop_pipe.errors import InputError

BACKGROUND, WHITE, GREY, FLUID = 0, 1, 2, 3
TISSUES = ("background", "WM", "GM", "CSF")


@dataclass(frozen=True)
class Structure:
    """Labels that are one kind of matter.

    Parameters
    ----------
    name : str
    labels : tuple of int
        Left and right have one structure.
    tissue : int
        Index into `TISSUES`.
    """

    name: str
    labels: tuple[int, ...]
    tissue: int = BACKGROUND


# FreeSurfer's numbers. Above 500 stand classes outside of the brain whose names are not published: what
# they are was judged by where they lie, and serves only to choose plausible grey levels.
STRUCTURES = (
    Structure("air", (0,)),
    Structure("white matter", (2, 41, 251, 252, 253, 254, 255), WHITE),
    Structure("white-matter lesions", (25, 57, 77, 78, 79), WHITE),
    Structure("cerebellar white matter", (7, 46), WHITE),
    Structure("brain stem", (16,), WHITE),
    Structure("ventral diencephalon", (28, 60), WHITE),
    Structure("optic chiasm", (85,), WHITE),
    Structure("cortex", (3, 42, *range(1000, 1036), *range(2000, 2036)), GREY),
    Structure("cerebellar cortex", (8, 47), GREY),
    Structure("thalamus", (10, 49), GREY),
    Structure("caudate", (11, 50), GREY),
    Structure("putamen", (12, 51), GREY),
    Structure("pallidum", (13, 52), GREY),
    Structure("hippocampus", (17, 53), GREY),
    Structure("amygdala", (18, 54), GREY),
    Structure("accumbens", (26, 58), GREY),
    Structure("vessels", (30, 62), GREY),
    Structure("ventricles", (4, 5, 14, 15, 43, 44, 72), FLUID),
    Structure("choroid plexus", (31, 63, 136, 137, 163, 164), FLUID),
    Structure("fluid around the brain", (24,), FLUID),
    Structure("eyes", (506,)),
    Structure("soft tissue", (507, 258)),
    Structure("scalp", (511,)),
    Structure("skull", (515, 165)),
    Structure("marrow", (514, 516)),
    Structure("mucosa", (509,)),
    Structure("arteries", (502,)),
    Structure("spinal cord", (512, 530)),
    Structure("other", (508,)),
    # Of "fluid around the brain", what lies below the brain or far from it: see `envelope.py`.
    Structure("fluid around the cord", ()),
    # What lies between the halves of the brain, and between cerebrum and cerebellum.
    Structure("dura", (), FLUID),
)
INDEX = {structure.name: index for index, structure in enumerate(STRUCTURES)}
TISSUE_OF = np.array([structure.tissue for structure in STRUCTURES], np.uint8)


def structures_of(labels: np.ndarray) -> np.ndarray:
    """Translate a label map into indices of `STRUCTURES`, uint8, same shape.

    Raises
    ------
    InputError
        It has a number that no structure has.
    """
    table = np.full(int(labels.max()) + 1, 255, np.uint8)
    for index, structure in enumerate(STRUCTURES):
        known = [label for label in structure.labels if label < len(table)]
        table[known] = index
    found = table[labels]
    if (found == 255).any():
        unknown = np.unique(labels[found == 255])[:10].tolist()
        raise InputError(f"a label map has the numbers {unknown}; give FreeSurfer's, or extend STRUCTURES")
    return np.asarray(found)
