"""The command line of brainchop (PyPI, tinygrad), with the same weights, for comparison.

It is installed in an environment of its own (``pip install brainchop``), whose folder is
given. Its weights are not fetched: they are written from our ONNX files into a folder as
its option ``--custom`` takes it. Its first-run tuning is declined, as its default is.
"""

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file

from brainchop_pipe.steps import load_model

from .layers import convolutions
from .processes import Cost, cost_of


def upstream_cost(environment: Path, model: Path, image: Path, folder: Path, *, memory: bool = True) -> Cost:
    """Segment an image, file to file.

    Parameters
    ----------
    environment : Path
        Virtual environment with brainchop.
    model : Path
        As `write_model` makes it.
    image : Path
    folder : Path
        For its output and its home.
    memory : bool
        See `cost_of`.
    """
    cache = folder / "home" / ".cache" / "brainchop"
    cache.mkdir(parents=True, exist_ok=True)
    # Without this file it asks the network.
    (cache / "models.json").write_text("{}")
    programs = f"{environment / 'bin'}:/usr/bin:/bin"
    variables = {
        "HOME": str(folder / "home"),
        "PATH": programs,
        "XDG_CACHE_HOME": str(folder / "home/.cache"),
    }
    command = [environment / "bin" / "brainchop", image, "--custom", model, "--no-optimize"]
    return cost_of([*command, "-o", folder / "upstream.nii.gz"], variables, memory=memory)


def upstream_extrapolated(environment: Path, name: str, image: Path, folder: Path) -> Cost:
    """Tell what a network would cost that would take too long.

    Its first two and its first four hidden layers are run, each with the last layer; the
    difference is what two layers cost, and the others are taken to cost the same.
    Memory is that of the longer run.
    """
    few, more = (
        upstream_cost(environment, write_model(name, folder / f"{name} {kept}", kept), image, folder)
        for kept in (2, 4)
    )
    missing = len(convolutions(load_model(name).content)) - 1 - 4
    wall, cpu = (
        last + missing * (last - first) / 2
        for first, last in ((few.wall_s, more.wall_s), (few.cpu_s, more.cpu_s))
    )
    return Cost(wall, cpu, more.memory_mb, "")


def write_model(name: str, folder: Path, hidden: int | None = None) -> Path:
    """Write a model's weights and settings as upstream's command line reads them.

    Parameters
    ----------
    name : str
    folder : Path
        Made here.
    hidden : int or None
        Leave out the hidden layers after so many.
    """
    content = load_model(name).content
    graph = onnx.load_from_string(content).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type == "Conv"]
    kinds = {node.op_type for node in graph.node}
    has_norm = "Gelu" in kinds
    both = list(zip(nodes, convolutions(content), strict=True))
    if hidden is not None:
        both = [*both[:hidden], both[-1]]
    weights = {}
    layers = []
    for number, (node, layer) in enumerate(both):
        # Each is followed by its norm, if there are any, and its activation.
        key = f"model.{number * (3 if has_norm else 2)}"
        weights[f"{key}.weight"] = np.ascontiguousarray(tensors[node.input[1]])
        if len(node.input) > 2:
            weights[f"{key}.bias"] = np.ascontiguousarray(tensors[node.input[2]])
        layers.append(
            {
                "in_channels": layer.channels,
                "out_channels": layer.out,
                "kernel_size": layer.kernel,
                "padding": layer.dilation * (layer.kernel // 2),
                "stride": 1,
                "dilation": layer.dilation,
                "bias": len(node.input) > 2,
            }
        )
    settings = {"bnorm": has_norm, "gelu": "Gelu" in kinds, "elu": "Elu" in kinds, "dropout_p": 0}
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(settings | {"layers": layers}))
    save_file(weights, folder / "model.pth")
    return folder
