import json
import os
from pathlib import Path, PurePosixPath

import pytest

from brainchop_pipe.bids import publish as module
from brainchop_pipe.bids.provenance import FileState
from brainchop_pipe.bids.publish import Derivative, is_complete, prepare_output_dir, publish, sidecar_path
from brainchop_pipe.errors import OutputError, UsageError

FILES = [
    PurePosixPath("sub-1/anat/sub-1_desc-brain_mask.nii.gz"),
    PurePosixPath("sub-1/anat/sub-1_dseg.nii.gz"),
]


@pytest.fixture
def source(tmp_path) -> Path:
    path = tmp_path / "source.nii.gz"
    path.write_bytes(b"input")
    return path


@pytest.fixture
def product(source) -> list[Derivative]:
    state = FileState.of(source)
    record = {
        "Signature": "s",
        "Input": {
            "Size": state.size,
            "ModificationTimeNs": state.modified_ns,
            "SHA256": "c96c6d5be8d08a12e7b5cdc1b207fa6b2430974c86803d8891675e76fd992c20",
        },
    }
    return [Derivative(path, f"content of {path.name}".encode(), {"Provenance": record}) for path in FILES]


def complete(out: Path, source: Path, signature: str = "s", **kwargs) -> bool:
    return is_complete(out, FILES, signature, source, FileState.of(source), **kwargs)


def test_published_product_is_complete_until_anything_changes(tmp_path, source, product):
    publish(tmp_path, product, {})
    assert complete(tmp_path, source)
    assert complete(tmp_path, source, check_hashes=True)
    assert not complete(tmp_path, source, signature="t")
    os.utime(source, ns=(1, 1))
    assert not complete(tmp_path, source)
    assert complete(tmp_path, source, check_hashes=True)
    source.write_bytes(b"INPUT")
    assert not complete(tmp_path, source, check_hashes=True)
    source.write_bytes(b"longer input")
    assert not complete(tmp_path, source)


@pytest.mark.parametrize(
    "damage",
    [
        lambda image: image.unlink(),
        lambda image: image.write_bytes(b"short"),
        lambda image: sidecar_path(image).unlink(),
        lambda image: sidecar_path(image).write_text("{"),
        lambda image: sidecar_path(image).write_text('{"Provenance": {}}'),
        lambda image: sidecar_path(image).write_text("[]"),
    ],
)
def test_product_with_a_part_missing_is_not_complete(tmp_path, source, product, damage):
    publish(tmp_path, product, {})
    damage(tmp_path / FILES[1])
    assert not complete(tmp_path, source)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("moment", range(5))
@pytest.mark.parametrize("again", [False, True])
def test_kill_at_any_moment_leaves_nothing_half_that_looks_whole(
    tmp_path, source, product, monkeypatch, moment, again
):
    if again:
        publish(tmp_path, product, {})
    writes = []

    def killed_at(path, content):
        if len(writes) == moment:
            raise Killed
        writes.append(path)
        original(path, content)

    original = module.write_whole
    monkeypatch.setattr(module, "write_whole", killed_at)
    newer = [Derivative(d.path, d.content + b"!", d.sidecar) for d in product]
    if moment < 4:
        with pytest.raises(Killed):
            publish(tmp_path, newer, {})
        assert not complete(tmp_path, source)
        for file in FILES:
            sidecar = sidecar_path(tmp_path / file)
            if sidecar.exists():
                digest = json.loads(sidecar.read_text())["Provenance"]["Output"]["SHA256"]
                assert digest == module.sha256_of_file(tmp_path / file)
    else:
        publish(tmp_path, newer, {})
        assert complete(tmp_path, source)


def test_edited_image_is_not_written_over(tmp_path, product):
    publish(tmp_path, product, {})
    (tmp_path / FILES[0]).write_bytes(b"corrected by hand")
    with pytest.raises(OutputError, match=r"sub-1_desc-brain_mask\.nii\.gz was changed since it was made"):
        publish(tmp_path, product, {})
    assert (tmp_path / FILES[0]).read_bytes() == b"corrected by hand"
    publish(tmp_path, product, {}, force=True)
    assert (tmp_path / FILES[0]).read_bytes() == product[0].content


def test_full_disk_is_named(tmp_path, product, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_whole", full)
    with pytest.raises(OutputError, match="No space left on device"):
        publish(tmp_path, product, {})


@pytest.mark.parametrize("below", ["", "sub-01", "sub-01/x", "sourcedata/out"])
def test_output_among_raw_data_is_refused(dataset, below):
    with pytest.raises(UsageError, match="derivatives/brainchop"):
        prepare_output_dir(dataset / below, dataset)


@pytest.mark.parametrize("place", ["derivatives/brainchop", "../out"])
def test_output_apart_from_raw_data_is_made(dataset, place):
    prepare_output_dir(dataset / place, dataset)
    assert list((dataset / place).iterdir()) == []


def test_output_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        prepare_output_dir(tmp_path / "file" / "out", None)


@pytest.mark.parametrize(
    "content",
    ['{"GeneratedBy": [{"Name": "fMRIPrep"}]}', '{"Name": "raw"}', "[]", "{", '{"GeneratedBy": [3]}'],
)
def test_dataset_of_somebody_else_is_left_alone(tmp_path, content):
    (tmp_path / "dataset_description.json").write_text(content)
    with pytest.raises(OutputError, match="choose a folder of its own"):
        prepare_output_dir(tmp_path, None)


def test_own_dataset_is_taken_again(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "brainchop_pipe"}]}')
    prepare_output_dir(tmp_path, None)
