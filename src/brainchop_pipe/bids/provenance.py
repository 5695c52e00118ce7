"""How a file came about: what its sidecar must be able to answer.

Nothing here may hold an absolute path, a user's or a host's name. Peak memory is that of
the working process so far, earlier images included.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import brainchop_pipe
from brainchop_pipe.bids.derivatives import Product
from brainchop_pipe.inference.session import Execution
from brainchop_pipe.record import InputDigests
from brainchop_pipe.settings import Settings
from brainchop_pipe.storage import sha256_of_file
from brainchop_pipe.versions import checkout, code_version
from brainchop_pipe.zoo.catalog import Model

_LIBRARIES = ("onnxruntime", "numpy", "scipy", "nibabel", "connected-components-3d", "SimpleITK")


@dataclass(frozen=True)
class FileState:
    """What is known of an input file without decoding it.

    Parameters
    ----------
    size : int
        Bytes.
    modified_ns : int
        Time of last change, nanoseconds since 1970.
    """

    size: int
    modified_ns: int

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """Look at a file, through links."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns)


def signature(product: Product, settings: Settings) -> str:
    """Give one digest of all that decides a product apart from its image.

    Models, parameters, version; the mask that was given, where the product sees one;
    the further contrasts that its models see.
    """
    processing = settings.processing
    but = ("label_interpolation", "label_scheme") if product.is_tissue_set else ()
    mask = processing.mask if product.mask_model else None
    decisive = {
        "code": code_version(),
        "parameters": processing.parameters(but),
        "mask": sha256_of_file(mask) if mask else None,
        "contrasts": contrasts_record(product, settings),
        "cards": [model.card.model_dump(mode="json") for model in product.involved],
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def input_record(uri: str, state: FileState, digests: InputDigests) -> dict[str, Any]:
    """Describe the input: the file as it lies there, and its voxels and affine whatever holds them."""
    return {
        "URI": uri,
        "SHA256": digests.sha256,
        "VoxelsSHA256": digests.voxels_sha256,
        "Size": state.size,
        "ModificationTimeNs": state.modified_ns,
    }


def contrasts_record(product: Product, settings: Settings) -> dict[str, Any]:
    """Describe the further images of a head that a product's models see, by suffix."""
    wanted = {suffix for model in product.models for suffix in model.card.input.contrasts[1:]}
    files = settings.processing.contrasts
    return {suffix: {"SHA256": sha256_of_file(file)} for suffix, file in files if suffix in wanted}


def model_record(model: Model) -> dict[str, Any]:
    """Describe a model: what ran, where it is from, under which terms."""
    card = model.card
    return {
        "Name": card.name,
        "Version": card.version,
        "SHA256": card.weights.onnx_sha256,
        "SourceURL": card.weights.base_url or "local file",
        "SourceSHA256": {file.path: file.sha256 for file in card.weights.files},
        "License": card.license.id,
        "TrainedFor": list(card.modalities),
        "IntendedUse": card.intended_use,
    }


def execution_record(execution: Execution, precision: str) -> dict[str, Any]:
    """Describe where a model ran, against where it was asked to run, and in which numbers."""
    return {
        "RequestedDevice": execution.requested,
        "Provider": execution.provider,
        "Fallbacks": list(execution.fallbacks),
        "Threads": execution.threads,
        "Precision": precision,
    }


@cache
def code_record() -> dict[str, Any]:
    """Describe this program: an entry of BIDS's ``GeneratedBy``."""
    commit, dirty = _commit()
    record: dict[str, Any] = {"Name": "brainchop_pipe", "Version": brainchop_pipe.__version__}
    if commit:
        record |= {"Commit": commit, "Dirty": dirty}
    container = os.environ.get("BRAINCHOP_CONTAINER_DIGEST")
    if container:
        record["Container"] = {"Type": "oci", "Digest": container}
    return record


@cache
def environment_record() -> dict[str, Any]:
    """Describe versions and hardware; no name of a host or user is among them."""
    versions = {"python": platform.python_version()}
    versions |= {name: importlib.metadata.version(name) for name in _LIBRARIES if _is_installed(name)}
    return {
        "Versions": versions,
        "Hardware": {
            "OperatingSystem": platform.system(),
            "Machine": platform.machine(),
            "CPU": _cpu_name(),
            "GPU": _gpu_name(),
        },
    }


def _commit() -> tuple[str | None, bool]:
    """Commit of the sources that run: asked of git in a checkout, else as the build recorded it."""
    root = checkout()
    if root is not None and (root / ".git").exists():
        try:
            commit = _git(root, "rev-parse", "HEAD")
            return commit, bool(_git(root, "status", "--porcelain", "--untracked-files=no"))
        except (OSError, subprocess.CalledProcessError):
            pass
    return brainchop_pipe.__commit__, ".d20" in brainchop_pipe.__version__


def _git(root: Path, *arguments: str) -> str:
    # Without this git would write its index in the checkout anew.
    command = ["git", "--no-optional-locks", "-C", str(root), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return result.stdout.strip()


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _gpu_name() -> str | None:
    """Name of the first NVIDIA GPU and its driver, as the kernel tells; None without one."""
    try:
        driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
        information = next(Path("/proc/driver/nvidia/gpus").glob("*/information")).read_text(encoding="utf-8")
    except (OSError, StopIteration, IndexError):
        return None
    names = (line.partition(":")[2].strip() for line in information.splitlines() if line.startswith("Model"))
    return f"{next(names, 'unknown')}; {driver}"
