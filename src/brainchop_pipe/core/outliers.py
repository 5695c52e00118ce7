"""How far a number lies from the others, told so that the odd ones do not hide themselves."""

import numpy as np

# Iglewicz and Hoaglin (1993), How to Detect and Handle Outliers: of numbers that are spread
# normally, one in two thousand lies further away.
OUTLIER_BEYOND = 3.5

# Of fewer numbers nobody can say what is usual.
_FEWEST = 5

# The median of absolute deviations of a normal distribution, in standard deviations.
_MAD_OF_NORMAL = 0.6745


def robust_z(values: np.ndarray) -> np.ndarray:
    """Give the distance of each number from the median, in robust standard deviations.

    Parameters
    ----------
    values : float, shape (N,)
        NaN where there is none.

    Returns
    -------
    float, shape (N,)
        NaN where there is no number; all NaN for fewer than five numbers, and where more
        than half of them are the same, so that there is no spread to compare with.

    Notes
    -----
    Source: the modified z-score of Iglewicz and Hoaglin (1993).
    """
    known = values[np.isfinite(values)]
    nothing = np.full(values.shape, np.nan)
    if known.size < _FEWEST:
        return nothing
    middle = np.median(known)
    spread = np.median(np.abs(known - middle))
    # What differs by rounding alone is no spread.
    if spread <= 1e-9 * max(abs(middle), 1e-9):
        return nothing
    return np.asarray(_MAD_OF_NORMAL * (values - middle) / spread)
