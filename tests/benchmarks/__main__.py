"""How fast, against what the machine can do and against others: ``python -m tests.benchmarks``.

    python -m tests.benchmarks [--rounds N] [--models NAME...] [--parts machine stages networks commands]
        [--upstream VENV] [--torch PYTHON] [--json FILE]

Everything is measured in turns, round after round, so that a slow minute of the machine
hits all alike; the tables have medians. Networks and commands run in processes of their
own. `machine`: matrix products of numpy in float32, the limit. `stages`: what happens to
an image outside of networks, against nibabel and scipy. `networks`: each MeshNet on each
library that is installed, on the voxels that it sees of a head (the default's network:
``python -m tests.benchmarks.embedded brainchop_any --tables cost``). `commands`: `brainchop
segment`, file to files, against upstream's command line if its environment is given.
Needs the folder of real data (BRAINCHOP_SHARED), and quiet.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import cc3d
import nibabel as nib
import numpy as np
from nibabel.processing import conform as nibabel_conform
from scipy import ndimage
from scipy.spatial.transform import Rotation

from brainchop_pipe.bids.environment import environment_record
from brainchop_pipe.core.bias import correct_bias
from brainchop_pipe.core.components import largest_component
from brainchop_pipe.core.conform import conform, restore_labels, restore_probability
from brainchop_pipe.core.grid import Grid, Volume, conformed_grid, voxel_from_voxel
from brainchop_pipe.core.intensity import white_matter_level
from brainchop_pipe.core.tiles import head_box
from brainchop_pipe.images import read_image
from brainchop_pipe.inference.card_input import WholeVolume
from brainchop_pipe.inference.native_runner import pays_for
from brainchop_pipe.inference.session import available_devices
from brainchop_pipe.record import Clock
from brainchop_pipe.settings import DEFAULT_MODELS, Processing, available_cpus
from brainchop_pipe.steps import load_model, output_grid, run_model
from brainchop_pipe.zoo.catalog import shipped_models

from .layers import convolutions, gflop
from .processes import Cost, cost_of
from .quality import SHARED
from .upstream import upstream_cost, upstream_extrapolated, write_model

HEADS = SHARED / "data" / "heads"
ECOG = HEADS / "sub-ecog" / "anat" / "sub-ecog_T1w.nii.gz"
# Title → file, and by how many degrees its grid is turned about each axis.
IMAGES = {
    "1 mm, 256³": (ECOG, 0),
    "1 mm, 256³, turned": (ECOG, 10),
    "oblique, 2 mm": (HEADS / "sub-oblique" / "anat" / "sub-oblique_T1w.nii.gz", 0),
    "0.5 mm, 38 million voxels": (HEADS / "sub-uih" / "anat" / "sub-uih_T1w.nii.gz", 0),
}
REPOSITORY = Path(__file__).parents[2]

Row = dict[str, Any]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of the processors."""
    start, processors = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - start, time.process_time() - processors


def peak_gflops(rounds: int) -> float:
    """Matrix products of numpy, float32, 4096 x 4096: the best of some, in 10^9 operations a second."""
    one = np.random.default_rng(0).random((4096, 4096)).astype(np.float32)
    return 2 * 4096**3 / min(timed(lambda: one @ one)[0] for _ in range(rounds + 2)) / 1e9


def find_brain(conformed: Volume) -> np.ndarray:
    """Give a mask of the brain, by the fastest model."""
    processing = Processing(threads=available_cpus())
    prediction, _ = run_model((conformed,), load_model("mask_fast"), processing, None, Clock())
    return prediction.labels.voxels > 0


