"""Which code this is: what decides whether an earlier result still stands."""

import hashlib
from functools import cache
from pathlib import Path

import brainchop_pipe

# Folders of a checkout whose files decide results; elsewhere the version alone tells.
_SOURCES = ("src/brainchop_pipe/**/*.py", "workflows/**/*.py", "models/*.json")


@cache
def code_version() -> str:
    """Give the version; in a development install with a digest of the sources, edits included.

    Returns
    -------
    str
        Such as ``"0.3.0"``, or ``"0.3.1.dev4+g1234567 (sources 0123456789abcdef)"``.
    """
    root = checkout()
    if root is None:
        return brainchop_pipe.__version__
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _SOURCES for path in root.glob(pattern)):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{brainchop_pipe.__version__} (sources {digest.hexdigest()[:16]})"


def checkout() -> Path | None:
    """Give the root of the checkout that this code runs from; None where it is installed."""
    root = Path(brainchop_pipe.__file__).parents[2]
    return root if (root / "pyproject.toml").is_file() and (root / "src").is_dir() else None
