"""How often each value occurs."""

import numpy as np

# Values that are converted to int64 at a time: all of a volume at once would take eight times
# its memory, whose first touch costs more than the counting.
_AT_ONCE = 1 << 20


def count_values(values: np.ndarray) -> np.ndarray:
    """Count each value, as ``np.bincount`` does.

    Parameters
    ----------
    values : unsigned integers, any shape
        Small ones: the result is as long as the largest.

    Returns
    -------
    int64, shape (largest + 1,)
        One 0 where there are no values.
    """
    flat = values.ravel(order="K")
    total = np.zeros(int(flat.max(initial=0)) + 1, np.int64)
    for start in range(0, flat.size, _AT_ONCE):
        total += np.bincount(flat[start : start + _AT_ONCE], minlength=total.size)
    return total
