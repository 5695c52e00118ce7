"""N4: a smooth field by which the values of an image are multiplied, found from its histogram.

Source: Tustison et al. 2010 (doi:10.1109/TMI.2010.2046908), whose sharpening of the
histogram is of Sled et al. 1998 (doi:10.1109/42.668698), and whose fit of B-splines is of
Lee et al. 1997 (doi:10.1109/2945.620490). On a regular lattice of voxels that fit, and the
value of a spline, are products of three small matrices, one an axis: a fortieth of the time
that fits of scattered points take, and the same numbers but for their rounding.
"""

from collections.abc import Sequence

import numpy as np

# Of the B-splines; there are so many more control points along an axis than spans.
_ORDER = 3

# Sharpening: bins of the histogram, width of the Gaussian that blurs it in units of the logarithm,
# and what keeps the division by its spectrum from making noise large. The values of the paper.
_BINS = 200
_FULL_WIDTH = 0.15
_NOISE = 0.01

# A level ends where the field changes by less, as coefficient of variation.
_CONVERGED = 0.001


def log_field_control_points(values: np.ndarray, mask: np.ndarray, iterations: Sequence[int]) -> np.ndarray:
    """Find the logarithm of the field, as control points of cubic B-splines.

    Parameters
    ----------
    values : float, shape (I, J, K)
        The image, 0 or above. Zeros within the mask count as ones.
    mask : bool, same shape
        Where the image is looked at; an empty one gives zeros.
    iterations : sequence of int
        Most iterations of each level. The first has one span along each axis, each
        other one twice as many as the one before.

    Returns
    -------
    float64, shape (spans + 3,) * 3
        See `evaluate`.
    """
    inside = values[mask].astype(np.float64)
    logarithms = np.log(inside, out=np.zeros_like(inside), where=inside > 0)
    points = np.zeros((1 + _ORDER,) * 3)
    if not len(inside):
        return points
    for level, most in enumerate(iterations):
        if level:
            points = _refined(points)
        weights = [_weights(n, len(points) - _ORDER) for n in mask.shape]
        fit = _Fit(weights, mask)
        field = _product(weights, points)[mask]
        for _ in range(most):
            corrected = logarithms - field
            points = points + fit.control_points(corrected - _sharpened(corrected))
            before, field = field, _product(weights, points)[mask]
            change = np.exp(before - field)
            if len(change) < 2 or change.std(ddof=1) <= _CONVERGED * change.mean():
                break
    return points


def evaluate(points: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Give the values of a spline at the points of a lattice that reaches from its one end to the other.

    Parameters
    ----------
    points : float, shape (A, B, C)
        Control points.
    shape : sequence of three int

    Returns
    -------
    float64, `shape`
    """
    return _product([_weights(n, m - _ORDER) for n, m in zip(shape, points.shape, strict=True)], points)


class _Fit:
    """Approximation of values at the voxels of a mask by a spline (Lee et al., equations 4 and 5)."""

    def __init__(self, weights: list[np.ndarray], mask: np.ndarray) -> None:
        self._mask = mask
        squares = [w**2 for w in weights]
        i, j, k = (square.sum(axis=1) for square in squares)
        self._sums = (i[:, None, None] * j[None, :, None] * k)[mask]
        self._cubes = [(w**3).T for w in weights]
        self._shares = _product([s.T for s in squares], mask.astype(np.float64))

    def control_points(self, values: np.ndarray) -> np.ndarray:
        """Give the control points; 0 where no voxel of the mask has a say."""
        spread = np.zeros(self._mask.shape)
        spread[self._mask] = values / self._sums
        found = _product(self._cubes, spread)
        return np.asarray(np.divide(found, self._shares, out=np.zeros_like(found), where=self._shares > 0))


def _weights(count: int, spans: int) -> np.ndarray:
    """Give the weights of control points at so many positions: shape (count, spans + 3)."""
    positions = np.linspace(0, spans, count)
    first = np.minimum(positions.astype(int), spans - 1)
    u = positions - first
    weights = np.zeros((count, spans + _ORDER))
    rows = np.arange(count)
    pieces = ((1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3)
    for shift, piece in enumerate(pieces):
        weights[rows, first + shift] = piece / 6
    return weights


def _product(matrices: Sequence[np.ndarray], volume: np.ndarray) -> np.ndarray:
    """Multiply each axis of a volume by a matrix of its own."""
    for matrix in matrices:
        # The axis goes to the end; after three of them all are in their places.
        volume = np.tensordot(volume, matrix, (0, 1))
    return volume


def _refined(points: np.ndarray) -> np.ndarray:
    """Give control points of twice as many spans for the same spline."""
    spans = points.shape[0] - _ORDER
    halves = np.zeros((2 * spans + _ORDER, spans + _ORDER))
    for new in range(len(halves)):
        old = new // 2
        if new % 2:
            halves[new, old : old + 3] = (1 / 8, 6 / 8, 1 / 8)
        else:
            halves[new, old : old + 2] = 1 / 2
    return _product([halves] * 3, points)


def _sharpened(logarithms: np.ndarray) -> np.ndarray:
    """Give what values would be if a field had not blurred their histogram."""
    low, high = logarithms.min(), logarithms.max()
    if high == low:
        return logarithms
    width = (high - low) / (_BINS - 1)
    positions = (logarithms - low) / width
    bins = np.minimum(positions.astype(int), _BINS - 2)
    shares = positions - bins
    histogram = np.bincount(bins, 1 - shares, _BINS) + np.bincount(bins + 1, shares, _BINS)
    expected = _expected(histogram, low, width)
    return np.asarray(expected[bins] * (1 - shares) + expected[bins + 1] * shares)


def _expected(histogram: np.ndarray, low: float, width: float) -> np.ndarray:
    """Give the value to expect before the blur for each bin's value after it."""
    size = 2 ** (int(np.ceil(np.log2(_BINS))) + 1)
    start = (size - _BINS) // 2
    padded = np.zeros(size)
    padded[start : start + _BINS] = histogram
    blur = np.fft.fft(_gaussian(size, _FULL_WIDTH / width))
    # Wiener's way of dividing by the blur's spectrum.
    inverse = (blur.conj() / (blur.conj() * blur + _NOISE)).real
    sharp = np.fft.ifft(np.fft.fft(padded) * inverse).real.clip(0)
    values = low + (np.arange(size) - start) * width
    sums, counts = (np.fft.ifft(np.fft.fft(v) * blur).real for v in (values * sharp, sharp))
    found = np.divide(sums, counts, out=np.zeros(size), where=counts != 0)
    return np.asarray(found[start : start + _BINS])


def _gaussian(size: int, full_width: float) -> np.ndarray:
    """Give a Gaussian around position 0 of a circle; its full width at half maximum is in positions."""
    distance = np.minimum(np.arange(size), size - np.arange(size))
    height = 2 * np.sqrt(np.log(2) / np.pi) / full_width
    return np.asarray(height * np.exp(-4 * np.log(2) * (distance / full_width) ** 2))
