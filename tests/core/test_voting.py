import numpy as np
import pytest

from brainchop_pipe.core.voting import Votes, sub_volume_boxes


@pytest.mark.parametrize("shape", [(32, 32, 32), (33, 40, 47)])
def test_grid_of_sub_volumes_covers_the_volume(shape):
    covered = np.zeros(shape, bool)
    for box in sub_volume_boxes(shape, (16, 16, 16), 0, 0.2, 0):
        covered[box] = True
        assert covered[box].shape == (16, 16, 16)
    assert covered.all()


def test_further_sub_volumes_lie_around_the_middle_and_are_the_same_each_time():
    given = ((64, 64, 64), (16, 16, 16), 300, 0.1, 7)
    boxes = list(sub_volume_boxes(*given))
    assert len(boxes) == 300
    assert boxes == list(sub_volume_boxes(*given))
    centres = np.array([[s.start + 8 for s in box] for box in boxes[64:]])
    np.testing.assert_allclose(centres.mean(axis=0), 32, atol=2)
    assert centres.std(axis=0) == pytest.approx(6.4, rel=0.2)


def test_most_votes_win_and_the_lowest_label_on_a_tie():
    votes = Votes((1, 1, 3), 3)
    for labels in ([2, 2, 0], [1, 2, 0], [2, 1, 0], [2, 1, 0]):
        votes.add(np.index_exp[:, :, :], np.array([[labels]]))
    labels, confidence, shares = votes.result()
    assert labels.tolist() == [[[2, 1, 0]]]
    np.testing.assert_allclose(confidence, [[[0.75, 0.5, 1]]])
    np.testing.assert_allclose(shares.sum(axis=0), 1)


def test_voxel_without_votes_is_background():
    labels, confidence, _ = Votes((1, 1, 1), 2).result()
    assert labels.tolist() == confidence.tolist() == [[[0]]]
