import numpy as np

from brainchop_pipe.core.tiles import full_box, head_box


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
