"""Two networks at equal training: Dice, parameters, time per volume, memory.

Source: the tables of Fani et al. (2025), arXiv:2506.11860, and Fedorov et al. (2017),
doi:10.1109/IJCNN.2017.7966333, which compare MeshNets with U-Nets.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from brainchop_pipe.models.train.checkpoint import load_average
from brainchop_pipe.models.train.exporting import to_onnx
from brainchop_pipe.models.train.network import Segmenter, parameter_count

# A typical head's box.
_SHAPE = (176, 224, 208)

_PROGRAM = """
import json, resource, sys, time
import numpy as np
from brainchop_pipe.inference.session import open_session
content = open(sys.argv[1], "rb").read()
session = open_session(content, "compared", "cpu", int(sys.argv[2]))
shape = [int(n) for n in sys.argv[3:]]
axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape)]
radius = np.sqrt(sum(axis**2 for axis in axes))
volume = ((radius < 0.9) * 0.3 + (radius < 0.6) * 0.5).astype(np.float32)[None, None]
seconds = []
for _ in range(3):
    start = time.perf_counter()
    session.run(volume)
    seconds.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
print(json.dumps({"seconds": round(min(seconds), 2), "peak MB": round(peak)}))
"""


def compared(folder: Path, threads: int = 2) -> dict[str, object]:
    """Give a row of the comparison for a training's folder.

    Parameters
    ----------
    folder : Path
        With a checkpoint.
    threads : int
        With which the exported network is timed, in a process of its own, on a made head.
    """
    weights, settings, progress = load_average(folder)
    network = Segmenter(settings.network)
    network.load_state_dict(weights)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "network.onnx"
        path.write_bytes(to_onnx(network))
        command = [sys.executable, "-c", _PROGRAM, str(path), str(threads), *map(str, _SHAPE)]
        cost = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    best = progress.history[-1] if progress.history else {}
    return {
        "body": settings.network.body,
        "parameters": parameter_count(network),
        "steps": progress.step,
        "training minutes": round(progress.seconds / 60, 1),
        **{key: best[key] for key in ("mask", "WM", "GM", "CSF") if key in best},
        **cost,
    }
