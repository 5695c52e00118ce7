"""One network, several ways: what they must agree on."""

import weakref

import numpy as np
import pytest

from brainchop_pipe.core.grid import Volume, grid_around
from brainchop_pipe.core.tiles import plan_tiles
from brainchop_pipe.errors import ModelError, UsageError
from brainchop_pipe.inference.card import ModelCard
from brainchop_pipe.inference.network import Scores
from brainchop_pipe.inference.ways import _run_tiles, least_gb, need_gb
from conftest import require_native, require_openvino
from made_cards import card_of, run, smooth_noise
from networks import mesh_net, unet

DILATIONS = (1, 2, 4, 1)
HALO = sum(DILATIONS)


@pytest.fixture
def volume():
    return smooth_noise()


@pytest.mark.parametrize("with_probabilities", [True, False])
@pytest.mark.parametrize("classes", [3, 12])
def test_tiles_with_a_halo_give_what_the_full_volume_gives(tmp_path, volume, classes, with_probabilities):
    content = mesh_net(DILATIONS, classes)
    card = card_of(tmp_path, content, labels=classes, run={"method": "volume", "halo": HALO})
    whole = run(volume, content, card, with_probabilities=with_probabilities)
    tiled = run(volume, content, card, mem_gb=0.85, with_probabilities=with_probabilities)
    assert "tiles with a halo of 8" in tiled.field_of_view.description
    assert len(np.unique(whole.labels.voxels)) >= min(classes, 5)
    np.testing.assert_array_equal(tiled.labels.voxels, whole.labels.voxels)
    np.testing.assert_allclose(tiled.confidence, whole.confidence, atol=1e-5)
    if with_probabilities:
        np.testing.assert_allclose(tiled.probabilities, whole.probabilities, atol=1e-5)


@pytest.mark.parametrize("with_probabilities", [True, False])
@pytest.mark.parametrize("classes", [3, 12])
@pytest.mark.parametrize(("device", "provider"), [("openvino", "OpenVINO"), ("native", "Native")])
def test_others_give_what_onnxruntime_gives(
    tmp_path, volume, device, provider, classes, with_probabilities, monkeypatch
):
    {"openvino": require_openvino, "native": require_native}[device]()
    # Several slabs of the last layer, and one that is thinner.
    monkeypatch.setattr("brainchop_pipe.inference.network._SLAB_LOGITS", classes * 44 * 48 * 7)
    content = mesh_net(DILATIONS, classes)
    card = card_of(tmp_path, content, labels=classes)
    cpu, fast = (
        run(volume, content, card, device=device, with_probabilities=with_probabilities)
        for device in ("cpu", device)
    )
    assert fast.execution.provider == provider
    assert (fast.labels.voxels == cpu.labels.voxels).mean() > 0.9999
    np.testing.assert_allclose(fast.confidence, cpu.confidence, atol=1e-4)
    if with_probabilities:
        np.testing.assert_allclose(fast.probabilities, cpu.probabilities, atol=1e-4)


def test_openvino_is_for_where_its_memory_is_allowed(tmp_path, volume):
    require_openvino()
    content = mesh_net(DILATIONS, activation="Tanh")
    card = card_of(tmp_path, content)
    enough = run(volume, content, card, mem_gb=100).execution
    less = run(volume, content, card, mem_gb=1.1 * card.memory.full_gb).execution
    assert (enough.provider, enough.fallbacks) == ("OpenVINO", ())
    assert (less.requested, less.provider) == ("auto", "CPUExecutionProvider")
    assert "OpenVINO may take" in less.fallbacks[-1]


def allowing_bfloat16(card: ModelCard) -> ModelCard:
    shorter = {"type": "bfloat16", "agreement": 0.9, "measured_on": "made noise"}
    return ModelCard.model_validate(card.model_dump(mode="json") | {"shorter_types": [shorter]})


def test_memory_is_looked_at_for_the_precision_that_runs(tmp_path, volume):
    require_openvino()
    require_native()
    content = mesh_net(DILATIONS)
    card = allowing_bfloat16(card_of(tmp_path, content))
    mem_gb = 1.1 * card.memory.full_gb
    assert run(volume, content, card, mem_gb=mem_gb).execution.provider == "Native"
    shorter = run(volume, content, card, mem_gb=mem_gb, precision="bfloat16").execution
    assert shorter.provider == "CPUExecutionProvider"
    assert any("OpenVINO may take" in reason for reason in shorter.fallbacks)


