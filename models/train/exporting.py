"""A trained network as one ONNX file, which refines only where the brain is."""

import io
import warnings
from typing import Any, cast

import numpy as np
import onnx
import torch
from brainchop_pipe.models.train.network import SCORES, SPACING, Segmenter
from onnx import TensorProto, compose, helper, numpy_helper
from torch import Tensor, nn

OPSET = 17
INPUT, OUTPUT = "volume", "logits"

# Voxels of 2 mm around what the coarse scores call brain, so that refinement can still move its border.
_MARGIN = 3
# Score of each tissue, relative to background, where nothing is refined: a probability of 1e-9.
_SURELY_BACKGROUND = -20.0

_SPATIAL = (2, 3, 4)
_SLABS = 4
# Voxels of 2 mm that a slab sees beyond its end: the reach of the convolutions at 1 mm, three.
_HALO = 2


class _Body(nn.Module):
    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, volume: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor, Tensor], self.network(volume))


class _Refinement(_Body):
    def forward(self, even: Tensor, features: Tensor, coarse: Tensor) -> Tensor:  # type: ignore[override]
        return self.network.refined(even, features, coarse)


class _Nodes:
    """A graph that grows."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: list[str], name: str, **settings: object) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [name], name=f"node/{name}", **settings))
        return name

    def constant(self, name: str, values: object) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def take_in(self, graph: Any) -> None:
        """Take over the nodes of another graph; its names must be others."""
        self.nodes.extend(graph.node)
        self.constants.extend(graph.initializer)


def to_onnx(network: Segmenter) -> bytes:
    """Give an ONNX file: ``volume`` (1, 1, I, J, K) to ``logits`` (1, 4, I, J, K), edges multiples of 16.

    Background has the score 0. At 1 mm the network runs only within the box of the brain
    at 2 mm, in slabs one after the other: a fifth of the memory and half of the time.
    """
    network = network.to("cpu").float().eval()
    width = network.coarse.in_channels
    volume, halved = torch.zeros(1, 1, 32, 32, 32), torch.zeros(1, width, 16, 16, 16)
    body = _traced(_Body(network), (volume,), [INPUT], ["even", "features", "coarse"])
    parts = (volume, halved, halved[:, :SCORES])
    refinement = _traced(_Refinement(network), parts, ["even", "features", "coarse"], ["fine"])
    nodes = _Nodes()
    nodes.take_in(body.graph)
    low, high, size = _brain_box(nodes)
    found = _refined_box(nodes, refinement, low, high)
    _whole(nodes, found, low, high, size)
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 1, "I", "J", "K"])]
    outputs = [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, SCORES + 1, "I", "J", "K"])]
    graph = helper.make_graph(nodes.nodes, "segmenter", inputs, outputs, nodes.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return cast(bytes, model.SerializeToString(deterministic=True))


def _traced(module: nn.Module, inputs: tuple[Tensor, ...], names: list[str], outputs: list[str]) -> Any:
    buffer = io.BytesIO()
    axes = {name: {axis: f"{name}_{axis}" for axis in _SPATIAL} for name in (*names, *outputs)}
    with warnings.catch_warnings():
        # The exporter that traces is called old; the new one needs a package more, for the same graph.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            inputs,
            buffer,
            input_names=names,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def _brain_box(nodes: _Nodes) -> tuple[str, str, str]:
    """Add nodes that find the box of the brain, in voxels of 2 mm: first, behind the last, size of all."""
    nodes.add("ReduceMax", ["coarse"], "box/score", axes=[1], keepdims=1)
    nodes.add("Greater", ["box/score", nodes.constant("box/zero", np.float32(0))], "box/brain")
    nodes.add("Cast", ["box/brain"], "box/inside", to=TensorProto.FLOAT)
    firsts, lasts = [], []
    for axis in _SPATIAL:
        others = [a for a in range(5) if a != axis]
        along = nodes.add("ReduceMax", ["box/inside"], f"box/along_{axis}", axes=others, keepdims=0)
        # Where there is no brain at all both find the end that makes the box the whole volume.
        firsts.append(nodes.add("ArgMax", [along], f"box/first_{axis}", axis=0, keepdims=1))
        lasts.append(
            nodes.add("ArgMax", [along], f"box/last_{axis}", axis=0, keepdims=1, select_last_index=1)
        )
    first = nodes.add("Concat", firsts, "box/firsts", axis=0)
    last = nodes.add("Concat", lasts, "box/lasts", axis=0)
    shape = nodes.add("Shape", ["coarse"], "box/shape", start=2)
    margin = nodes.constant("box/margin", np.array([_MARGIN], np.int64))
    beyond = nodes.constant("box/beyond", np.array([_MARGIN + 1], np.int64))
    nodes.add("Sub", [first, margin], "box/before")
    low = nodes.add("Max", ["box/before", nodes.constant("box/none", np.array([0], np.int64))], "box/low")
    nodes.add("Add", [last, beyond], "box/after")
    high = nodes.add("Min", ["box/after", shape], "box/high")
    return low, high, shape


def _refined_box(nodes: _Nodes, refinement: Any, low: str, high: str) -> str:
    """Add the refinement of the box."""
    two = nodes.constant("box/two", np.array([SPACING], np.int64))
    axes = nodes.constant("box/axes", np.array(_SPATIAL, np.int64))
    fine = [nodes.add("Mul", [end, two], f"{end}_fine") for end in (low, high)]
    for name, ends in (("even", fine), ("features", [low, high]), ("coarse", [low, high])):
        nodes.add("Slice", [name, *ends, axes], f"refine/{name}")
    nodes.take_in(compose.add_prefix(refinement, "refine/").graph)
    return "refine/fine"


def _whole(nodes: _Nodes, found: str, low: str, high: str, size: str) -> None:
    """Add nodes that put the box back into the volume, and the background's score before the tissues'."""
    none = nodes.constant("whole/none", np.array([0, 0], np.int64))
    two = nodes.constant("whole/two", np.array([SPACING], np.int64))
    nodes.add("Mul", [low, two], "whole/before")
    nodes.add("Sub", [size, high], "whole/left")
    nodes.add("Mul", ["whole/left", two], "whole/after")
    nodes.add("Concat", [none, "whole/before", none, "whole/after"], "whole/pads", axis=0)
    outside = nodes.constant("whole/outside", np.float32(_SURELY_BACKGROUND))
    nodes.add("Pad", [found, "whole/pads", outside], "whole/tissues")
    nodes.add("Shape", [INPUT], "whole/shape")
    nodes.add("ConstantOfShape", ["whole/shape"], "whole/background")
    nodes.add("Concat", ["whole/background", "whole/tissues"], OUTPUT, axis=1)
