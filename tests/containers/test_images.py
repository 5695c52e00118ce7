"""Images built here and run as an administrator would: ``python -m pytest -m container``.

They take minutes, the rights of root, and Debian's buildah, podman, runc, debootstrap,
squashfs-tools, bubblewrap and uidmap. ``BRAINCHOP_CONTAINER_STATE`` names a folder in which
the base image is kept from one run to the next.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from brainchop_pipe.cli.main import main
from conftest import REPOSITORY

pytestmark = [pytest.mark.container, pytest.mark.shared]

_NEEDED = ("buildah", "podman", "runc", "debootstrap", "mksquashfs", "bwrap")
_BASE = "localhost/python:3.11-slim"
_NOBODY = "12345:12345"


def call(*command: object, **options: object) -> str:
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.fixture(scope="session")
def engine(shared, tmp_path_factory) -> Iterator[None]:
    """Buildah and podman with a storage of their own, and a base image in it."""
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        pytest.skip(f"needs root and Debian's packages for containers ({', '.join(missing) or 'no root'})")
    state = Path(os.environ.get("BRAINCHOP_CONTAINER_STATE") or tmp_path_factory.mktemp("containers"))
    call("bash", shared / "cluster" / "make_base.sh", state)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_STORAGE_CONF", str(state / "storage.conf"))
        patch.setenv("CONTAINERS_CONF", str(state / "containers.conf"))
        patch.setenv("BUILDAH_ISOLATION", "chroot")
        yield


@pytest.fixture(scope="session")
def image(engine, shared) -> str:
    """The image of the Containerfile, by the project's own script."""
    certificates = "/etc/ssl/certs:/etc/ssl/certs:ro"
    build = f"buildah bud --isolation chroot --pull-never -v {certificates}"
    options = {"BUILD": build, "BASE_IMAGE": _BASE, "PYTHON": sys.executable}
    environment = {**os.environ, **options, "BRAINCHOP_MODEL_MIRROR": str(shared / "models")}
    call(REPOSITORY / "containers" / "build.sh", "cpu", env=environment)
    return "localhost/brainchop"


@pytest.fixture
def small_tmp(tmp_path) -> Iterator[Path]:
    """A `/tmp` of 64 MB that can be looked at afterwards."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    call("mount", "-t", "tmpfs", "-o", "size=64m,mode=1777", "tmpfs", folder)
    yield folder
    call("umount", folder)


@pytest.fixture
def out() -> Iterator[Path]:
    """A folder of that user, not below pytest's own, which nobody else may enter."""
    with tempfile.TemporaryDirectory() as name:
        shutil.chown(name, 12345, 12345)
        yield Path(name)


def test_administrators_test(image, shared, out, small_tmp):
    """Unknown user, root read-only, no home, no network, 64 MB of /tmp, clean environment; a real head."""
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
    alone = ("--network=none", "--read-only", "--read-only-tmpfs=false", "--unsetenv", "HOME")
    places = ("-v", f"{shared / 'data/heads'}:/data:ro", "-v", f"{out}:/out", "-v", f"{small_tmp}:/tmp")
    run = ("podman", "--runtime", "runc", "run", "--rm", *limits, *alone, "--user", _NOBODY, *places)
    call(*run, image, "/data", "/out", "participant", "--participant-label", "xa30")
    assert main(["verify", str(out), "--bids-dir", str(shared / "data/heads")]) == 0
    assert (out / "sub-xa30/anat/sub-xa30_dseg.nii.gz").stat().st_uid == 12345
    assert not [path for path in small_tmp.rglob("*") if path.is_file()]


@pytest.fixture
def squashed(image, tmp_path) -> Path:
    """The image as Apptainer has it: one file, and the environment beside it."""
    file = tmp_path / "image.sqfs"
    container = call("buildah", "from", "--pull-never", image).strip()
    root = call("buildah", "mount", container).strip()
    call("mksquashfs", root, file, "-quiet", "-no-progress", "-comp", "zstd", "-Xcompression-level", "1")
    call("buildah", "rm", container)
    settings = json.loads(call("buildah", "inspect", "--type", "image", image))["OCIv1"]["config"]["Env"]
    file.with_suffix(".env").write_text("\n".join(settings) + "\n")
    return file


def test_as_apptainer_runs_it(squashed, shared, out):
    # The shell takes the apostrophe in one of its messages for a quote.
    script = squashed.with_name("apptainer_like.sh")
    script.write_text((shared / "cluster" / "apptainer_like.sh").read_text().replace("host's", "host"))
    run = ("bash", script, squashed, _NOBODY)
    places = ("--contain", "--cleanenv", "--no-home", "-B", f"{shared / 'data/heads'}:/data:ro")
    words = ("/data", "/out", "participant", "--participant-label", "xa30", "--models", "tissue_fast")
    call(*run, *places, "-B", f"{out}:/out", "--", "/opt/brainchop/bin/brainchop", *words)
    assert (out / "sub-xa30.html").is_file()


def test_definition_of_apptainer(image, shared):
    """Its sections build an image, and its own test passes; the certificates are this machine's."""
    container = call("buildah", "from", "--pull-never", _BASE).strip()
    call("buildah", "copy", "-q", container, "/etc/ssl/certs", "/etc/ssl/certs")
    call("buildah", "commit", "-q", "--rm", container, "localhost/base")
    definition = REPOSITORY / "containers" / "apptainer.def"
    command = ("python3", shared / "cluster" / "def2oci.py", definition, "localhost/brainchop-def")
    assert "%test passed" in call(*command, "localhost/base")
