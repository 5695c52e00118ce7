"""Which images of a BIDS dataset to process."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

from brainchop_pipe.bids.names import Source, parse_name
from brainchop_pipe.errors import BidsError, MissingInputError, NoMatchError, UsageError
from brainchop_pipe.settings import Query

VALIDATOR = "bids-validator-deno"

# Contrasts of `anat` that are pictures of a head; maps, masks and series of echoes are not.
CONTRASTS = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "UNIT1", "inplaneT1", "inplaneT2", "PDT2", "angio")

_EXTENSIONS = (".nii", ".nii.gz")

# Findings of the validator about single images: those fail by themselves, and named.
_CONFINED_TO_AN_IMAGE = ("EMPTY_FILE", "FILE_READ", "NIFTI_", "SYMLINK_BROKEN")


def check_dataset(bids_dir: Path, *, skip_validation: bool = False) -> None:
    """Refuse a folder that is no BIDS dataset.

    Parameters
    ----------
    bids_dir : Path
    skip_validation : bool
        Take the folder as it is.

    Raises
    ------
    MissingInputError
        There is no such folder.
    BidsError
        It has no readable ``dataset_description.json``, or the validator, where one
        is installed, finds errors that are not confined to single images.
    """
    if not bids_dir.is_dir():
        raise MissingInputError(f"BIDS dataset {bids_dir} is no folder; check the path")
    if skip_validation:
        return
    description = bids_dir / "dataset_description.json"
    try:
        json.loads(description.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BidsError(
            f"{bids_dir} has no dataset_description.json, so it is no BIDS dataset; add one with Name and "
            "BIDSVersion, or give --skip-bids-validation. For loose files use `brainchop segment`"
        ) from None
    except ValueError as error:
        raise BidsError(f"{description.name} of {bids_dir} is no JSON ({error}); repair it") from error
    if shutil.which(VALIDATOR):
        _validate(bids_dir)


def find_images(bids_dir: Path, query: Query) -> tuple[Source, ...]:
    """List the anatomical images of a dataset, those of contrasts not asked for included.

    Only the wanted participants' `anat` folders are looked at, no sidecar is read,
    and whether a file can be opened is not asked here.

    Returns
    -------
    tuple of Source
        In the order of their names.

    Raises
    ------
    NoMatchError
        A participant that was named is not there, or nothing is left.
    """
    participants = _choose_participants(bids_dir, query.participant_labels)
    layout = _index(bids_dir, participants, query.database_dir)
    suffixes = sorted({*CONTRASTS, *query.modalities})
    criteria: dict[str, Any] = {"subject": participants, "datatype": "anat", "extension": list(_EXTENSIONS)}
    if query.session_labels:
        criteria["session"] = list(query.session_labels)
    paths: list[str] = []
    for suffix in suffixes:
        paths += _get(layout, {**criteria, "suffix": suffix, **query.filters.get(suffix.lower(), {})})
    if not paths:
        raise NoMatchError(
            f"no anatomical image of {', '.join(suffixes)} in {bids_dir} matches the participants "
            f"({', '.join(query.participant_labels) or 'all'}), sessions "
            f"({', '.join(query.session_labels) or 'all'}) and filters ({query.filters or 'none'})"
        )
    return tuple(_source(Path(path), bids_dir) for path in sorted(paths))


def read_filter_file(path: Path) -> dict[str, dict[str, Any]]:
    """Read fMRIPrep's filter file: entities by contrast, such as ``{"t1w": {"run": 1}}``.

    Raises
    ------
    MissingInputError, UsageError
        It is not there; it is no JSON object of objects.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MissingInputError(f"filter file {path} is not there") from None
    except ValueError as error:
        raise UsageError(f"filter file {path} is no JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise UsageError(
            f"filter file {path} must hold an object of objects, such as {{'t1w': {{'run': 1}}}}"
        )
    return {key.lower(): value for key, value in content.items()}


def _choose_participants(bids_dir: Path, labels: tuple[str, ...]) -> list[str]:
    """Labels of the participants to look at; one scan of the top folder."""
    there = {e.name[4:] for e in os.scandir(bids_dir) if e.name.startswith("sub-") and e.is_dir()}
    missing = [label for label in labels if label not in there]
    if missing:
        raise NoMatchError(
            f"participant {', '.join(missing)} is not in {bids_dir}, which has {len(there)}: "
            f"{', '.join(sorted(there)[:10])}{', ...' if len(there) > 10 else ''}"
        )
    if not there:
        raise NoMatchError(f"{bids_dir} has no sub-* folder")
    return sorted(labels or there)


def _index(bids_dir: Path, participants: list[str], database_dir: Path | None) -> Any:
    """Index the `anat` folders of some participants; metadata and everything else stay unread."""
    # Imported here: it costs a second, and `segment` does without.
    from bids import BIDSLayout, BIDSLayoutIndexer

    subjects = "|".join(map(re.escape, participants))
    wanted = re.compile(rf"^/(sub-({subjects})(/ses-[^/]+)?(/anat(/[^/]+)?)?|dataset_description\.json)?$")
    # pybids asks for each folder and file; what does not match is not entered.
    ignored = re.compile(rf"^(?!{wanted.pattern[1:-1]}$)")
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[ignored])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return BIDSLayout(bids_dir, validate=False, indexer=indexer, database_path=database_dir)


def _get(layout: Any, criteria: dict[str, Any]) -> list[str]:
    try:
        return list(layout.get(return_type="filename", **criteria))
    except ValueError as error:
        raise UsageError(f"the BIDS filters {criteria} cannot be used: {error}") from error


def _source(path: Path, bids_dir: Path) -> Source:
    relative = PurePosixPath(path.relative_to(bids_dir.absolute()).as_posix())
    parsed = parse_name(relative.name)
    if parsed is None:
        raise BidsError(f"{relative} has a name that is not BIDS; rename it or exclude it by a filter")
    entities, suffix = parsed
    group = relative.parts[0]
    return Source(relative.parent, relative.name, f"bids:raw:{relative}", group, entities, suffix)


def _validate(bids_dir: Path) -> None:
    """Run the validator, and refuse what would not just fail for one image."""
    command = [VALIDATOR, str(bids_dir), "--format", "json", "--ignoreWarnings"]
    # Its runtime would keep a cache below HOME and look for a newer version of itself.
    with tempfile.TemporaryDirectory(prefix="brainchop-") as cache:
        environment = {**os.environ, "DENO_DIR": cache, "DENO_NO_UPDATE_CHECK": "1"}
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    try:
        issues = json.loads(result.stdout)["issues"]["issues"]
    except (ValueError, KeyError) as error:
        raise BidsError(
            f"{VALIDATOR} gave no report on {bids_dir}: {result.stderr.strip()[-500:]}; "
            "repair it, or give --skip-bids-validation"
        ) from error
    errors = [
        issue
        for issue in issues
        if issue.get("severity") == "error" and not issue["code"].startswith(_CONFINED_TO_AN_IMAGE)
    ]
    if errors:
        listed = "; ".join(f"{e['code']} {e.get('location', '')}".strip() for e in errors[:5])
        raise BidsError(
            f"{bids_dir} is not valid BIDS, {len(errors)} error(s): {listed}. "
            f"See `{VALIDATOR} {bids_dir}`, or give --skip-bids-validation"
        )
