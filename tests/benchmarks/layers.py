"""What a network computes, read from its ONNX file."""

from typing import NamedTuple

import onnx


class Convolution(NamedTuple):
    """Sizes of a convolution whose kernel is a cube."""

    out: int
    channels: int
    kernel: int
    dilation: int

    @property
    def flop(self) -> int:
        """Operations for each voxel: a multiplication and an addition are two."""
        return 2 * self.out * self.channels * self.kernel**3


def convolutions(content: bytes) -> list[Convolution]:
    """Give the convolutions of a network in their order."""
    graph = onnx.load_from_string(content).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    found = []
    for node in graph.node:
        if node.op_type == "Conv":
            out, channels, kernel = shapes[node.input[1]][:3]
            dilation = next((next(iter(a.ints)) for a in node.attribute if a.name == "dilations"), 1)
            found.append(Convolution(out, channels, kernel, dilation))
    return found


def gflop(content: bytes, voxels: int) -> float:
    """Give the operations of all convolutions over a volume, in 10^9."""
    return sum(layer.flop for layer in convolutions(content)) * voxels / 1e9
