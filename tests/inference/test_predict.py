from pathlib import Path

import numpy as np
import pytest

from brainchop_pipe.core.grid import Grid, Volume
from brainchop_pipe.errors import ModelError, ProviderError
from brainchop_pipe.inference import network as module
from brainchop_pipe.inference.card import ModelCard, read_card
from brainchop_pipe.inference.card_input import Crop, QuantileScaling
from brainchop_pipe.inference.predict import Prediction, post_filter, predict
from brainchop_pipe.inference.session import Execution, Session
from brainchop_pipe.inference.view import view_of
from conftest import linear_model, make_card


@pytest.fixture
def volume() -> Volume:
    """A ball of grey with a core of white, and a speck apart from it."""
    ijk = np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"))
    radius = np.sqrt(((ijk - 30) ** 2).sum(axis=0))
    voxels = np.zeros((64, 64, 64), np.uint8)
    voxels[radius < 20] = 128
    voxels[radius < 10] = 255
    voxels[60:62, 60:62, 60:62] = 255
    return Volume(voxels, Grid(voxels.shape, np.eye(4)))


def model(folder: Path, kind: str, **changes) -> tuple[bytes, ModelCard]:
    card = read_card(make_card(folder, kind))
    whole = {"input": card.input.model_copy(update={"crop": None})}
    return (folder / f"{kind}.onnx").read_bytes(), card.model_copy(update=whole | changes)


def see(volume: Volume, content: bytes, card: ModelCard, *, full_volume=False, **kwargs) -> Prediction:
    return predict(view_of((volume,), card, full_volume=full_volume), content, card, **kwargs)


def test_labels_are_the_argmax_of_the_probabilities(tmp_path, volume):
    prediction = see(volume, *model(tmp_path, "tissue"), with_probabilities=True)
    stacked = np.stack([prediction.probability(n).voxels for n in range(3)])
    np.testing.assert_array_equal(prediction.labels.voxels, stacked.argmax(axis=0))
    np.testing.assert_allclose(stacked.sum(axis=0), 1, atol=1e-6)
    assert set(np.unique(prediction.labels.voxels)) == {0, 1, 2}


def test_crop_changes_nothing_where_the_network_sees_single_voxels(tmp_path, volume):
    content, card = model(tmp_path, "tissue")
    crop = Crop(threshold=20, margin_voxels=4, agreement=1, measured_on="made")
    cropped_card = card.model_copy(update={"input": card.input.model_copy(update={"crop": crop})})
    full = see(volume, content, cropped_card, full_volume=True)
    cropped = post_filter(see(volume, content, cropped_card, with_probabilities=True), cropped_card)
    assert full.field_of_view.box[0] == slice(0, 64)
    assert cropped.field_of_view.box[0].stop < 60
    np.testing.assert_array_equal(cropped.labels.voxels, post_filter(full, card).labels.voxels)
    assert cropped.probability(0).voxels[60, 60, 60] == 1


def test_post_filter_takes_probabilities_along(tmp_path, volume):
    content, card = model(tmp_path, "tissue")
    raw = see(volume, content, card, with_probabilities=True)
    filtered = post_filter(raw, card)
    assert raw.labels.voxels[60, 60, 60] == 1
    assert filtered.labels.voxels[60, 60, 60] == 0
    assert [float(filtered.probability(n).voxels[60, 60, 60]) for n in range(3)] == [1, 0, 0]
    assert raw.probability(1).voxels[60, 60, 60] > 0.9


def test_post_filter_can_be_off(tmp_path, volume):
    content, card = model(tmp_path, "regions")
    card = card.model_copy(
        update={"post_filter": card.post_filter.model_copy(update={"largest_component": False})}
    )
    raw = see(volume, content, card)
    assert post_filter(raw, card) is raw


def test_quantile_scaling_of_the_card_is_used(tmp_path, volume):
    content, card = model(tmp_path, "mask")
    scaling = QuantileScaling(method="quantile", low=0, high=0.999)
    quantile = card.model_copy(update={"input": card.input.model_copy(update={"intensity": scaling})})
    assert see(volume, content, quantile).labels.voxels.any()


def test_probabilities_must_have_been_asked_for(tmp_path, volume):
    with pytest.raises(ModelError, match="holds labels only"):
        see(volume, *model(tmp_path, "mask")).probability(1)


def test_output_that_does_not_fit_the_card_is_refused(tmp_path, volume):
    _, card = model(tmp_path, "mask")
    card = card.model_copy(update={"weights": card.weights.model_copy(update={"onnx_sha256": "e" * 64})})
    with pytest.raises(ModelError, match=r"gave shape \(1, 3, 64"):
        see(volume, linear_model([0, 1, 2], [0, 0, 0]), card)


def test_values_that_are_not_finite_are_refused(tmp_path, volume):
    _, card = model(tmp_path, "mask")
    card = card.model_copy(update={"weights": card.weights.model_copy(update={"onnx_sha256": "f" * 64})})
    with pytest.raises(ModelError, match="not finite"):
        see(volume, linear_model([0, np.nan], [0, 0]), card)


def test_lowest_class_wins_a_tie():
    logits = np.zeros((1, 3, 2, 2, 2), np.float32)
    labels, confidence = module._decide_in_place(logits, np.uint8, 2, softmax=True)
    assert not labels.any()
    np.testing.assert_allclose(confidence, 1 / 3)


@pytest.mark.parametrize("values_at_a_time", [1, 100, 1 << 19])
@pytest.mark.parametrize("softmax", [True, False])
def test_decisions_are_those_of_all_planes_at_once(values_at_a_time, softmax, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK_VALUES", values_at_a_time)
    scores = np.random.default_rng(0).normal(0, 3, (2, 4, 7, 3, 5)).astype(np.float32)
    exponents = np.exp(scores.astype(np.float64))
    expected = exponents / exponents.sum(axis=1, keepdims=True) if softmax else scores
    values = scores.copy()
    labels, confidence = module._decide_in_place(values, np.uint8, 2, softmax=softmax)
    np.testing.assert_array_equal(labels, scores.argmax(axis=1))
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    np.testing.assert_allclose(confidence, expected.max(axis=1), rtol=1e-5)


class BrokenOnGpu:
    def run(self, *_):
        raise RuntimeError("out of memory")

    def get_inputs(self):
        return [type("Input", (), {"name": "volume"})]


@pytest.mark.parametrize("requested", ["auto", "cuda"])
def test_failure_on_a_gpu_falls_back_only_if_the_device_was_free_to_choose(
    tmp_path, volume, monkeypatch, requested
):
    content, card = model(tmp_path, "mask")
    broken = Session(Execution(requested, "CUDAExecutionProvider", (), 1), BrokenOnGpu())
    monkeypatch.setattr(module, "open_session", lambda *_: broken)
    if requested == "cuda":
        with pytest.raises(ProviderError, match="out of memory"):
            see(volume, content, card, device="cuda")
        return
    prediction = see(volume, content, card)
    assert prediction.execution.provider == "CPUExecutionProvider"
    assert "out of memory" in prediction.execution.fallbacks[0]
