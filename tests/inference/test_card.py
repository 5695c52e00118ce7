import json

import pytest

from brainchop_pipe.errors import MissingInputError, ModelError
from brainchop_pipe.inference.card import ModelCard, read_card
from brainchop_pipe.zoo.catalog import shipped_models
from brainchop_pipe.zoo.fetch import ModelStore
from conftest import label, make_card


def test_made_card_reads(tmp_path):
    assert read_card(make_card(tmp_path, "tissue")).output.indices_of("GM") == (2,)


TISSUES = [label(0, "a"), label(1, "b", tissue="GM"), label(2, "c", tissue="WM")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bids_label": "tissue_fast"}, "bids_label"),
        ({"modalities": []}, "modalities"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"schema_version": 2}, "schema_version"),
        ({"memory": {"full_gb": -1, "cropped_gb": 1}}, r"memory\.full_gb"),
        ({"input": {"intensity": {"method": "median"}}}, "intensity"),
    ],
)
def test_wrong_key_is_named(tmp_path, changes, message):
    with pytest.raises(ModelError, match=message):
        read_card(make_card(tmp_path, "tissue", **changes))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"role": "mask", "labels": [label(0, "a"), label(1, "b"), label(2, "c")]}, "2 labels; 3 are given"),
        ({"role": "tissue", "labels": [label(0, "a"), label(1, "b", tissue="GM")]}, "one with 'WM'"),
        ({"role": "tissue", "includes_csf": True, "labels": TISSUES}, "label with tissue 'CSF'"),
        ({"role": "regions", "labels": [label(0, "a"), label(2, "b")]}, "indices 0, 1, 2"),
    ],
)
def test_labels_that_do_not_fit_the_role_are_refused(tmp_path, output, message):
    with pytest.raises(ModelError, match=message):
        read_card(make_card(tmp_path, "mask", output={"description": "x", **output}))


@pytest.mark.parametrize("path", ["../secret.onnx", "/etc/passwd"])
def test_weights_outside_of_the_folder_are_refused(tmp_path, path):
    card = json.loads(make_card(tmp_path, "mask").read_text())
    card["weights"]["files"][0]["path"] = path
    with pytest.raises(ModelError, match="leads out of its folder"):
        read_card(make_card(tmp_path, "mask", weights=card["weights"]))


def test_number_of_weight_files_must_fit_the_format(tmp_path):
    card = json.loads(make_card(tmp_path, "mask").read_text())
    with pytest.raises(ModelError, match=r"takes 2 file\(s\); 1 are given"):
        read_card(make_card(tmp_path, "mask", weights={**card["weights"], "format": "tfjs-layers"}))


def test_card_that_is_not_there_and_card_that_is_no_json(tmp_path):
    with pytest.raises(MissingInputError, match="is not there"):
        read_card(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ModelError, match="is no JSON"):
        read_card(tmp_path / "bad.json")


def test_shipped_cards_say_what_users_must_know(tmp_path):
    models = shipped_models()
    assert {"mindgrab", "tissue_fast", "tissue", "subcortical"} <= set(models)
    for model in models.values():
        assert "Not for clinical use" in model.card.intended_use
        assert model.card.bids_label.isalnum()
    embedded = [model for model in models.values() if model.card.weights.base_url is None]
    assert [model.card.name for model in embedded] == ["brainchop_any"]
    assert ModelStore(tmp_path).path_of(embedded[0]).is_file()


def test_schema_describes_itself():
    schema = ModelCard.model_json_schema()
    assert "bids_label" in schema["required"]
    assert "BIDS suffixes" in schema["properties"]["modalities"]["description"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layout": "NCHW"}, "layout 'NCHW' does not go with run method 'volume'"),
        ({"run": {"method": "slices"}}, "layout 'NCDHW' does not go with run method 'slices'"),
        ({"run": {"method": "subvolumes", "shape": [300, 9, 9]}}, "larger than the grid"),
        ({"run": {"method": "volume", "halo": 4}, "multiple_of": 8}, "cannot be tiled exactly"),
        ({"run": {"method": "volume", "most_gb": 4}}, "most_gb needs the halo"),
        ({"dtype": "uint8"}, "cannot hold scaled values; use the intensity 'none'"),
        ({"contrasts": ["T1w"]}, "for networks of several channels"),
        ({"contrasts": ["T1w", "T2w"], "prepare": "brain"}, "for networks of one channel"),
        (
            {"prepare": "brain", "contrast": {"csf": 0.7, "grey_matter": 0.4, "sharpness": 0.3}},
            r"levels of CSF \(0.7\), grey \(0.4\) and white matter \(1.0\) must rise in this order",
        ),
        (
            {"contrast": {"csf": 0.4, "grey_matter": 0.7, "sharpness": 0.3}},
            "a contrast is that of a prepared brain",
        ),
        ({"grid": {"orientation": "RLS"}}, "names an axis twice"),
        ({"grid": {"shape": [0, 1, 1]}}, "must be above 0"),
        ({"intensity": {"method": "window", "low": 5, "high": 5}}, "is empty; high must be above low"),
    ],
)
def test_keys_of_the_input_that_contradict_each_other_are_refused(tmp_path, given, message):
    with pytest.raises(ModelError, match=message):
        read_card(make_card(tmp_path, "regions", input={"intensity": {"method": "minmax"}, **given}))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"labels": [label(0, "a"), label(1, "b", channels=[0])]}, "each must be named once"),
        ({"labels": [label(i, "a") for i in range(3)], "values": "sigmoid"}, "'sigmoid' go with 2 labels"),
    ],
)
def test_labels_that_do_not_fit_the_networks_end_are_refused(tmp_path, output, message):
    given = {"role": "regions", "description": "x", **output}
    with pytest.raises(ModelError, match=message):
        read_card(make_card(tmp_path, "regions", output=given))


def test_weights_of_a_meshnet_need_what_they_do_not_say(tmp_path):
    path = make_card(tmp_path, "regions")
    card = json.loads(path.read_text())
    card["weights"]["format"] = "safetensors"
    path.write_text(json.dumps(card))
    with pytest.raises(ModelError, match="`meshnet` is for the format 'safetensors', which needs it"):
        read_card(path)
    card["weights"]["meshnet"] = {"dilations": [1, 2], "activation": "elu", "norm": "batch"}
    path.write_text(json.dumps(card))
    assert read_card(path).weights.meshnet.dilations == (1, 2)
