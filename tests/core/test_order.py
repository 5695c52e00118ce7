import numpy as np
import pytest

from brainchop_pipe.core.order import in_order


@pytest.mark.parametrize("shape", [(3, 4, 5), (17, 2, 33), (1, 1, 1), (4, 6), (7,)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, ">i2", np.float32])
def test_values_stay_and_the_order_is_the_one_asked_for(shape, order, dtype):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    for given in (np.ascontiguousarray(array), np.asfortranarray(array), np.repeat(array, 2, -1)[..., ::2]):
        found = in_order(given, order)
        assert np.array_equal(found, array)
        assert found.dtype == array.dtype
        assert found.flags.c_contiguous if order == "C" else found.flags.f_contiguous


def test_what_is_in_order_is_not_copied():
    array = np.zeros((3, 4, 5))
    assert in_order(array, "C") is array
    assert in_order(array.T, "F").base is array
