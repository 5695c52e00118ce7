"""What is wrong with a model is said before any image is read."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from brainchop_pipe.cli.main import main
from brainchop_pipe.storage import sha256_of_bytes
from conftest import linear_model, make_card

THREE = linear_model([0, 20, 60], [0, -8, -40])


def with_content(card: Path, content: bytes) -> None:
    """Put another ONNX file in a card's place."""
    (card.parent / "regions.onnx").write_bytes(content)
    text = json.loads(card.read_text())
    text["weights"]["onnx_sha256"] = text["weights"]["files"][0]["sha256"] = sha256_of_bytes(content)
    card.write_text(json.dumps(text))


def malformed(card: Path) -> None:
    card.write_text(
        card.read_text().replace('"outputs"', "").replace('"role": "regions"', '"role": "nonsense"')
    )


def too_few_labels(card: Path) -> None:
    text = json.loads(card.read_text())
    del text["output"]["labels"][2]
    card.write_text(json.dumps(text))


def external_data(card: Path) -> None:
    proto = onnx.load_from_string(THREE)
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")
    with_content(card, proto.SerializeToString())


def custom_operator(card: Path) -> None:
    proto = onnx.load_from_string(THREE)
    proto.graph.node[0].domain = "my.company"
    proto.opset_import.append(helper.make_opsetid("my.company", 1))
    with_content(card, proto.SerializeToString())


def dynamic_loop(card: Path) -> None:
    proto = onnx.load_from_string(THREE)
    body = helper.make_graph([], "body", [], [])
    proto.graph.node.append(helper.make_node("Loop", ["n", "go"], ["turns"], name="again", body=body))
    with_content(card, proto.SerializeToString())


def no_model(card: Path) -> None:
    with_content(card, np.random.default_rng(0).bytes(500))


REFUSED = {
    malformed: (65, r"does not fit the schema: output.role"),
    too_few_labels: (65, r"3 channels; the card's 2 labels"),
    external_data: (65, r"passwd"),
    custom_operator: (65, r"my.company"),
    dynamic_loop: (65, r"Loop"),
    no_model: (65, r"no ONNX model"),
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda f: f.__name__)
@pytest.mark.parametrize("command", ["run", "check"])
def test_model_is_refused_in_words(tmp_path, dataset, capsys, spoil, command):
    card = make_card(tmp_path / "cards", "regions")
    spoil(card)
    for image in dataset.rglob("*.nii.gz"):
        image.write_bytes(b"whoever reads this fails with another message")
    words = ["models", "check", card]
    if command == "run":
        words = [dataset, tmp_path / "out", "participant", "--models", card]
    code, message = REFUSED[spoil]
    assert main([str(word) for word in words]) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list((tmp_path / "out").rglob("*.nii.gz"))


def test_model_that_exceeds_the_memory_limit_is_refused(tmp_path, dataset, capsys):
    card = make_card(tmp_path / "cards", "regions", memory={"full_gb": 90, "cropped_gb": 80})
    words = [dataset, tmp_path / "out", "participant", "--models", card, "--mem-gb", 8]
    assert main([str(word) for word in words]) == 64
    assert "needs 82.0 GB (2.0 GB for the image); --mem-gb allows 8.0" in capsys.readouterr().err


def test_model_that_is_in_order_is_described(tmp_path, capsys):
    grid = {"shape": [32, 32, 32], "spacing_mm": [6, 6, 6], "orientation": "RAS"}
    given = {"intensity": {"method": "minmax"}, "grid": grid}
    card = make_card(tmp_path / "cards", "regions", input=given, memory={"full_gb": 1e-3, "cropped_gb": 1e-3})
    assert main(["models", "check", str(card)]) == 0
    out = capsys.readouterr().out
    assert "the card and its ONNX file fit each other" in out
    assert "a made head (32 x 32 x 32) took" in out
    assert "labels found: 0, 1, 2" in out
    assert "memory.full_gb is too small: write" in out
