"""Faults in worker processes: on their PYTHONPATH, Python imports this file when it starts.

``BRAINCHOP_TEST_FAULT`` is ``MODULE:FUNCTION:ACTION:IMAGE``, or several with blanks between:
in work on an image of that name the function kills its process ("kill"), breaks it
("abort"), wants too much ("memory"), takes 2.5 GB and waits ("eat"), waits for three
seconds ("pause"), or as long as its mark is there ("hold"). ``BRAINCHOP_TEST_MARK`` is a file
to make when that happens, or a folder for files that are called like the images.
"""

import importlib
import os
import signal
import time
from pathlib import Path


def _mark(image: str) -> Path | None:
    """Leave word that it happened."""
    name = os.environ.get("BRAINCHOP_TEST_MARK")
    if not name:
        return None
    mark = Path(name)
    if mark.is_dir():
        mark /= next(part for part in Path.cwd().parts if image in part)
    mark.touch()
    return mark


def _break(fault: str) -> None:
    module_name, function, action, image = fault.split(":")
    module = importlib.import_module(module_name)
    original = getattr(module, function)

    def broken(*args, **kwargs):
        # A step works in a folder that is called like its image.
        if image in str(Path.cwd()):
            mark = _mark(image)
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "abort":
                os.abort()
            if action == "memory":
                raise MemoryError("no more")
            eaten = b"x" * (2_500_000_000 if action == "eat" else 0)
            if action == "pause":
                time.sleep(3)
            while mark is not None and mark.exists() and action in ("hold", "eat"):
                time.sleep(0.05)
            del eaten
        return original(*args, **kwargs)

    setattr(module, function, broken)


for _fault in os.environ.get("BRAINCHOP_TEST_FAULT", "").split():
    _break(_fault)
