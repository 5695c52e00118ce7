"""How well two label maps agree."""

import numpy as np

from brainchop_pipe.errors import ShapeError


def dice(found: np.ndarray, reference: np.ndarray) -> float:
    """Give the Dice coefficient of two masks: twice the overlap by the sum of the sizes.

    Parameters
    ----------
    found, reference : bool, same shape

    Returns
    -------
    float, 0 to 1
        1 where both are empty.

    Raises
    ------
    ShapeError
        The shapes differ.
    """
    if found.shape != reference.shape:
        raise ShapeError(f"masks have the shapes {found.shape} and {reference.shape}; one grid is needed")
    total = int(np.count_nonzero(found)) + int(np.count_nonzero(reference))
    return 2 * int(np.count_nonzero(found & reference)) / total if total else 1.0
