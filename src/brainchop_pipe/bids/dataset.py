"""Which images of a BIDS dataset to process."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path, PurePosixPath
from typing import Any

from brainchop_pipe.bids.names import Source, parse_name
from brainchop_pipe.bids.walk import EXTENSIONS, is_hidden, walk_images
from brainchop_pipe.errors import BidsError, MissingInputError, NoMatchError, UsageError
from brainchop_pipe.settings import Query

VALIDATOR = "bids-validator-deno"

# Contrasts of `anat` that are pictures of a head; maps, masks and series of echoes are not.
CONTRASTS = ("T1w", "T2w", "FLAIR", "PDw", "T2starw", "UNIT1", "inplaneT1", "inplaneT2", "PDT2", "angio")

# Keys of fMRIPrep's filter files that are about other images.
_OTHER_FILTERS = frozenset({"asl", "bold", "dwi", "fmap", "meg", "pet", "roi", "sbref", "t2smap"})

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
    validator = find_validator()
    if validator is not None:
        _validate(bids_dir, validator)


def find_validator() -> str | None:
    """Find the official validator on the path, or beside this Python (an environment not activated)."""
    return shutil.which(VALIDATOR) or shutil.which(VALIDATOR, path=Path(sys.executable).parent)


def find_images(bids_dir: Path, query: Query) -> tuple[Source, ...]:
    """List the anatomical images of a dataset, those of contrasts not asked for included.

    Only the wanted participants' `anat` folders are looked at, no sidecar is read,
    and whether a file can be opened is not asked here. A name that is not that of a
    raw image gives a source without entities.

    Returns
    -------
    tuple of Source
        In the order of their names.

    Raises
    ------
    NoMatchError
        A participant or session that was named has no image, or none has a wanted contrast;
        not where the query does not mind.
    """
    participants = _choose_participants(bids_dir, query.participant_labels, query.names_must_exist)
    suffixes = sorted({*CONTRASTS, *query.modalities})
    if query.filters or query.database_dir:
        paths = _ask_pybids(bids_dir, participants, suffixes, query)
    else:
        paths = list(walk_images(bids_dir, participants, suffixes))
    sources = [source_of(path, bids_dir) for path in sorted(paths)]
    wanted = {f"sub-{label}" for label in participants}
    sessions = {f"ses-{label}" for label in query.session_labels}
    chosen = [s for s in sources if s.participant in wanted and (not sessions or _session(s) in sessions)]
    _check_found(chosen, query, bids_dir)
    return tuple(chosen)


def _session(source: Source) -> str | None:
    """Session folder of an image, told by its place and not by the path above the dataset."""
    return next((part for part in source.folder.parts if part.startswith("ses-")), None)


def _check_found(sources: list[Source], query: Query, bids_dir: Path) -> None:
    """Refuse to go on without something that was asked for by name."""
    if not query.names_must_exist:
        return
    groups, sessions = {s.participant for s in sources}, {_session(s) for s in sources}
    missing = [f"sub-{p}" for p in query.participant_labels if f"sub-{p}" not in groups]
    missing += [f"ses-{s}" for s in query.session_labels if f"ses-{s}" not in sessions]
    if missing or not sources:
        raise NoMatchError(
            f"no anatomical image in {bids_dir} for {', '.join(missing) or 'any participant'} that "
            f"matches the filters ({query.filters or 'none'}); looked for {', '.join(CONTRASTS)}"
        )
    found = sorted({s.suffix for s in sources})
    if not set(found) & set(query.modalities):
        raise NoMatchError(
            f"no image that matches is {' or '.join(query.modalities)} (--modality); "
            f"there are {', '.join(found)}"
        )


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
    known = {suffix.lower() for suffix in CONTRASTS} | _OTHER_FILTERS
    unknown = [key for key in content if key.lower() not in known]
    if unknown:
        raise UsageError(f"filter file {path} has {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    return {key.lower(): value for key, value in content.items()}


def _choose_participants(bids_dir: Path, labels: tuple[str, ...], must_exist: bool) -> list[str]:
    """Choose the participants to look at; no scan of the top folder where all exist that were named."""
    missing = [label for label in labels if not (bids_dir / f"sub-{label}").is_dir()]
    if labels and not (missing and must_exist):
        return sorted({*labels} - {*missing})
    there = {e.name[4:] for e in os.scandir(bids_dir) if e.name.startswith("sub-") and e.is_dir()}
    if missing:
        raise NoMatchError(
            f"participant {', '.join(missing)} is not in {bids_dir}, which has {len(there)}: "
            f"{', '.join(sorted(there)[:10])}{', ...' if len(there) > 10 else ''}"
        )
    if not there:
        raise NoMatchError(f"{bids_dir} has no sub-* folder")
    return sorted(there)


def _ask_pybids(bids_dir: Path, participants: list[str], suffixes: list[str], query: Query) -> list[Path]:
    """Find images by pybids, which knows what filters mean and keeps databases."""
    layout = _index(bids_dir, participants, query.database_dir)
    paths: list[Path] = []
    try:
        for suffix in suffixes:
            paths += _get(layout, suffix, query.filters.get(suffix.lower(), {}))
    finally:
        layout.session.close()
        layout.connection_manager.engine.dispose()
    return [path for path in paths if not is_hidden(path)]


def _index(bids_dir: Path, participants: list[str], database_dir: Path | None) -> Any:
    """Index the `anat` folders of some participants; metadata and everything else stay unread.

    A database that is kept holds all participants: later runs may want others.
    """
    # Imported here: it costs a second, and runs without filters do without.
    from bids import BIDSLayout, BIDSLayoutIndexer

    subjects = "[^/]+" if database_dir else f"({'|'.join(map(re.escape, participants))})"
    # pybids asks for each folder and file; what does not match is not entered.
    ignored = re.compile(rf"^(?!/(sub-{subjects}(/ses-[^/]+)?(/anat(/[^/]+)?)?|dataset_description\.json)?$)")
    indexer = BIDSLayoutIndexer(validate=False, index_metadata=False, ignore=[ignored])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return BIDSLayout(bids_dir, validate=False, indexer=indexer, database_path=database_dir)
        except ValueError as error:
            raise UsageError(
                f"pybids cannot index {bids_dir}: {error}; is --bids-database-dir of another dataset?"
            ) from error


def _get(layout: Any, suffix: str, filters: dict[str, Any]) -> list[Path]:
    """Ask pybids for the images of a contrast.

    Participants and sessions are chosen afterwards, since pybids reads entities from
    the folders above the dataset as well.
    """
    from bids.layout import Query as Special

    # fMRIPrep's spelling of "has no such entity" and "has one".
    words = {"Query.NONE": Special.NONE, "Query.ANY": Special.ANY}
    criteria = {key: words.get(str(value), value) for key, value in filters.items()}
    fixed = {"datatype": "anat", "extension": list(EXTENSIONS), "suffix": suffix}
    try:
        return [Path(path) for path in layout.get(return_type="filename", **{**fixed, **criteria})]
    except (ValueError, TypeError) as error:
        raise UsageError(f"the BIDS filters {filters} cannot be used: {error}") from error


def source_of(path: Path, bids_dir: Path) -> Source:
    """Describe an image of a dataset by its place; no file is looked at.

    Raises
    ------
    UsageError
        The image is not in the dataset.
    """
    try:
        relative = PurePosixPath(path.relative_to(bids_dir).as_posix())
    except ValueError:
        raise UsageError(
            f"{path} is not in the dataset {bids_dir}; if an index was given (--bids-database-dir), it is "
            "of another dataset: give another folder"
        ) from None
    suffix = relative.name.split(".")[0].rpartition("_")[2]
    entities, suffix = parse_name(relative.name) or ((), suffix)
    return Source(relative.parent, relative.name, f"bids:raw:{relative}", relative.parts[0], entities, suffix)


def _validate(bids_dir: Path, validator: str) -> None:
    """Run the validator, and refuse what would not just fail for one image."""
    command = [validator, str(bids_dir), "--format", "json", "--ignoreWarnings"]
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
