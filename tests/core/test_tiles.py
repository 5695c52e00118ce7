import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from brainchop_pipe.core.tiles import full_box, head_box, plan_tiles, smallest_tile_voxels


def test_box_holds_the_head_and_its_margin_but_not_the_noise():
    voxels = np.zeros((64, 64, 64), np.uint8)
    voxels[20:31, 25:40, 30:60] = 90
    voxels[2, 2, 2] = 200
    i, j, k = head_box(voxels, 20, 3)
    assert i.start <= 17
    assert i.stop >= 34
    assert i.start >= 13
    assert k.stop == 64
    assert j.stop <= 47


def test_nothing_bright_gives_the_whole_volume():
    assert head_box(np.full((8, 9, 10), 5, np.uint8), 20, 3) == full_box((8, 9, 10))


def test_cores_of_tiles_fill_the_volume_once():
    count = np.zeros((50, 64, 41), int)
    for tile in plan_tiles(count.shape, 5, 20_000):
        count[tile.core] += 1
        assert np.prod([s.stop - s.start for s in tile.seen]) <= 20_000
        assert all(low <= i.start for low, i in zip((0, 0, 0), tile.inner, strict=True))
    assert (count == 1).all()


def test_tile_sees_its_halo_as_far_as_the_volume_goes():
    for tile in plan_tiles((64, 64, 64), 5, 64**3 / 2):
        for core, seen in zip(tile.core, tile.seen, strict=True):
            assert seen.start == max(core.start - 5, 0)
            assert seen.stop == min(core.stop + 5, 64)


def test_volume_that_fits_is_one_tile():
    (tile,) = plan_tiles((20, 30, 40), 7, 24_000)
    assert tile.core == tile.seen == full_box((20, 30, 40))


def test_volume_that_does_not_fit_even_in_the_smallest_tiles_has_no_plan():
    assert plan_tiles((64, 64, 64), 5, smallest_tile_voxels((64, 64, 64), 5) / 3) is None


@given(st.tuples(*[st.integers(20, 90)] * 3), st.integers(0, 20))
def test_smallest_tiles_are_a_plan(shape, halo):
    assert plan_tiles(shape, halo, smallest_tile_voxels(shape, halo)) is not None
