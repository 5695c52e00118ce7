import json
import threading
from pathlib import Path

import pytest
from test_convert import meshnet, published

from brainchop_pipe.errors import ChecksumError, MissingInputError, UsageError
from brainchop_pipe.storage import sha256_of_bytes
from brainchop_pipe.zoo.catalog import Model, find_model, find_models, shipped_models
from brainchop_pipe.zoo.convert import onnx_from_tfjs
from brainchop_pipe.zoo.fetch import ModelStore
from conftest import make_card


@pytest.fixture
def mirror(tmp_path) -> Path:
    """A folder laid out like the upstream repository, with one small network in it."""
    folder = tmp_path / "mirror" / "public" / "net"
    folder.mkdir(parents=True)
    topology, weights, _ = published(meshnet("relu"))
    (folder / "model.json").write_bytes(topology)
    (folder / "model.bin").write_bytes(weights)
    return tmp_path / "mirror"


@pytest.fixture
def model(tmp_path, mirror) -> Model:
    files = [mirror / "public/net" / name for name in ("model.json", "model.bin")]
    contents = [path.read_bytes() for path in files]
    weights = {
        "format": "tfjs-layers",
        "base_url": "https://models.invalid/commit",
        "files": [
            {"path": f"public/net/{path.name}", "sha256": sha256_of_bytes(content)}
            for path, content in zip(files, contents, strict=True)
        ],
        "onnx_sha256": sha256_of_bytes(onnx_from_tfjs(*contents)),
    }
    return find_model(str(make_card(tmp_path / "cards", "mask", weights=weights)))


def test_weights_come_from_a_mirror_and_stay_in_the_cache(tmp_path, model, mirror):
    content = ModelStore(tmp_path / "cache", str(mirror)).load(model)
    assert sha256_of_bytes(content) == model.card.weights.onnx_sha256
    assert ModelStore(tmp_path / "cache", "/nowhere").load(model) == content


def test_read_only_cache_is_enough(tmp_path, model, mirror):
    store = ModelStore(tmp_path / "cache", str(mirror))
    content = store.load(model)
    path = store.path_of(model)
    alone = tmp_path / "read-only"
    alone.mkdir()
    (alone / path.name).write_bytes(content)
    alone.chmod(0o555)
    assert ModelStore(alone).load(model) == content


def test_damaged_cache_is_named_and_pull_repairs_it(tmp_path, model, mirror):
    store = ModelStore(tmp_path / "cache", str(mirror))
    content = store.load(model)
    store.path_of(model).write_bytes(b"damaged")
    with pytest.raises(ChecksumError, match="brainchop models pull"):
        store.load(model)
    assert store.pull(model) == content
    assert store.load(model) == content


def test_wrong_file_in_the_mirror_is_refused(tmp_path, model, mirror):
    (mirror / "public/net/model.bin").write_bytes(b"something else")
    with pytest.raises(ChecksumError, match=r"model\.bin is not the file that the card"):
        ModelStore(tmp_path / "cache", str(mirror)).load(model)


def test_card_with_the_wrong_digest_of_the_model_is_refused(tmp_path, model, mirror):
    weights = model.card.weights.model_copy(update={"onnx_sha256": "0" * 64})
    wrong = Model(model.card.model_copy(update={"weights": weights}), model.folder, model.asked_as)
    with pytest.raises(ChecksumError, match=f"wants {'0' * 64}"):
        ModelStore(tmp_path / "cache", str(mirror)).load(wrong)


def test_without_network_and_mirror_the_remedy_is_named(tmp_path, model):
    with pytest.raises(MissingInputError, match="BRAINCHOP_MODEL_MIRROR"):
        ModelStore(tmp_path / "cache", str(tmp_path / "no-mirror")).load(model)


def test_two_threads_may_fetch_at_once(tmp_path, model, mirror):
    store, found = ModelStore(tmp_path / "cache", str(mirror)), []
    threads = [threading.Thread(target=lambda: found.append(store.pull(model))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert len(found) == 4


def test_cache_that_cannot_be_written_is_named(tmp_path, model, mirror, monkeypatch):
    monkeypatch.setattr("brainchop_pipe.zoo.fetch.write_whole", _fail)
    with pytest.raises(MissingInputError, match="Set BRAINCHOP_MODEL_DIR"):
        ModelStore(tmp_path / "cache", str(mirror)).load(model)


def _fail(*_):
    raise OSError(30, "Read-only file system")


def test_local_model_is_used_where_it_lies(tmp_path):
    model = find_model(str(make_card(tmp_path, "mask")))
    store = ModelStore(tmp_path / "cache")
    assert store.path_of(model) == tmp_path / "mask.onnx"
    assert store.load(model) == store.pull(model)
    assert not (tmp_path / "cache").exists()
    (tmp_path / "mask.onnx").write_bytes(b"another")
    with pytest.raises(ChecksumError, match="SHA-256"):
        store.pull(model)
    (tmp_path / "mask.onnx").unlink()
    with pytest.raises(MissingInputError, match="correct the path in the card"):
        store.load(model)


def test_environment_names_cache_and_mirror(monkeypatch, tmp_path):
    monkeypatch.setenv("BRAINCHOP_MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("BRAINCHOP_MODEL_MIRROR", "https://mirror.invalid")
    assert ModelStore.from_environment() == ModelStore(tmp_path, "https://mirror.invalid")
    monkeypatch.delenv("BRAINCHOP_MODEL_DIR")
    assert ModelStore.from_environment().cache.name == "brainchop_pipe"


def test_unknown_name_lists_the_known_ones():
    with pytest.raises(UsageError, match=r"there are .*mindgrab, parcellation, subcortical"):
        find_model("tisue")


@pytest.mark.parametrize("key", ["bids_label", "name"])
def test_name_given_twice_counts_once_but_two_models_may_not_share_one(tmp_path, key):
    assert len(find_models(("tissue", "tissue"))) == 1
    other = make_card(tmp_path, "tissue", **{key: "tissue"})
    with pytest.raises(UsageError, match=f"{key} 'tissue'"):
        find_models(("tissue", str(other)))


def test_catalog_names_are_those_of_the_files():
    for name, model in shipped_models().items():
        assert json.loads((model.folder / f"{name}.json").read_text())["name"] == name