@pytest.mark.parametrize("device", ["cpu", "openvino"])
def test_precision_is_for_cards_that_name_it(tmp_path, volume, device):
    if device == "openvino":
        require_openvino()
    content = mesh_net(DILATIONS)
    card = card_of(tmp_path, content)
    plain = run(volume, content, card, device=device, precision="bfloat16")
    assert plain.execution.precision == "float32"
    assert "its card does not name bfloat16" in plain.execution.fallbacks
    found = run(volume, content, allowing_bfloat16(card), device=device, precision="bfloat16").execution
    # Not every processor has it; what it computed in is never left open.
    assert found.precision == "bfloat16" or "float32 here, not bfloat16" in found.fallbacks[-1]


def test_halo_that_is_too_small_shows(tmp_path, volume):
    content = mesh_net(DILATIONS)
    card = card_of(tmp_path, content, run={"method": "volume", "halo": 1})
    whole, tiled = run(volume, content, card), run(volume, content, card, mem_gb=0.5)
    assert (tiled.labels.voxels != whole.labels.voxels).any()


def test_network_that_may_not_be_tiled_is_run_whole(tmp_path, volume):
    content = mesh_net(DILATIONS)
    card = card_of(tmp_path, content)
    assert "tiles" not in run(volume, content, card, mem_gb=0.1).field_of_view.description
    assert least_gb(card) == card.memory.full_gb


def test_memory_that_no_tile_fits_is_refused(tmp_path, volume):
    content = mesh_net(DILATIONS)
    card = card_of(tmp_path, content, run={"method": "volume", "halo": HALO})
    assert 0.25 < least_gb(card) < need_gb(card, 40 * 44 * 48) == card.memory.full_gb
    with pytest.raises(UsageError, match=r"needs 0\.5 GB in its smallest tiles; 0\.3 GB are allowed"):
        run(volume, content, card, mem_gb=0.3)


BRIGHT = {"labels": 2}


def expected(volume: Volume) -> np.ndarray:
    return volume.voxels / 255.0 > 0.5


def test_residual_unet_of_a_fixed_size_runs(tmp_path):
    """BrainMaGe's shape: 128³, one channel, two classes."""
    content = unet(3, [128, 128, 128])
    grid = {"shape": [128, 128, 128], "spacing_mm": [2, 2, 2], "orientation": "RAS"}
    card = card_of(tmp_path, content, **BRIGHT, grid=grid)
    voxels = np.zeros((128, 128, 128), np.uint8)
    voxels[30:70, 40:90, 20:100] = 255
    volume = Volume(voxels, grid_around(np.zeros(3), (128, 128, 128), (2, 2, 2), "RAS"))
    np.testing.assert_array_equal(run(volume, content, card).labels.voxels, voxels > 0)


@pytest.mark.parametrize("planes", [["axial"], ["coronal"], ["axial", "coronal", "sagittal"]])
def test_slices_of_all_planes_come_back_into_their_places(tmp_path, volume, planes):
    content = unet(2, ["H", "W"], batch="N")
    slices = {"method": "slices", "planes": planes, "batch": 7}
    card = card_of(tmp_path, content, **BRIGHT, layout="NCHW", run=slices)
    prediction = run(volume, content, card)
    np.testing.assert_array_equal(prediction.labels.voxels, expected(volume))
    assert ", ".join(planes) in prediction.field_of_view.description


def test_sizes_are_padded_to_what_a_unet_takes(tmp_path, volume):
    odd = Volume(volume.voxels[:37, :, :33], grid_around(np.zeros(3), (37, 44, 33), (2, 2, 2), "RAS"))
    content = unet(3, ["D", "H", "W"])
    grid = {"shape": [37, 44, 33], "spacing_mm": [2, 2, 2], "orientation": "RAS"}
    card = card_of(tmp_path, content, **BRIGHT, grid=grid, multiple_of=4)
    found = run(odd, content, card).labels.voxels
    np.testing.assert_array_equal(found, odd.voxels / odd.voxels.max() > 0.5)


