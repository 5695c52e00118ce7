import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from brainchop_pipe.core.tissue import csf_probability, tissue_maps

probabilities = arrays(np.float32, (4, 3, 4, 5), elements=st.floats(0, 1, width=32))


@given(probabilities)
def test_labels_lie_in_the_mask_and_are_the_argmax_of_the_probabilities(values):
    brain, *classes = values
    total = np.maximum(sum(classes), 1e-6)
    gm, wm, neither = (c / total for c in classes)
    maps = tissue_maps(brain, (gm, wm, csf_probability(brain, neither)))
    assert not maps.labels[~maps.mask].any()
    assert not maps.probabilities[:, ~maps.mask].any()
    known = maps.mask & (maps.probabilities.max(axis=0) > 0)
    np.testing.assert_array_equal(maps.labels[known], maps.probabilities.argmax(axis=0)[known] + 1)
    np.testing.assert_allclose(maps.probabilities.sum(axis=0)[known], 1, atol=1e-5)
    assert (maps.probabilities <= 1).all()


def test_sure_of_the_tissue_but_not_of_the_brain_is_sure_of_the_tissue_within_the_mask():
    """At the rim, where brain has a probability of 0.6: the mask says that it is brain."""
    rim, half = np.full((1, 1, 1), 0.6, np.float32), np.full((1, 1, 1), 0.5, np.float32)
    nought = np.zeros((1, 1, 1), np.float32)
    maps = tissue_maps(rim, (half, nought, csf_probability(rim, half)))
    np.testing.assert_allclose(maps.probabilities.ravel(), [0.625, 0, 0.375], atol=1e-6)
    assert maps.labels.item() == 1


def test_brain_that_is_neither_grey_nor_white_is_csf():
    one, nought = np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32)
    maps = tissue_maps(one, (nought, nought, csf_probability(one, one)))
    assert maps.labels.item() == 3
