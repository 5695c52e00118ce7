"""Outputs into their places: whole, sidecar last, never over somebody's own work."""

import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from brainchop_pipe.bids.derivatives import json_bytes
from brainchop_pipe.bids.provenance import FileState
from brainchop_pipe.errors import OutputError, UsageError
from brainchop_pipe.storage import sha256_of_bytes, sha256_of_file, write_if_changed, write_whole

_GENERATOR = "brainchop_pipe"


@dataclass(frozen=True)
class Derivative:
    """One image to write, with its sidecar but for the digest of the image.

    Parameters
    ----------
    path : PurePosixPath
        Below the output folder.
    content : bytes
    sidecar : dict
        With a mapping ``Provenance`` in it.
    """

    path: PurePosixPath
    content: bytes
    sidecar: dict[str, Any]


def sidecar_path(image: Path) -> Path:
    """Give the place of an image's sidecar."""
    return image.with_name(image.name.removesuffix(".gz").removesuffix(".nii") + ".json")


def prepare_output_dir(output_dir: Path, bids_dir: Path | None) -> None:
    """Create the output folder, and refuse one in which something could be lost.

    Raises
    ------
    UsageError
        It is the dataset itself, or lies in the raw data of it.
    OutputError
        It cannot be created or written, or is somebody else's dataset.
    """
    if bids_dir is not None:
        _check_apart(output_dir.resolve(), bids_dir.resolve())
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = output_dir / f".brainchop-probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"output folder {output_dir} cannot be written ({error.strerror}); choose another"
        ) from error
    _check_owner(output_dir / "dataset_description.json")


def is_complete(
    output_dir: Path,
    files: list[PurePosixPath],
    signature: str,
    source: Path,
    state: FileState,
    *,
    check_hashes: bool = False,
) -> bool:
    """Tell whether all files of a product are there, whole, and made in this way of this input.

    Parameters
    ----------
    output_dir : Path
    files : list of PurePosixPath
    signature : str
        See `provenance.signature`.
    source : Path
        The input.
    state : FileState
        Of the input.
    check_hashes : bool
        Compare the content of input and outputs, not only sizes and times.
    """
    source_digest = sha256_of_file(source) if check_hashes else None
    for file in files:
        image = output_dir / file
        record = _read_record(image)
        if record is None or record["Signature"] != signature or not image.is_file():
            return False
        made_of, output = record["Input"], record["Output"]
        if image.stat().st_size != output["Size"] or made_of["Size"] != state.size:
            return False
        if source_digest is None:
            if made_of["ModificationTimeNs"] != state.modified_ns:
                return False
        elif made_of["SHA256"] != source_digest or sha256_of_file(image) != output["SHA256"]:
            return False
    return True


def publish(
    output_dir: Path,
    derivatives: list[Derivative],
    tables: dict[PurePosixPath, bytes],
    *,
    force: bool = False,
) -> None:
    """Write a product: old sidecars away, then images and tables, then the sidecars.

    An image counts only with its sidecar, so that a kill at any moment leaves either
    the old product, or one that the next run does again. The caller holds the lock.

    Raises
    ------
    OutputError
        An image that is there is not as this program wrote it (and no `force`), or
        the disk does not take the files.
    """
    images = [output_dir / derivative.path for derivative in derivatives]
    if not force:
        for image in images:
            _check_unchanged(image)
    try:
        for image in images:
            sidecar_path(image).unlink(missing_ok=True)
        for image, derivative in zip(images, derivatives, strict=True):
            write_whole(image, derivative.content)
        for table, content in tables.items():
            write_if_changed(output_dir / table, content)
        for image, derivative in zip(images, derivatives, strict=True):
            output = {"SHA256": sha256_of_bytes(derivative.content), "Size": len(derivative.content)}
            record = {**derivative.sidecar["Provenance"], "Output": output}
            write_whole(sidecar_path(image), json_bytes({**derivative.sidecar, "Provenance": record}))
    except OSError as error:
        raise OutputError(f"cannot write below {output_dir.name}: {error.strerror or error}") from error


def _read_record(image: Path) -> dict[str, Any] | None:
    """Provenance of an image as its sidecar has it; None where there is none that can be used."""
    try:
        record = json.loads(sidecar_path(image).read_text(encoding="utf-8"))["Provenance"]
        complete = {"Signature", "Input", "Output"} <= record.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if complete else None


def _check_unchanged(image: Path) -> None:
    """Refuse to write over an image that was edited after this program made it."""
    record = _read_record(image)
    if record is not None and image.is_file() and sha256_of_file(image) != record["Output"]["SHA256"]:
        raise OutputError(
            f"{image.name} was changed since it was made, and would be overwritten; "
            "move it away to have it made anew, or give --force"
        )


def _check_apart(output: Path, bids: Path) -> None:
    if output == bids:
        raise UsageError(f"output folder {output} is the dataset itself; choose {bids}/derivatives/brainchop")
    if bids in output.parents:
        top = output.relative_to(bids).parts[0]
        if top == "sourcedata" or top.startswith("sub-"):
            raise UsageError(
                f"output folder {output} lies in {top} of the dataset, among raw data; "
                f"choose {bids}/derivatives/brainchop"
            )


def _check_owner(description: Path) -> None:
    """Refuse a folder that another program's dataset lives in."""
    try:
        content = json.loads(description.read_text(encoding="utf-8"))
        names = [entry.get("Name") for entry in content.get("GeneratedBy", [])]
    except FileNotFoundError:
        return
    except (OSError, ValueError, AttributeError, TypeError):
        names = []
    if _GENERATOR not in names:
        raise OutputError(
            f"output folder {description.parent} holds a dataset that is not of {_GENERATOR} "
            f"(made by {', '.join(map(str, names)) or 'nobody named'}); choose a folder of its own"
        )
