"""Networks that answer for a box of what they see."""

import numpy as np
import pytest

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.predict import post_filter
from brainchop_pipe.zoo.catalog import Model
from brainchop_pipe.zoo.check import check_file
from made_cards import card_of, run, smooth_noise
from networks import answering_for_a_box, mesh_net

LOW, HIGH = (4, 8, 12), (30, 40, 44)
BOX = tuple(slice(low, high) for low, high in zip(LOW, HIGH, strict=True))
NETWORK = mesh_net((1, 2, 4, 1))


@pytest.fixture
def volume():
    return smooth_noise()


def test_box_gets_what_the_network_says_and_all_else_is_background(tmp_path, volume):
    # The box makes the network no chain any more, which auto would run by other code.
    given = {"device": "cpu", "with_probabilities": True}
    whole = run(volume, NETWORK, card_of(tmp_path, NETWORK), **given)
    content = answering_for_a_box(NETWORK, LOW, HIGH)
    card = card_of(tmp_path, content, output={"extent": "box"})
    found = run(volume, content, card, **given)
    assert found.box == BOX
    assert found.field_of_view.box == whole.field_of_view.box
    expected = np.zeros_like(whole.labels.voxels)
    expected[BOX] = whole.labels.voxels[BOX]
    np.testing.assert_array_equal(found.labels.voxels, expected)
    np.testing.assert_allclose(found.probabilities, whole.probabilities[(slice(None), *BOX)], atol=1e-6)
    assert found.probability(0).voxels[0, 0, 0] == 1
    assert found.probability(1, 2).voxels[-1, -1, -1] == 0


def test_box_lies_where_it_was_seen_in_a_head_that_is_cropped(tmp_path, volume):
    """The lattice of the network begins within the image, and is padded at its end."""
    head = type(volume)(np.zeros_like(volume.voxels), volume.grid)
    head.voxels[10:31, 12:43, 9:40] = volume.voxels[10:31, 12:43, 9:40] | 128
    crop = {"threshold": 20, "margin_voxels": 0, "agreement": 1, "measured_on": "made"}
    given = {"crop": crop, "multiple_of": 16}
    content = answering_for_a_box(NETWORK, LOW, (99, 99, 99))
    card = card_of(tmp_path, content, output={"extent": "box"}, **given)
    found = run(head, content, card, full_volume=False, with_probabilities=True)
    seen = found.field_of_view.box
    assert all(s.start > 0 and (s.stop - s.start) % 16 for s in seen)
    assert found.box == tuple(slice(s.start + low, s.stop) for s, low in zip(seen, LOW, strict=True))
    whole = run(head, NETWORK, card_of(tmp_path, NETWORK, **given), full_volume=False)
    np.testing.assert_array_equal(found.labels.voxels[found.box], whole.labels.voxels[found.box])
    assert not found.labels.voxels[: found.box[0].start].any()


def test_filtered_labels_and_probabilities_agree_in_a_box(tmp_path, volume):
    content = answering_for_a_box(NETWORK, LOW, HIGH)
    card = card_of(tmp_path, content, output={"extent": "box"})
    filtered = post_filter(run(volume, content, card, with_probabilities=True), card)
    assert filtered.removed_components > 0
    np.testing.assert_array_equal(filtered.probabilities.argmax(axis=0), filtered.labels.voxels[BOX])


@pytest.mark.parametrize("corner", [(-1, 0, 0), (20, 8, 12)])
def test_box_beyond_what_was_seen_is_refused(tmp_path, volume, corner):
    content = answering_for_a_box(NETWORK, LOW, HIGH, corner)
    card = card_of(tmp_path, content, output={"extent": "box"})
    with pytest.raises(ModelError, match="which is no part of"):
        run(volume, content, card)


def test_network_without_a_second_output_is_refused(tmp_path):
    card = card_of(tmp_path, NETWORK, output={"extent": "box"})
    with pytest.raises(ModelError, match=r"outputs \['scores'\]; two, of a box and of its first voxel"):
        check_file(Model(card, tmp_path, "made"), NETWORK)


@pytest.mark.parametrize(
    "given",
    [
        {"run": {"method": "volume", "halo": 8}},
        {"run": {"method": "subvolumes", "shape": [32, 32, 32], "count": 27}},
        {"layout": "NDHWC"},
    ],
)
def test_card_refuses_a_box_where_it_cannot_be(tmp_path, given):
    with pytest.raises(ValueError, match=r"output\.extent 'box' goes with"):
        card_of(tmp_path, NETWORK, output={"extent": "box"}, **given)
