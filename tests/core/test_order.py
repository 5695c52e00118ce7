import importlib
import sys

import numpy as np
import pytest

from brainchop_pipe.core import order as module
from brainchop_pipe.core.order import in_order
from conftest import compiled

reorder = compiled("brainchop_pipe.core._order").reorder


@pytest.fixture(params=["compiled", "numpy"], autouse=True)
def code(request, monkeypatch):
    """As it is installed, and as it is where there was no compiler."""
    if request.param == "numpy":
        monkeypatch.setitem(sys.modules, "brainchop_pipe.core._order", None)
        monkeypatch.delattr("brainchop_pipe.core._order")
        importlib.reload(module)
    assert (module._order is None) == (request.param == "numpy")
    yield
    monkeypatch.undo()
    importlib.reload(module)


@pytest.mark.parametrize("shape", [(3, 4, 5), (17, 2, 33), (130, 9, 66), (1, 1, 1), (0, 3, 2), (4, 6), (7,)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", [np.uint8, bool, ">i2", np.float32, np.float64, np.complex128, object])
def test_values_stay_and_the_order_is_the_one_asked_for(shape, order, dtype):
    array = np.random.default_rng(0).integers(0, 100, shape).astype(dtype)
    fortran = np.asfortranarray(array)
    for given in (
        np.ascontiguousarray(array),
        fortran,
        fortran[..., ::-1][..., ::-1],
        np.repeat(array, 2, -1)[..., ::2],
    ):
        found = in_order(given, order)
        assert np.array_equal(found, array)
        assert found.dtype == array.dtype
        assert found.flags.c_contiguous if order == "C" else found.flags.f_contiguous


def test_what_is_in_order_is_not_copied():
    array = np.zeros((3, 4, 5))
    assert in_order(array, "C") is array
    assert in_order(array.T, "F").base is array


@pytest.mark.parametrize("cut", [np.s_[1:, 2:9, :40], np.s_[:, ::2, ::-3], np.s_[5:6, :, :]])
def test_parts_of_volumes_are_ordered(cut):
    volume = np.asfortranarray(np.random.default_rng(0).integers(0, 100, (70, 11, 65)).astype(np.int16))
    assert np.array_equal(in_order(volume[cut], "C"), volume[cut])
    assert np.array_equal(in_order(volume.T[cut[::-1]], "F"), volume.T[cut[::-1]])


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), "three axes"),
        (np.zeros((2, 3, 4), order="F"), np.zeros((2, 3, 5)), "shape"),
        (np.zeros((2, 3, 4), order="F"), np.zeros((2, 3, 4), np.int16), "size"),
        (np.zeros((2, 3, 4)), np.zeros((2, 3, 4)), "source's first axis"),
        (np.zeros((2, 3, 4), order="F"), np.zeros((2, 3, 4), order="F"), "target's last axis"),
        (np.zeros((2, 3, 4), complex, order="F"), np.zeros((2, 3, 4), complex), "1, 2, 4 or 8 bytes"),
    ],
)
def test_nothing_is_written_beyond_its_array(source, target, words):
    with pytest.raises(ValueError, match=words):
        reorder(source, target)
