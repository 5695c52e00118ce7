import numpy as np
import pytest

from brainchop_pipe.core.counts import count_values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(0,), (1,), (2,), (7, 11, 13), (70, 80, 90)])
@pytest.mark.parametrize("largest", [0, 1, 254, 255])
def test_counts_are_those_of_numpy(dtype, shape, largest):
    values = np.random.default_rng(0).integers(0, largest + 1, shape).astype(dtype)
    expected = np.bincount(values.ravel(), minlength=1)
    for given in (values, np.asfortranarray(values), values[..., ::-1]):
        assert np.array_equal(count_values(given), expected)