def stage_works(path: Path, degrees: float) -> dict[str, Callable[[], object]]:
    """What is to be timed for an image, by name."""
    image = read_image(path).volume
    affine = image.grid.affine.copy()
    affine[:3, :3] = Rotation.from_euler("xyz", [degrees] * 3, degrees=True).as_matrix() @ affine[:3, :3]
    image = Volume(image.voxels, Grid(image.grid.shape, affine))
    conformed = conform(image).volume
    target = conformed_grid(image.grid)
    matrix = voxel_from_voxel(image.grid, target)
    brain = find_brain(conformed)
    # Maps that look like those of a tissue model.
    tissues = Volume(
        (brain + np.digitize(ndimage.gaussian_filter(conformed.voxels, 1), (60, 110)) * brain).astype(
            np.uint8
        ),
        conformed.grid,
    )
    probability = Volume((conformed.voxels / 255 * brain).astype(np.float32), conformed.grid)
    original = output_grid(image.grid, "ras")
    even = correct_bias(conformed.voxels, brain)
    loaded = nib.Nifti1Image(image.voxels.astype(np.float32), image.grid.affine)
    return {
        "read": lambda: read_image(path),
        "conform": lambda: conform(image),
        "  scipy affine_transform": lambda: ndimage.affine_transform(
            image.voxels, matrix[:3, :3], matrix[:3, 3], target.shape, np.float32, order=1
        ),
        "  nibabel conform, linear": lambda: nibabel_conform(loaded, order=1),
        "restore labels": lambda: restore_labels(tissues, original),
        "restore a probability": lambda: restore_probability(probability, original),
        "largest component": lambda: largest_component(tissues.voxels),
        "  scipy label": lambda: ndimage.label(tissues.voxels, np.ones((3, 3, 3))),
        "bias field (N4)": lambda: correct_bias(conformed.voxels, brain),
        "white-matter level": lambda: white_matter_level(even[brain]),
        "  cc3d alone": lambda: cc3d.connected_components(tissues.voxels > 0),
    }


def stages(rounds: int) -> list[Row]:
    """Rows of all images and stages."""
    rows = []
    for title, (path, degrees) in IMAGES.items():
        works = stage_works(path, degrees)
        found = defaultdict(list)
        for _ in range(rounds):
            for name, work in works.items():
                found[name].append(timed(work))
        rows += [
            {"image": title, "stage": name}
            | dict(
                zip(
                    ("wall s", "CPU s"),
                    (round(statistics.median(c), 3) for c in zip(*costs, strict=True)),
                    strict=True,
                )
            )
            for name, costs in found.items()
        ]
    return rows


def meshnets() -> list[str]:
    """Name the models that upstream has too: chains of layers, whose work is that of each voxel."""
    return [name for name, model in shipped_models().items() if model.card.weights.format != "onnx"]


def seen_edges(name: str) -> tuple[int, ...]:
    """Edges of the box that a model sees of the head of 1 mm."""
    conformed = conform(read_image(ECOG).volume).volume
    crop = load_model(name).card.input.crop
    if crop is None:
        return conformed.grid.shape
    return tuple(s.stop - s.start for s in head_box(conformed.voxels, crop.threshold, crop.margin_voxels))


def networks(names: list[str], rounds: int, peak: float, torch: Path | None) -> list[Row]:
    """Rows of all models and libraries."""
    libraries = [(device, "float32") for device in available_devices() if device != "tensorrt"]
    if "openvino" in available_devices():
        libraries.append(("openvino", "bfloat16"))
    found: dict[tuple[str, str], list[Row]] = defaultdict(list)
    edges = {name: seen_edges(name) for name in names}
    for _ in range(rounds):
        for name in names:
            card = load_model(name).card
            size = "x".join(map(str, edges[name]))
            for device, precision in libraries:
                if not card.allows(precision) or (
                    device == "native" and not pays_for(load_model(name).content)
                ):
                    continue
                command = [
                    sys.executable,
                    "-m",
                    "tests.benchmarks.one_network",
                    name,
                    device,
                    precision,
                    size,
                ]
                found[name, f"{device} {precision}"].append(
                    json.loads(cost_of(command, memory=False).output.splitlines()[-1])
                )
            if torch is not None and isinstance(card.input.run, WholeVolume):
                layers = json.dumps([list(layer) for layer in convolutions(load_model(name).content)])
                command = [torch, REPOSITORY / "tests/benchmarks/torch_chain.py", layers, size]
                cost = cost_of(command)
                row = json.loads(cost.output.splitlines()[-1]) | {"memory_mb": cost.memory_mb}
                found[name, "PyTorch conv3d"].append(row)
    rows = []
    for (name, library), runs in found.items():
        # The first run of a process has its memory yet to get.
        first, later = ([run["wall_s"][0] for run in runs], [s for run in runs for s in run["wall_s"][1:]])
        seconds = statistics.median(later)
        work = gflop(load_model(name).content, int(np.prod(edges[name])))
        rows.append(
            {
                "model": name,
                "library": library,
                "voxels": " x ".join(map(str, edges[name])),
                "GFLOP": round(work),
                "first s": round(statistics.median(first), 2),
                "s": round(seconds, 2),
                "GFLOP/s": round(work / seconds),
                "of the peak": f"{work / seconds / peak:.0%}",
                "memory MB": round(max(run["memory_mb"] for run in runs)),
            }
        )
    return rows


