"""Provenance in BIDS's own form: ``prov/``, and the keys of sidecars that lead there.

The one writer of that form, which no released BIDS has yet: names follow the
specification's chapter on provenance as it was merged for the version after 1.11
(bids-specification 0195d94, ``modality-agnostic-files/provenance.md``). What a single
image took and when stands in its sidecar alone; here stands once what all images that
were made in the same way have in common.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from brainchop_pipe.bids.sidecar import ProvenanceRecord
from brainchop_pipe.storage import json_bytes, write_if_changed, write_new

# For validators of BIDS versions that do not know the folder.
FOLDER = "prov"

_PREFIX = "bids::prov#"


@dataclass(frozen=True)
class Activity:
    """A way of making files: everything but the images.

    Parameters
    ----------
    record : ProvenanceRecord
        Of any file made in this way.
    """

    record: ProvenanceRecord

    @cached_property
    def label(self) -> str:
        """Eight hexadecimal digits, the same where all but the images was the same."""
        common = self.record.as_json()
        decisive = ("Signature", "Command", "Parameters", "Models", "Code", "Versions", "Hardware")
        text = json.dumps({key: common[key] for key in decisive}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def id(self) -> str:
        """What sidecars refer to."""
        return f"{_PREFIX}segment-{self.label}"

    def files(self) -> dict[str, dict[str, Any]]:
        """Give the files that describe it, by name."""
        software, environment, models = self._software(), self._environment(), self._models()
        activity = {
            "Id": self.id,
            "Label": "Brain segmentation",
            "Command": self.record.command,
            "AssociatedWith": [entry["Id"] for entry in software],
            "Used": [environment["Id"], *(entry["Id"] for entry in models)],
        }
        contents = {
            "act": {"Activities": [activity]},
            "ent": {"ProvEntities": models},
            "env": {"Environments": [environment]},
            "soft": {"Software": software},
        }
        return {f"prov-{self.label}_{suffix}.json": content for suffix, content in contents.items()}

    def _software(self) -> list[dict[str, Any]]:
        versions = {self.record.code["Name"]: self.record.code["Version"], **self.record.versions}
        return [
            {"Id": f"{_PREFIX}{name}-{self.label}", "Label": name, "Version": version}
            for name, version in versions.items()
        ]

    def _environment(self) -> dict[str, Any]:
        hardware = self.record.hardware
        container = self.record.code.get("Container", {}).get("Digest")
        return {
            "Id": f"{_PREFIX}environment-{self.label}",
            "Label": ", ".join(filter(None, (hardware.get("CPU"), hardware.get("GPU"), container))),
            "OperatingSystem": f"{hardware.get('OperatingSystem')} {hardware.get('Machine')}",
        }

    def _models(self) -> list[dict[str, Any]]:
        return [
            {
                "Id": f"{_PREFIX}model-{model.name}-{self.label}",
                "Label": f"{model.name} {model.version}",
                "AtLocation": model.source_url,
                "Digest": {"sha256": model.sha256},
            }
            for model in self.record.models
        ]


def sidecar_keys(record: ProvenanceRecord) -> dict[str, Any]:
    """Give the keys by which a sidecar leads to ``prov/``, but for the digest of its file."""
    return {"GeneratedBy": Activity(record).id}


def is_described(output_dir: Path, sidecar: dict[str, Any]) -> bool:
    """Tell whether ``prov/`` has what a sidecar refers to."""
    label = str(sidecar.get("GeneratedBy", "")).removeprefix(f"{_PREFIX}segment-")
    return bool(label) and (output_dir / FOLDER / f"prov-{label}_act.json").is_file()


def digest_key(sha256: str) -> dict[str, Any]:
    """Give the key by which a sidecar tells its file's digest."""
    return {"Digest": {"sha256": sha256}}


def write_activity(output_dir: Path, record: ProvenanceRecord) -> None:
    """Write what describes a way of making files, unless it is there; many runs may do so at once."""
    folder = output_dir / FOLDER
    folder.mkdir(exist_ok=True)
    for name, content in Activity(record).files().items():
        write_new(folder / name, json_bytes(content))


def write_index(output_dir: Path) -> None:
    """List what is in ``prov/``: ``provenance.tsv`` has a row for each label, and a data dictionary."""
    folder = output_dir / FOLDER
    lines = ["provenance_label\tdescription"]
    for path in sorted(folder.glob("prov-*_act.json")):
        label = path.name.removesuffix("_act.json")
        lines.append(f"{label}\tBrain segmentation; the sidecars that refer to it say of which images")
    if len(lines) > 1:
        columns = {"description": {"Description": "What the files of this label describe"}}
        write_if_changed(folder / "provenance.tsv", "".join(f"{line}\n" for line in lines).encode())
        write_if_changed(folder / "provenance.json", json_bytes(columns))
