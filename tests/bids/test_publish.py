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
TABLE = PurePosixPath("sub-1/anat/sub-1_dseg.tsv")
TABLES = {TABLE: b"index\tname\n"}


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
    record["Input"]["URI"] = "bids:raw:x"
    return [Derivative(path, f"content of {path.name}".encode(), {"Provenance": record}) for path in FILES]


def complete(out: Path, source: Path, signature: str = "s", **kwargs) -> bool:
    return is_complete(out, FILES, [TABLE], signature, source, FileState.of(source), **kwargs)


def test_published_product_is_complete_until_anything_changes(tmp_path, source, product):
    publish(tmp_path, product, TABLES)
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
        lambda image: image.with_name("sub-1_dseg.tsv").unlink(),
    ],
)
def test_product_with_a_part_missing_is_not_complete(tmp_path, source, product, damage):
    publish(tmp_path, product, TABLES)
    damage(tmp_path / FILES[1])
    assert not complete(tmp_path, source)


class KilledError(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("moment", range(11))
@pytest.mark.parametrize("again", [False, True])
def test_kill_at_any_moment_leaves_nothing_half_that_looks_whole(
    tmp_path, source, product, monkeypatch, moment, again
):
    """Five files are written, then moved: ten moments, and the end."""
    if again:
        publish(tmp_path, product, TABLES)
    moments = iter(range(100))
    newer = [Derivative(d.path, d.content + b"!", d.sidecar) for d in product]

    def dying(action):
        def act(*arguments):
            if next(moments) == moment:
                raise KilledError
            return action(*arguments)

        return act

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_synced", dying(module.write_synced))
        patch.setattr(Path, "replace", dying(Path.replace))
        try:
            publish(tmp_path, newer, TABLES)
            killed = False
        except KilledError:
            killed = True
    assert killed == (moment < 10)
    assert complete(tmp_path, source) == (not killed or (again and moment < 5))
    for file in FILES:
        sidecar = sidecar_path(tmp_path / file)
        if sidecar.exists():
            digest = json.loads(sidecar.read_text())["Provenance"]["Output"]["SHA256"]
            assert digest == module.sha256_of_file(tmp_path / file)
    # The next run takes what is left for its own, and finishes.
    publish(tmp_path, newer, TABLES)
    assert complete(tmp_path, source)
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()]


def test_edited_image_is_not_written_over(tmp_path, product):
    publish(tmp_path, product, TABLES)
    (tmp_path / FILES[0]).write_bytes(b"corrected by hand")
    with pytest.raises(OutputError, match=r"sub-1_desc-brain_mask\.nii\.gz was changed since it was made"):
        publish(tmp_path, product, TABLES)
    assert (tmp_path / FILES[0]).read_bytes() == b"corrected by hand"
    publish(tmp_path, product, TABLES, force=True)
    assert (tmp_path / FILES[0]).read_bytes() == product[0].content


def test_file_of_somebody_else_is_not_written_over(tmp_path, product):
    (tmp_path / FILES[1]).parent.mkdir(parents=True)
    (tmp_path / FILES[1]).write_bytes(b"drawn by hand")
    with pytest.raises(OutputError, match=r"sub-1_dseg\.nii\.gz is there, but not of this program"):
        publish(tmp_path, product, TABLES)
    assert not (tmp_path / FILES[0]).exists()
    publish(tmp_path, product, TABLES, force=True)


@pytest.mark.parametrize(
    ("uri", "voxels", "refused"),
    [("bids:raw:x", "new", False), ("bids:raw:y", "old", True), ("T1.nii", "new", True)],
)
def test_output_of_another_input_is_not_written_over(tmp_path, product, uri, voxels, refused):
    made_of = product[0].sidecar["Provenance"]["Input"]
    made_of |= {"VoxelsSHA256": "old", "URI": "bids:raw:x" if uri.startswith("bids") else uri}
    publish(tmp_path, product, TABLES)
    changed = {**made_of, "URI": uri, "VoxelsSHA256": voxels}
    sidecar = {"Provenance": {**product[0].sidecar["Provenance"], "Input": changed}}
    newer = [Derivative(d.path, d.content, sidecar) for d in product]
    if not refused:
        publish(tmp_path, newer, TABLES)
        return
    with pytest.raises(OutputError, match="was made of another input"):
        publish(tmp_path, newer, TABLES)


def test_full_disk_is_named_and_what_was_there_stays(tmp_path, source, product, monkeypatch):
    publish(tmp_path, product, TABLES)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_synced", full)
    with pytest.raises(OutputError, match=r"sub-1_desc-brain_mask\.nii\.gz .*No space left on device"):
        publish(tmp_path, product, TABLES)
    assert complete(tmp_path, source)


@pytest.mark.parametrize("below", ["", "sub-01", "sub-01/x", "sourcedata/out", "out"])
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


def test_results_of_another_dataset_are_left_alone(tmp_path, dataset):
    out = tmp_path / "out"
    out.mkdir()
    description = {"GeneratedBy": [{"Name": "brainchop_pipe"}], "DatasetLinks": {"raw": "../other"}}
    (out / "dataset_description.json").write_text(json.dumps(description))
    with pytest.raises(OutputError, match=r"results of another dataset \(\.\./other\)"):
        prepare_output_dir(out, dataset)


def test_own_dataset_is_taken_again(tmp_path):
    (tmp_path / "dataset_description.json").write_text('{"GeneratedBy": [{"Name": "brainchop_pipe"}]}')
    prepare_output_dir(tmp_path, None)
