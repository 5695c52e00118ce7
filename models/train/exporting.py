"""A trained network as one ONNX file, which refines only where the brain is."""

import io
import warnings
from typing import Any

import numpy as np
import onnx
import torch
from brainchop_pipe.models.train.network import SCORES, Segmenter
from onnx import TensorProto, compose, helper, numpy_helper
from torch import Tensor, nn

from brainchop_pipe.inference.onnx_file import sealed
from brainchop_pipe.inference.segmenter import (
    EPSILON,
    MARGIN,
    SEAL,
    SPACING,
    constants_of,
    name_in_training,
)

OPSET = 17
INPUT, OUTPUT, CORNER = "volume", "logits", "corner"
# Before the names of what is made of the brain's box at 2 mm.
_AROUND = "around/"

_SPATIAL = (2, 3, 4)
_SLABS = 6
# Voxels of 2 mm that a slab sees beyond its end: the reach of the convolutions at 1 mm, three.
_HALO = 2


class _Seen(nn.Module):
    """What a network sees at 2 mm, as a module that can be traced."""

    def __init__(self, network: Segmenter) -> None:
        super().__init__()
        self.network = network

    def forward(self, even: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.seen(even)


class _Around(_Seen):
    def forward(self, features: Tensor, coarse: Tensor) -> Tensor:  # type: ignore[override]
        return self.network.around(features, coarse)


class _Sharpened(_Seen):
    def forward(self, even: Tensor, around: Tensor) -> Tensor:  # type: ignore[override]
        return self.network.sharpened(even, around)


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

    def number(self, value: int) -> str:
        """Give a whole number of one element."""
        name = f"number/{value}"
        if name not in {constant.name for constant in self.constants}:
            self.constant(name, np.array([value], np.int64))
        return name

    def take_in(self, graph: Any) -> None:
        """Take over the nodes of another graph; its names must be others."""
        self.nodes.extend(graph.node)
        self.constants.extend(graph.initializer)


def to_onnx(network: Segmenter) -> bytes:
    """Give an ONNX file: ``volume`` (1, 1, I, J, K), edges multiples of 16, to scores of the brain's box.

    ``logits`` (1, 4, i, j, k), background's score 0, are those of the box that begins at
    the voxel ``corner`` (3,), int64; beyond it all is background. At 1 mm the network runs
    only within the box of the brain at 2 mm, in slabs one after the other: a fifth of the
    memory and half of the time. What is needed no more is given up on the way: all features
    of 2 mm but those of the box, and the evened image, which each slab makes again. The
    file is sealed: `inference.segmenter` reads the layers of it back.
    """
    network = network.to("cpu").float().eval()
    width = network.coarse.in_channels
    even, halved = torch.zeros(1, 1, 32, 32, 32), torch.zeros(1, width, 16, 16, 16)
    scores = halved[:, :SCORES]
    nodes = _Nodes()
    nodes.add("ReduceMean", [INPUT], "level/mean")
    nodes.add("Sub", [INPUT, "level/mean"], "level/centred")
    nodes.add("Mul", ["level/centred", _inverse_deviation(nodes, network.level.eps)], "even")
    nodes.take_in(_traced(_Seen(network), (even,), ["even"], ["features", "coarse"]).graph)
    low, high = _brain_box(nodes)
    axes = nodes.constant("box/axes", np.array(_SPATIAL, np.int64))
    for name in ("features", "coarse"):
        nodes.add("Slice", [name, low, high, axes], f"{_AROUND}{name}")
    around = _traced(_Around(network), (halved, scores), ["features", "coarse"], ["around"])
    nodes.take_in(compose.add_prefix(around, _AROUND).graph)
    parts = (even, network.around(halved, scores))
    sharpened = _traced(_Sharpened(network), parts, ["even", "around"], ["fine"])
    nodes.add("Concat", _refined_slabs(nodes, sharpened, low, high), OUTPUT, axis=_SPATIAL[0])
    nodes.add("Mul", [low, nodes.number(SPACING)], CORNER)
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [1, 1, "I", "J", "K"])]
    outputs = [
        helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [1, SCORES + 1, "i", "j", "k"]),
        helper.make_tensor_value_info(CORNER, TensorProto.INT64, [3]),
    ]
    graph = helper.make_graph(nodes.nodes, "segmenter", inputs, outputs, nodes.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return sealed(model.SerializeToString(deterministic=True), SEAL)


def weights_in(content: bytes) -> dict[str, Tensor]:
    """Give the weights in an ONNX file that `to_onnx` made, by their names in a `Segmenter`; else nothing."""
    weights = {}
    for key, constant in constants_of(onnx.load_from_string(content).graph).items():
        name = name_in_training(key)
        if name is not None:
            weights[name] = torch.from_numpy(np.array(numpy_helper.to_array(constant)))
    return weights


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


def _inverse_deviation(nodes: _Nodes, eps: float) -> str:
    """Add what the centred image is multiplied by, as an instance norm does."""
    nodes.add("Mul", ["level/centred", "level/centred"], "level/squares")
    nodes.add("ReduceMean", ["level/squares"], "level/variance")
    nodes.add("Add", ["level/variance", nodes.constant(EPSILON, np.float32(eps))], "level/above_zero")
    nodes.add("Sqrt", ["level/above_zero"], "level/deviation")
    return nodes.add("Reciprocal", ["level/deviation"], "level/inverse")


def _brain_box(nodes: _Nodes) -> tuple[str, str]:
    """Add nodes that find the box of the brain, in voxels of 2 mm: first, behind the last."""
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
    margin = nodes.constant("box/margin", np.array([MARGIN], np.int64))
    beyond = nodes.constant("box/beyond", np.array([MARGIN + 1], np.int64))
    nodes.add("Sub", [first, margin], "box/before")
    low = nodes.add("Max", ["box/before", nodes.constant("box/none", np.array([0], np.int64))], "box/low")
    nodes.add("Add", [last, beyond], "box/after")
    high = nodes.add("Min", ["box/after", shape], "box/high")
    return low, high


def _refined_slabs(nodes: _Nodes, sharpened: Any, low: str, high: str) -> list[str]:
    """Add the refinement of the box: in slabs one after the other, each with a halo on both sides.

    All are of one thickness, so that each takes the memory of the one before.
    """
    first = nodes.add("Slice", [low, *_numbers(nodes, "slab/first", 0, 1, 0)], "slab/low")
    last = nodes.add("Slice", [high, *_numbers(nodes, "slab/last", 0, 1, 0)], "slab/high")
    extent = nodes.add("Sub", [last, first], "slab/extent")
    rounded = nodes.add("Add", [extent, nodes.number(_SLABS - 1)], "slab/rounded")
    thinnest = nodes.add("Div", [rounded, nodes.number(_SLABS)], "slab/thinnest")
    with_halos = nodes.add("Add", [thinnest, nodes.number(2 * _HALO)], "slab/with_halos")
    thickness = nodes.add("Min", [with_halos, extent], "slab/thickness")
    furthest = nodes.add("Sub", [last, thickness], "slab/furthest")
    edges = [first]
    for slab in range(1, _SLABS):
        share = nodes.add("Mul", [extent, nodes.number(slab)], f"slab/{slab}/multiple")
        inside = nodes.add("Div", [share, nodes.number(_SLABS)], f"slab/{slab}/inside")
        edges.append(nodes.add("Add", [first, inside], f"slab/{slab}/edge"))
    edges.append(last)
    beyond = [
        nodes.add("Slice", [end, *_numbers(nodes, f"{end}/beyond", 1, 3, 0)], f"{end}/others")
        for end in (low, high)
    ]
    found: list[str] = []
    for slab in range(_SLABS):
        core = (edges[slab], edges[slab + 1])
        prefix = _slab_prefix(slab)
        above = nodes.add("Sub", [core[0], nodes.number(_HALO)], f"{prefix}above")
        not_before = nodes.add("Max", [above, first], f"{prefix}not_before")
        start = nodes.add("Min", [not_before, furthest], f"{prefix}start")
        if found:
            in_turn = _zero_after(nodes, found[-1], prefix)
            start = nodes.add("Add", [start, in_turn], f"{prefix}start_in_turn")
        stop = nodes.add("Add", [start, thickness], f"{prefix}stop")
        found.append(_slab(nodes, sharpened, prefix, core, (start, stop), beyond))
    return found


def _slab_prefix(slab: int) -> str:
    return f"slab/{slab}/"


def _slab(
    nodes: _Nodes,
    sharpened: Any,
    prefix: str,
    core: tuple[str, str],
    seen: tuple[str, str],
    others: list[str],
) -> str:
    """Add the refinement of a slab along the first axis, of which its core is kept."""
    low = nodes.add("Sub", [seen[0], "slab/low"], f"{prefix}first")
    high = nodes.add("Sub", [seen[1], "slab/low"], f"{prefix}end")
    along = nodes.constant(f"{prefix}along", np.array([_SPATIAL[0]], np.int64))
    nodes.add("Slice", [f"{_AROUND}around", low, high, along], f"{prefix}around")
    fine = []
    for number, (end, other) in enumerate(zip(seen, others, strict=True)):
        corner = nodes.add("Concat", [end, other], f"{prefix}end_{number}", axis=0)
        fine.append(nodes.add("Mul", [corner, nodes.number(SPACING)], f"{prefix}end_{number}_fine"))
    nodes.add("Slice", [INPUT, *fine, "box/axes"], f"{prefix}part")
    nodes.add("Sub", [f"{prefix}part", "level/mean"], f"{prefix}centred")
    nodes.add("Mul", [f"{prefix}centred", "level/inverse"], f"{prefix}even")
    nodes.take_in(compose.add_prefix(sharpened, prefix).graph)
    inner = []
    for end in core:
        distance = nodes.add("Sub", [end, seen[0]], f"{prefix}{end}/distance")
        inner.append(nodes.add("Mul", [distance, nodes.number(SPACING)], f"{prefix}{end}/inner"))
    scores = nodes.add("Slice", [f"{prefix}fine", *inner, along], f"{prefix}core")
    one = nodes.add("Slice", [scores, *_numbers(nodes, f"{prefix}one", 0, 1, 1)], f"{prefix}one")
    background = nodes.add("Sub", [one, one], f"{prefix}background")
    return nodes.add("Concat", [background, scores], f"{prefix}logits", axis=1)


def _zero_after(nodes: _Nodes, done: str, prefix: str) -> str:
    """Add a 0 that is not known before a slab is done with.

    onnxruntime orders nodes by itself, and would hold what all slabs need at once.
    """
    size = nodes.add("Shape", [done], f"{prefix}done", start=0, end=1)
    corner = nodes.add("Slice", [done, *_numbers(nodes, f"{prefix}corner", 0, 1, 4)], f"{prefix}corner/value")
    never = nodes.add("Less", [corner, corner], f"{prefix}never")
    count = nodes.add("Cast", [never], f"{prefix}count", to=TensorProto.INT64)
    total = nodes.add(
        "ReduceSum", [count, nodes.constant(f"{prefix}all", np.arange(5))], f"{prefix}total", keepdims=0
    )
    return nodes.add("Mul", [size, total], f"{prefix}zero")


def _numbers(nodes: _Nodes, name: str, start: int, stop: int, axis: int) -> list[str]:
    """Add where a Slice starts and stops, and its axis."""
    ends = {"starts": start, "ends": stop, "axes": axis}
    return [nodes.constant(f"{name}/{key}", np.array([value], np.int64)) for key, value in ends.items()]
