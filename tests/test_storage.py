import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from brainchop_pipe.storage import (
    remove_leftovers,
    sha256_of_bytes,
    sha256_of_file,
    temporary_beside,
    write_if_changed,
    write_new,
    write_whole,
)


def test_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    write_whole(path, b"old")

    def fail_half_way():
        with temporary_beside(path) as temporary:
            temporary.write_bytes(b"half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_same_content_is_not_written_again(tmp_path):
    path = tmp_path / "a.txt"
    write_if_changed(path, b"x")
    first = path.stat().st_ino
    write_if_changed(path, b"x")
    assert path.stat().st_ino == first
    write_if_changed(path, b"y")
    assert path.read_bytes() == b"y"


def test_leftovers_of_a_killed_run_go_and_nothing_else(tmp_path):
    (tmp_path / ".a[1].nii.gz.123-0badcafe.brainchop-tmp").write_bytes(b"half")
    (tmp_path / ".a[1].nii.gz").touch()
    remove_leftovers(tmp_path / "a[1].nii.gz")
    assert [p.name for p in tmp_path.iterdir()] == [".a[1].nii.gz"]
    remove_leftovers(tmp_path / "none" / "a")


def test_digests_agree(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "a") == sha256_of_bytes(b"abc")
    assert sha256_of_bytes(b"abc").startswith("ba7816bf")


def test_new_file_is_written_once(tmp_path, monkeypatch):
    path = tmp_path / "a"
    assert not path.exists()
    monkeypatch.setattr(Path, "exists", lambda _: False)  # all writers look before any writes
    for content in (b"first", b"second"):
        write_new(path, content)
    assert path.read_bytes() == b"first"
    monkeypatch.setattr(os, "link", Mock(side_effect=OSError("no hard links here")))
    write_new(tmp_path / "b", b"whole")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a": b"first", "b": b"whole"}
