"""Cards and ONNX files that do not fit each other are told apart before any image is read."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.card import read_card
from brainchop_pipe.storage import sha256_of_bytes
from brainchop_pipe.zoo.catalog import Model
from brainchop_pipe.zoo.check import check_file, try_model
from conftest import label, make_card
from networks import ending_in, mesh_net, unet

SMALL = {"shape": [32, 36, 40], "spacing_mm": [5, 5, 5], "orientation": "RAS"}
INTENSITY = {"method": "minmax"}
TWO = {"role": "regions", "description": "made", "labels": [label(0, "Background"), label(1, "Bright")]}


def model_of(folder: Path, content: bytes, *, output: object = TWO, **given: object) -> tuple[Model, bytes]:
    """Give a model of made content; `given` are keys of its input."""
    path = make_card(folder, "regions", input={"intensity": INTENSITY, "grid": SMALL, **given}, output=output)
    card = json.loads(path.read_text())
    card["weights"]["onnx_sha256"] = card["weights"]["files"][0]["sha256"] = sha256_of_bytes(content)
    path.write_text(json.dumps(card))
    return Model(read_card(path), folder, str(path)), content


def three_labels() -> dict[str, object]:
    return {**TWO, "labels": [label(i, f"Class {i}") for i in range(3)]}


FITTING = {
    "meshnet": (lambda: mesh_net((1, 2)), {"output": three_labels()}),
    "residual U-Net of a fixed size": (
        lambda: unet(3, [128, 128, 128]),
        {"grid": {"shape": [128, 128, 128], "spacing_mm": [2, 2, 2], "orientation": "RAS"}},
    ),
    "U-Net on slices": (
        lambda: unet(2, ["H", "W"], batch="N"),
        {"layout": "NCHW", "run": {"method": "slices"}, "multiple_of": 2},
    ),
    "pieces": (lambda: unet(3, [16, 16, 16]), {"run": {"method": "subvolumes", "shape": [16, 16, 16]}}),
    "sigmoid": (lambda: ending_in("sigmoid"), {"output": {**TWO, "values": "sigmoid"}}),
    "labels": (lambda: ending_in("labels"), {"output": {**three_labels(), "values": "labels"}}),
}


@pytest.mark.parametrize("kind", FITTING)
def test_model_that_fits_its_card_runs_on_a_made_head(tmp_path, kind):
    make, given = FITTING[kind]
    model, content = model_of(tmp_path, make(), **given)
    assert check_file(model, content).parameter_bytes >= 4
    trial = try_model(model, content)
    assert set(trial.labels) <= set(range(len(model.card.output.labels)))
    assert trial.seconds > 0
    assert trial.memory_gb > 0.01


MISFITS = {
    "labels": (lambda: mesh_net((1,)), {}, r"3 channels; the card's 2 labels with values 'logits' make it 2"),
    "type": (
        lambda: unet(3, ["D", "H", "W"]),
        {"dtype": "float16"},
        "input is float32; input.dtype says float16",
    ),
    "size": (
        lambda: unet(3, [64, 64, 64]),
        {},
        r"has shape \(1, 1, 64, 64, 64\); by the card it gets \(1, 1, 32, 36, 40\)",
    ),
    "layout": (
        lambda: unet(2, ["H", "W"], batch="N"),
        {},
        r"has shape \(N, 1, H, W\); by the card it gets \(1, 1, 32, 36, 40\) \(NCDHW\)",
    ),
    "channels": (
        lambda: mesh_net((1,)),
        {"contrasts": ["T1w", "T2w"], "output": three_labels()},
        r"\(1, 2, 32",
    ),
    "crop": (
        lambda: unet(3, [32, 36, 40]),
        {"crop": {"threshold": 1, "margin_voxels": 1, "agreement": 1, "measured_on": "x"}},
        r"fixed size, so that it cannot be cropped; leave out input\.crop",
    ),
    "batch": (
        lambda: unet(2, ["H", "W"], batch=1),
        {"layout": "NCHW", "run": {"method": "slices", "batch": 4}},
        r"has shape \(1, 1, H, W\); by the card it gets \(N, 1, 36, 40\)",
    ),
}


@pytest.mark.parametrize("kind", MISFITS)
def test_model_that_does_not_fit_its_card_is_refused_in_words(tmp_path, kind):
    make, given, message = MISFITS[kind]
    model, content = model_of(tmp_path, make(), **given)
    with pytest.raises(ModelError, match=message):
        check_file(model, content)


def test_model_that_does_not_run_says_why(tmp_path):
    model, content = model_of(tmp_path, unet(3, ["D", "H", "W"]), grid={**SMALL, "shape": [33, 36, 40]})
    check_file(model, content)
    with pytest.raises(ModelError, match="does not run on a made head"):
        try_model(model, content)


def test_several_inputs_are_refused(tmp_path):
    proto = onnx.load_from_string(mesh_net((1,)))
    proto.graph.input.append(onnx.helper.make_tensor_value_info("age", onnx.TensorProto.FLOAT, [1]))
    model, content = model_of(tmp_path, proto.SerializeToString(), output=three_labels())
    with pytest.raises(ModelError, match=r"it has the inputs \['image', 'age'\]; one is needed"):
        check_file(model, content)


def test_several_outputs_are_refused(tmp_path):
    proto = onnx.load_from_string(mesh_net((1,)))
    proto.graph.output.append(onnx.helper.make_tensor_value_info("elu0", onnx.TensorProto.FLOAT, None))
    model, content = model_of(tmp_path, proto.SerializeToString(), output=three_labels())
    with pytest.raises(ModelError, match=r"it has the outputs \['scores', 'elu0'\]; one is needed"):
        check_file(model, content)


def test_output_without_a_shape_is_left_to_the_trial(tmp_path):
    proto = onnx.load_from_string(mesh_net((1,)))
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    model, content = model_of(tmp_path, proto.SerializeToString())
    check_file(model, content)
    with pytest.raises(ModelError, match="does not run on a made head"):
        try_model(model, content)


def test_weights_beyond_the_limit_are_refused(tmp_path):
    model, content = model_of(tmp_path, mesh_net((1,)), output=three_labels())
    with pytest.raises(ModelError, match="at most 100 are allowed"):
        check_file(model, content, 100)


def test_raw_values_are_tried_as_float(tmp_path):
    model, content = model_of(tmp_path, unet(3, ["D", "H", "W"]), grid={**SMALL, "values": "raw"})
    assert try_model(model, content).labels == (0, 1)
    assert np.isfinite(try_model(model, content).seconds)
