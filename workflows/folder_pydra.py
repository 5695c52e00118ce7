"""Example: a Pydra script over a folder of images.

``python -m brainchop_pipe.workflows.folder_pydra IMAGES CACHE [MODEL...]``
"""

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import Any

from brainchop_pipe.engines.pydra_tasks import Segment
from brainchop_pipe.settings import DEFAULT_MODELS, available_cpus

# After the tasks: they set NO_ET before Pydra is imported.
from pydra.engine.submitter import Submitter  # isort: skip

logger = logging.getLogger(__name__)


def segment_folder(folder: Path, cache: Path, models: list[str]) -> dict[Path, Any]:
    """Segment all images of a folder, one after the other; a bad one does not stop the rest.

    Parameters
    ----------
    folder : Path
        With ``.nii.gz``, ``.nii``, ``.mgz`` or ``.mgh`` files.
    cache : Path
        Where Pydra keeps results: a second run takes them from there.
    models : list of str

    Returns
    -------
    dict
        By image: the outputs of `Segment`, or None where it failed.
    """
    images = sorted(
        path for path in folder.iterdir() if path.name.endswith((".nii.gz", ".nii", ".mgz", ".mgh"))
    )
    # By default Pydra remembers hashes below HOME, which a container may not have.
    os.environ.setdefault("PYDRA_HASH_CACHE", str(cache.resolve() / "hashes"))
    # In this process, where the ONNX sessions stay from image to image; worker="cf" has several.
    with Submitter(worker="debug", cache_root=cache) as submit:
        return {image: _segment(submit, image, models) for image in images}


def _segment(submit: Submitter, image: Path, models: list[str]) -> Any:
    try:
        return submit(Segment(in_file=image, models=models, threads=available_cpus())).outputs
    except Exception:
        logger.exception("%s failed", image.name)
        return None


def main(argv: list[str] | None = None) -> int:
    """Run the script; 0, or 75 where an image failed."""
    parser = argparse.ArgumentParser(prog="folder_pydra", description=__doc__)
    parser.add_argument("images", type=Path, help="folder of images")
    parser.add_argument("cache", type=Path, help="folder for results")
    parser.add_argument("models", nargs="*", default=list(DEFAULT_MODELS))
    given = parser.parse_args(argv)
    results = segment_folder(given.images, given.cache, given.models)
    for image, outputs in results.items():
        sys.stdout.write(f"{image.name}: {_maps(outputs) or 'failed'}\n")
    return 75 if any(outputs is None for outputs in results.values()) else 0


def _maps(outputs: Any) -> str:
    """List an image's maps; nothing where it failed."""
    if outputs is None:
        return ""
    maps = [outputs.mask, outputs.dseg, outputs.gm, outputs.wm, outputs.csf, *outputs.labels]
    return ", ".join(str(path) for path in maps if path is not None)


if __name__ == "__main__":
    raise SystemExit(main())
