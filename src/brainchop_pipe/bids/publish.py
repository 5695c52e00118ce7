"""Outputs into their places: whole, sidecar last, never over somebody's own work."""

import json
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from brainchop_pipe.bids.derivatives import raw_link
from brainchop_pipe.bids.prov_files import digest_key
from brainchop_pipe.bids.provenance import FileState
from brainchop_pipe.bids.sidecar import OutputRecord
from brainchop_pipe.errors import OutputError, UsageError
from brainchop_pipe.storage import (
    JOURNAL_SUFFIX,
    json_bytes,
    remove_leftovers,
    sha256_of_bytes,
    sha256_of_file,
    temporary_beside,
    write_synced,
)

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


def image_path(sidecar: Path) -> Path:
    """Give the place of the image that a sidecar is of."""
    return sidecar.with_name(sidecar.name.removesuffix(".json") + ".nii.gz")


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
        # Without a name where that can be: in containers, processes on many nodes have one number.
        with tempfile.TemporaryFile(dir=output_dir):
            pass
    except OSError as error:
        raise OutputError(
            f"output folder {output_dir} cannot be written ({error.strerror}); choose another"
        ) from error
    check_owner(output_dir, bids_dir)


def is_complete(
    output_dir: Path,
    files: list[PurePosixPath],
    tables: list[PurePosixPath],
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
        Images.
    tables : list of PurePosixPath
        Files without a sidecar.
    signature : str
        See `provenance.signature`.
    source : Path
        The input.
    state : FileState
        Of the input.
    check_hashes : bool
        Compare the content of input and outputs, not only sizes and times.
    """
    if not all((output_dir / table).is_file() for table in tables):
        return False
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
    """Write a product: everything under temporary names first, then into place, sidecars last.

    An image counts only with its sidecar, so that a kill at any moment leaves either
    the old product, or one that the next run does again. The caller holds the lock.

    Parameters
    ----------
    output_dir : Path
    derivatives : list of Derivative
        All of one input.
    tables : dict
        Further files, by their place below the output folder.
    force : bool
        Write over files that this program did not make, or that were edited since.

    Raises
    ------
    OutputError
        A file that is there is somebody's own work (and no `force`), or the disk does
        not take the files; then what was there is still there.
    """
    images = {output_dir / derivative.path: derivative.content for derivative in derivatives}
    sidecars = {sidecar_path(output_dir / d.path): json_bytes(_finished_sidecar(d)) for d in derivatives}
    others = {output_dir / path: content for path, content in tables.items()}
    journal = next(iter(images)).with_name(f".{derivatives[0].path.name}{JOURNAL_SUFFIX}")
    if not force:
        for derivative in derivatives:
            _check_own(output_dir / derivative.path, derivative.sidecar["Provenance"]["Input"], journal)
    try:
        _replace_all({**images, **others, **sidecars}, stale=list(sidecars), journal=journal)
    except OSError as error:
        where = output_dir.resolve().name
        raise OutputError(
            f"{derivatives[0].path} cannot be written below {where}: {error.strerror or error}; "
            "check space and permissions"
        ) from error


def _finished_sidecar(derivative: Derivative) -> dict[str, Any]:
    digest = sha256_of_bytes(derivative.content)
    output = OutputRecord(sha256=digest, size=len(derivative.content))
    record = {**derivative.sidecar["Provenance"], "Output": output.as_json()}
    return {**derivative.sidecar, **digest_key(digest), "Provenance": record}


def _replace_all(files: dict[Path, bytes], stale: list[Path], journal: Path) -> None:
    """Write all files beside their places, then move them there in order, the stale ones away first.

    While the journal is there, images without a sidecar are known to be this program's.
    """
    with ExitStack() as stack:
        moves = []
        for path, content in files.items():
            remove_leftovers(path)
            temporary = stack.enter_context(temporary_beside(path))
            write_synced(temporary, content)
            moves.append((temporary, path))
        journal.touch()
        for path in stale:
            path.unlink(missing_ok=True)
        for temporary, path in moves:
            temporary.replace(path)
        journal.unlink()


def _read_record(image: Path) -> dict[str, Any] | None:
    """Provenance of an image as its sidecar has it; None where there is none that can be used."""
    try:
        record = json.loads(sidecar_path(image).read_text(encoding="utf-8"))["Provenance"]
        complete = {"Signature", "Input", "Output"} <= record.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return record if complete else None


def _check_own(image: Path, made_of: dict[str, Any], journal: Path) -> None:
    """Refuse to write over an image that is not this program's own work on this input."""
    if not image.exists() or journal.exists():
        return
    record = _read_record(image)
    remedy = "move it away to have it made anew, or give --force"
    if record is None:
        raise OutputError(
            f"{image.name} is there, but not of this program (its sidecar does not say so); {remedy}"
        )
    if sha256_of_file(image) != record["Output"]["SHA256"]:
        raise OutputError(f"{image.name} was changed since it was made, and would be overwritten; {remedy}")
    before = record["Input"]
    same_content = before.get("VoxelsSHA256") == made_of.get("VoxelsSHA256")
    # A file of no dataset is known by its name alone: another content may be another person.
    if before.get("URI") != made_of.get("URI") or not (_is_bids_uri(made_of) or same_content):
        raise OutputError(
            f"{image.name} was made of another input ({before.get('URI')}, or other content of that name); "
            f"{remedy}"
        )


def _is_bids_uri(made_of: dict[str, Any]) -> bool:
    return str(made_of.get("URI", "")).startswith("bids:")


def _check_apart(output: Path, bids: Path) -> None:
    if output == bids:
        raise UsageError(f"output folder {output} is the dataset itself; choose {bids}/derivatives/brainchop")
    if bids in output.parents and output.relative_to(bids).parts[0] != "derivatives":
        raise UsageError(
            f"output folder {output} lies in the dataset, among raw data; choose {bids}/derivatives/brainchop"
        )


def check_owner(output_dir: Path, bids_dir: Path | None) -> None:
    """Refuse a folder that another program's dataset, or that of another raw dataset, lives in."""
    try:
        content = json.loads((output_dir / "dataset_description.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except ValueError:
        content = {}
    content = content if isinstance(content, dict) else {}
    makers = content.get("GeneratedBy")
    names = [m.get("Name") for m in makers if isinstance(m, dict)] if isinstance(makers, list) else []
    if _GENERATOR not in names:
        raise OutputError(
            f"output folder {output_dir} holds a dataset that is not of {_GENERATOR} "
            f"(made by {', '.join(map(str, names)) or 'nobody named'}); choose a folder of its own"
        )
    raw = (content.get("DatasetLinks") or {}).get("raw")
    if bids_dir is not None and raw is not None and raw != raw_link(output_dir, bids_dir):
        raise OutputError(
            f"output folder {output_dir} holds the results of another dataset ({raw}), or one of the two was "
            "moved; choose a folder of its own, or correct DatasetLinks in its dataset_description.json"
        )