def commands(names: list[str], rounds: int, upstream: Path | None, extrapolated: list[str]) -> list[Row]:
    """Rows of whole commands, file to files."""
    found: dict[tuple[str, str], list[Cost]] = defaultdict(list)
    memory: dict[tuple[str, str], float] = {}
    program = Path(sys.executable).parent / "brainchop"
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        runs: dict[tuple[str, str], Callable[[bool], Cost]] = {}
        for name in names:
            for prepare in ("none", "auto"):
                command = [program, "segment", ECOG, "--models", *name.split("+"), "--prepare", prepare]
                runs[name, f"ours, --prepare {prepare}"] = partial(_ours, command, folder)
            if upstream is None or name not in meshnets():
                continue
            if name in extrapolated:
                costs = upstream_extrapolated(upstream, name, ECOG, folder)
                key = name, "upstream (tinygrad), extrapolated from layers"
                found[key], memory[key] = [costs], costs.memory_mb
            else:
                model = write_model(name, folder / "upstream" / name)
                runs[name, "upstream (tinygrad)"] = partial(_upstream, upstream, model, folder)
        for key, run in runs.items():
            memory[key] = run(True).memory_mb
        for _ in range(rounds):
            for key, run in runs.items():
                found[key].append(run(False))
    return [
        {
            "model": name,
            "command": command,
            "wall s": round(statistics.median(cost.wall_s for cost in costs), 1),
            "CPU s": round(statistics.median(cost.cpu_s for cost in costs), 1),
            "memory MB": round(memory[name, command]),
        }
        for (name, command), costs in found.items()
    ]


def _ours(command: list[str | Path], folder: Path, memory: bool) -> Cost:
    with tempfile.TemporaryDirectory(dir=folder) as out:
        return cost_of([*command, "-o", out], memory=memory)


def _upstream(environment: Path, model: Path, folder: Path, memory: bool) -> Cost:
    return upstream_cost(environment, model, ECOG, folder, memory=memory)


def table(rows: list[Row]) -> str:
    """Write rows as a table of Markdown."""
    if not rows:
        return ""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = ("machine", "stages", "networks", "commands")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", metavar="NAME", choices=meshnets(), default=meshnets())
    parser.add_argument(
        "--commands-of",
        nargs="+",
        default=[*DEFAULT_MODELS, "tissue_fast", "subcortical", "mindgrab", "mindgrab+tissue"],
        help="models, or several at once with + between",
    )
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--upstream", type=Path, help="virtual environment with brainchop of PyPI")
    parser.add_argument(
        "--extrapolate",
        nargs="*",
        default=["subcortical", "mindgrab"],
        help="models of which upstream runs some layers alone: whole ones take it up to half an hour",
    )
    parser.add_argument("--torch", type=Path, help="python that has PyTorch")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    peak = peak_gflops(given.rounds)
    hardware = environment_record()
    machine = {
        "CPU": hardware["Hardware"]["CPU"],
        "processors": available_cpus(),
        "peak GFLOP/s": round(peak),
    }
    report: dict[str, Any] = {
        "machine": machine,
        "environment": hardware,
        "python": platform.python_version(),
    }
    sys.stdout.write(f"{machine}\n\n")
    works: dict[str, Callable[[], list[Row]]] = {
        "stages": lambda: stages(given.rounds),
        "networks": lambda: networks(given.models, given.rounds, peak, given.torch),
        "commands": lambda: commands(given.commands_of, given.rounds, given.upstream, given.extrapolate),
    }
    for part in [p for p in works if p in given.parts]:
        report[part] = works[part]()
        sys.stdout.write(table(report[part]) + "\n")
        sys.stdout.flush()
    if given.json:
        given.json.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