@pytest.mark.parametrize("count", [0, 60])
def test_sub_volumes_vote(tmp_path, volume, count):
    content = unet(3, [16, 16, 16])
    pieces = {"method": "subvolumes", "shape": [16, 16, 16], "count": count}
    card = card_of(tmp_path, content, **BRIGHT, run=pieces)
    prediction = run(volume, content, card, with_probabilities=True)
    np.testing.assert_array_equal(prediction.labels.voxels, expected(volume))
    np.testing.assert_allclose(prediction.probabilities.sum(axis=0), 1, atol=1e-6)
    assert f"votes of {max(count, 27)} pieces" in prediction.field_of_view.description


def test_box_smaller_than_a_piece_is_padded(tmp_path, volume):
    content = unet(3, [32, 32, 32])
    crop = {"threshold": 20, "margin_voxels": 0, "agreement": 1, "measured_on": "made"}
    pieces = {"method": "subvolumes", "shape": [32, 32, 32]}
    card = card_of(tmp_path, content, **BRIGHT, crop=crop, run=pieces)
    small = np.zeros_like(volume.voxels)
    small[10:20, 10:40, 10:40] = 255
    found = run(Volume(small, volume.grid), content, card, full_volume=False)
    np.testing.assert_array_equal(found.labels.voxels, small > 0)


def test_channels_may_come_last_and_in_half_precision(tmp_path, volume):
    from networks import identity_channels_last

    content = identity_channels_last()
    card = card_of(tmp_path, content, **BRIGHT, layout="NDHWC", dtype="float16")
    np.testing.assert_array_equal(run(volume, content, card).labels.voxels, expected(volume))


@pytest.mark.parametrize(
    ("values", "labels"), [("sigmoid", 2), ("labels", 3), ("probabilities", 3)], ids=lambda v: str(v)
)
def test_networks_may_end_in_another_way_than_in_logits(tmp_path, volume, values, labels):
    from networks import ending_in

    content = ending_in(values)
    card = card_of(tmp_path, content, labels=labels, output={"values": values})
    prediction = run(volume, content, card, with_probabilities=True)
    bright = volume.voxels / 255.0
    truth = (bright > 0.5) if labels == 2 else (bright > 0.25).astype(int) + (bright > 0.75)
    np.testing.assert_array_equal(prediction.labels.voxels, truth)
    np.testing.assert_array_equal(prediction.probabilities.argmax(axis=0), truth)


def test_classes_may_be_merged(tmp_path, volume):
    content = mesh_net(DILATIONS, 3)
    one_each = run(volume, content, card_of(tmp_path, content)).labels.voxels
    labels = [
        {"index": 0, "name": "Background", "color": "#000000", "channels": [0]},
        {"index": 1, "name": "Both", "color": "#FFFFFF", "channels": [1, 2]},
    ]
    card = card_of(tmp_path, content, output={"labels": labels})
    merged = run(volume, content, card, with_probabilities=True)
    np.testing.assert_array_equal(merged.labels.voxels, one_each > 0)
    np.testing.assert_allclose(merged.probabilities.sum(axis=0), 1, atol=1e-5)


def test_labels_that_the_card_does_not_have_are_refused(tmp_path, volume):
    from networks import ending_in

    content = ending_in("labels")
    card = card_of(tmp_path, content, labels=2, output={"values": "labels"})
    with pytest.raises(ModelError, match="gave labels from 0 to 2; its card has 2 classes"):
        run(volume, content, card)


def test_what_a_tile_gave_is_given_up_before_the_next_one():
    class Remembering:
        """Its outputs lie in memory that it needs again."""

        last = staticmethod(lambda: None)
        runs = 0

        def run(self, channels):
            assert self.last() is None
            self.runs += 1
            labels = np.full(channels.shape[1:], self.runs, np.uint8)
            self.last = weakref.ref(labels)
            return Scores(labels, np.ones(labels.shape, np.float32))

    network = Remembering()
    channels = np.zeros((1, 30, 20, 20), np.float32)
    tiles = plan_tiles(channels.shape[1:], 2, 15 * 20 * 20)
    whole = _run_tiles(network, channels, tiles)
    assert network.runs == len(tiles) > 2
    assert set(np.unique(whole.labels)) == set(range(1, len(tiles) + 1))
