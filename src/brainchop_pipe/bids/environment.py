"""What ran, and on what: this program, the libraries that decide results, the machine."""

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import brainchop_pipe
from brainchop_pipe.versions import checkout

_LIBRARIES = ("onnxruntime", "openvino", "numpy", "scipy", "nibabel", "connected-components-3d", "SimpleITK")

# Those that numeric libraries choose their code by: other sets round in another way.
_INSTRUCTION_SETS = (
    *("sse4_2", "avx", "fma", "avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"),
    *("asimd", "asimddp", "bf16", "sve"),
)


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
            "CPU": _cpu_information("model name") or platform.processor(),
            "InstructionSets": _instruction_sets(),
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


def _instruction_sets() -> list[str]:
    """Name those of the processor that decide how numeric libraries round."""
    # x86 and ARM have names of their own for the line.
    known = (_cpu_information("flags") or _cpu_information("Features")).split()
    return [name for name in _INSTRUCTION_SETS if name in known]


def _cpu_information(key: str) -> str:
    """Give what the kernel tells of the first processor; empty where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.partition("\t")[0] == key), "")


def _gpu_name() -> str | None:
    """Name of the first NVIDIA GPU and its driver, as the kernel tells; None without one."""
    try:
        driver = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
        information = next(Path("/proc/driver/nvidia/gpus").glob("*/information")).read_text(encoding="utf-8")
    except (OSError, StopIteration, IndexError):
        return None
    names = (line.partition(":")[2].strip() for line in information.splitlines() if line.startswith("Model"))
    return f"{next(names, 'unknown')}; {driver}"
