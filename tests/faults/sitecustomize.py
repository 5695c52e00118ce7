"""Faults in worker processes: on their PYTHONPATH, Python imports this file when it starts.

``BRAINCHOP_TEST_FAULT`` is ``MODULE:FUNCTION:ACTION:IMAGE``: in work on an image of that
name the function kills its process ("kill"), breaks it ("abort"), wants too much
("memory"), or waits for three seconds ("pause"). ``BRAINCHOP_TEST_MARK`` is a file to make when that happens.
"""

import importlib
import os
import signal
import time
from pathlib import Path


def _break(fault: str) -> None:
    module_name, function, action, image = fault.split(":")
    module = importlib.import_module(module_name)
    original = getattr(module, function)

    def broken(*args, **kwargs):
        # A step works in a folder that is called like its image.
        if image in str(Path.cwd()):
            mark = os.environ.get("BRAINCHOP_TEST_MARK")
            if mark:
                Path(mark).touch()
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "abort":
                os.abort()
            if action == "memory":
                raise MemoryError("no more")
            time.sleep(3)
        return original(*args, **kwargs)

    setattr(module, function, broken)


if os.environ.get("BRAINCHOP_TEST_FAULT"):
    _break(os.environ["BRAINCHOP_TEST_FAULT"])
