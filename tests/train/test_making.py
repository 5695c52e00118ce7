"""Images made from label maps: what is in them, and what must not change."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, the extra [train]")

from brainchop_pipe.models.train.contrast import grey_levels
from brainchop_pipe.models.train.corruption import as_conformed
from brainchop_pipe.models.train.envelope import envelope, one_brain, whole_brain, without_spine
from brainchop_pipe.models.train.fields import blur, source_coordinates, take_linear, take_nearest
from brainchop_pipe.models.train.loss import disagreement, one_hot, shares
from brainchop_pipe.models.train.making import make_example, vary_pair
from brainchop_pipe.models.train.settings import Making
from brainchop_pipe.models.train.sources import Examples, Heads, Pair, read_pair
from brainchop_pipe.models.train.structures import INDEX, structures_of
from made_heads import head_map
from scipy import ndimage

from brainchop_pipe.core.grid import grid_around
from brainchop_pipe.errors import InputError
from conftest import save

SIZE = (48, 64, 48)
MAKING = Making(least_shape=SIZE, most_shape=SIZE)


@pytest.mark.parametrize("kind", ["random", "T1w", "T2w", "FLAIR", "CT"])
def test_made_images_fit_their_tissues(kind):
    making = MAKING.model_copy(update={"kinds": {kind: 1.0}})
    for seed in range(6):
        example = make_example(torch.from_numpy(head_map()), making, (seed,))
        assert example.image.shape == example.tissues.shape == SIZE
        assert example.image.dtype == torch.float32
        assert 0 <= float(example.image.min()) <= float(example.image.max()) <= 1
        assert torch.isfinite(example.image).all()
        assert int(example.tissues.max()) <= 3


def test_number_of_an_image_decides_what_it_is():
    """However many processes make them, and wherever training goes on."""
    heads = Heads({"a": torch.from_numpy(head_map())}, ())
    first, later = Examples(heads, MAKING, 0, (0,), 6), Examples(heads, MAKING, 0, (0,), 6, first=4)
    assert (len(first), len(later)) == (6, 2)
    assert torch.equal(first[5].image, later[1].image)
    assert not torch.equal(first[5].image, first[4].image)
    with pytest.raises(IndexError):
        later[2]


def test_white_matter_is_bright_in_t1w_and_fluid_in_t2w():
    names = [INDEX[n] for n in ("white matter", "cortex", "fluid around the brain")]
    for seed in range(20):
        white, grey, fluid = grey_levels("T1w", np.random.default_rng(seed))[names]
        assert white > grey > fluid
        white, grey, fluid = grey_levels("T2w", np.random.default_rng(seed))[names]
        assert fluid > max(white, grey)


def test_nothing_is_looked_for_where_nothing_was_scanned():
    making = MAKING.model_copy(update={"cropped": 1.0, "noise": 0.0})
    for seed in range(8):
        example = make_example(torch.from_numpy(head_map()), making, (seed,))
        assert not example.tissues[example.image == 0].float().mean() > 0.5


def test_variant_of_a_pair_keeps_image_and_labels_together():
    tissues = (head_map() == INDEX["white matter"]).astype(np.uint8)
    still = {"shift_mm": (2, 2, 2), "noise": 0, "bias": 0, "gamma": 0, "low_resolution": 0, "cropped": 0}
    image = torch.from_numpy(tissues * 200.0).float()
    example = vary_pair(image, torch.from_numpy(tissues), MAKING.model_copy(update=still), (3,))
    agree = (example.image > 0.5) == (example.tissues == 1)
    assert agree.float().mean() > 0.99


def test_reading_at_whole_voxels_gives_the_voxels():
    volume = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    center = (np.array(volume.shape) - 1) / 2
    still = torch.zeros(3, 2, 3, 4)
    here = source_coordinates((2, 3, 4), np.eye(3), center, still)
    assert torch.equal(take_nearest(volume, here), volume)
    assert torch.allclose(take_linear(volume, here), volume, atol=1e-4)
    beyond = source_coordinates((2, 3, 4), np.eye(3), center + 10, still)
    assert not take_nearest(volume, beyond).any()


def test_blur_is_the_gaussian_of_scipy():
    image = np.random.default_rng(0).random((20, 22, 24), np.float32)
    found = blur(torch.from_numpy(image), (1.5, 0.0, 2.5)).numpy()
    expected = ndimage.gaussian_filter(image, (1.5, 0, 2.5), mode="constant", truncate=2.5)
    np.testing.assert_allclose(found[8:12, :, 8:12], expected[8:12, :, 8:12], atol=5e-3)


def test_image_is_spread_over_256_levels():
    image = torch.rand(40, 40, 40) * 7000
    found = as_conformed(image)
    assert float(found.max()) == 1
    assert torch.equal((found * 255).round() / 255, found)
    assert not as_conformed(torch.zeros(8, 8, 8)).any()


def test_unknown_numbers_are_refused():
    with pytest.raises(InputError, match=r"has the numbers \[777\]"):
        structures_of(np.array([[[2, 777]]]))


def test_specks_outside_of_the_brain_become_air():
    structures = head_map()
    structures[0, 0, 0] = INDEX["fluid around the brain"]
    found = one_brain(structures)
    assert found[0, 0, 0] == 0
    np.testing.assert_array_equal(found[1:], structures[1:])
    with pytest.raises(InputError, match="no grey or white matter"):
        one_brain(np.zeros((4, 4, 4), np.uint8))


def test_fluid_below_the_brain_is_no_longer_brain():
    structures = np.full((8, 20, 8), INDEX["fluid around the brain"], np.uint8)
    structures[:, 5:10] = INDEX["brain stem"]
    found = without_spine(structures)
    assert (found[:, 12:] == INDEX["fluid around the cord"]).all()
    np.testing.assert_array_equal(found[:, :12], structures[:, :12])
    assert without_spine(np.zeros((4, 4, 4), np.uint8)).shape == (4, 4, 4)


def test_pairs_may_have_tissues_or_the_numbers_of_freesurfer(tmp_path):
    affine = grid_around(np.zeros(3), (64, 64, 64), (1.0, 1.0, 1.0), "LIA").affine
    image = save(tmp_path / "T1w.nii.gz", head_map().astype(np.float32) * 10, affine)
    numbers = save(tmp_path / "aseg.nii.gz", head_map(numbers=True).astype(np.int16), affine)
    white = (head_map() == INDEX["white matter"]) * np.uint8(2)
    dseg = save(tmp_path / "dseg.nii.gz", white, affine)
    from_numbers, from_tissues = read_pair(image, numbers), read_pair(image, dseg)
    assert isinstance(from_numbers, Pair)
    assert torch.equal(from_numbers.tissues == 1, from_tissues.tissues == 1)
    assert set(from_numbers.tissues.unique().tolist()) == {0, 1, 2, 3}
    elsewhere = affine.copy()
    elsewhere[:3, 3] += 900
    far = save(tmp_path / "far.nii.gz", white, elsewhere)
    with pytest.raises(InputError, match="has no label in the place of"):
        read_pair(image, far)


def test_perfect_scores_have_no_loss_and_wrong_ones_much():
    tissues = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (8, 8, 8)).astype(np.uint8))
    wanted = one_hot(tissues)
    sure = 30 * (wanted[1:] - wanted[:1])[None]
    assert float(disagreement(sure, wanted)) < 0.01
    assert float(disagreement(-sure, wanted)) > 1


def test_shares_of_cubes_add_up_to_one():
    tissues = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (8, 6, 4)).astype(np.uint8))
    found = shares(tissues)
    assert found.shape == (4, 4, 3, 2)
    assert torch.allclose(found.sum(dim=0), torch.ones(4, 3, 2))
    assert float(found[1, 0, 0, 0]) == pytest.approx((tissues[:2, :2, :2] == 1).float().mean())


def test_brain_is_one_smooth_piece_with_the_fluid_near_it():
    """Fluid far from the brain and thin sheets of it are taken away; the gap between two halves is filled."""
    tissue = np.zeros((80, 80, 80), np.uint8)
    tissue[20:60, 20:60, 20:60] = 3
    tissue[24:39, 24:56, 24:56] = tissue[41:56, 24:56, 24:56] = 2
    tissue[39:41, 20:60, 20:60] = 0
    tissue[40, 40, 60:78] = 3
    found = envelope(tissue)
    assert found[tissue == 2].mean() > 0.99
    assert not found[:, :, 64:].any()
    assert not found[:17].any()
    assert found[39:41, 30:50, 30:50].all()


def test_dura_between_the_halves_of_the_brain_becomes_part_of_it():
    structures = head_map()
    structures[31:33][structures[31:33] == INDEX["cortex"]] = INDEX["other"]
    found = whole_brain(structures)
    assert (found == INDEX["dura"]).any()
    assert not (found == INDEX["other"]).any()
