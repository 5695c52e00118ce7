"""Networks of `models.train` by code of our own."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from brainchop_pipe.inference.chain import Layer
from brainchop_pipe.inference.native_layers import NativeThreads, PackedLayer, Rows
from brainchop_pipe.inference.segmenter import HALO, MARGIN, SPACING, Segmenter, UNet

# A layer of the refinement takes about so many bytes at a time.
_SLAB_BYTES = 48 << 20


class NativeSegmenter:
    """A network that is ready to run.

    Parameters
    ----------
    network : Segmenter
    threads : int
    """

    def __init__(self, network: Segmenter, threads: int) -> None:
        self._network = network
        self._threads = threads
        body = network.body
        self._body = _PackedUNet(body) if isinstance(body, UNet) else [PackedLayer(layer) for layer in body]
        self._coarse, self._context = PackedLayer(network.coarse), PackedLayer(network.context)
        self._refinement = _Refinement(network)

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Give scores of the brain's box, (1, 4, i, j, k), and the voxel where it begins, (3,).

        As the exported graph does of `batch`, float32, (1, 1, I, J, K), edges multiples of 16.
        """
        image = batch[0, 0]
        mean, inverse = _level(image, self._network.epsilon)
        with NativeThreads(self._threads) as native:
            features = self._run_body(native, batch[0], mean, inverse)
            coarse = native.apply(self._coarse, features)
            box = _brain_box(coarse.inside)
            within = native.rows_of(features.inside[(slice(None), *box)])
            del features
            context = native.apply(self._context, within)
            del within
            coarse = native.rows_of(coarse.inside[(slice(None), *box)])
            part = image[tuple(slice(SPACING * s.start, SPACING * s.stop) for s in box)]
            scores = np.zeros((1 + coarse.voxels.shape[0], *part.shape), np.float32)
            for core, seen in _slabs(coarse.shape, self._refinement.channels):
                even = native.rows_of(((part[_fine(seen)] - mean) * inverse)[np.newaxis])
                found = self._refinement.run(native, even, _planes(context, seen), _planes(coarse, seen))
                inner = slice(core.start - seen.start, core.stop - seen.start)
                scores[1:, _fine(core)] = found.inside[:, _fine(inner)]
        return [scores[np.newaxis], np.array([SPACING * s.start for s in box], np.int64)]

    def _run_body(self, native: NativeThreads, image: np.ndarray, mean: float, inverse: float) -> Rows:
        stem = PackedLayer(_of_even_image(self._network.stem, mean, inverse))
        # Two taps read no further than a row's width, so that it needs no room behind.
        found = native.apply(stem, Rows(image, image.shape[-1]))
        if isinstance(self._body, _PackedUNet):
            return self._body.run(native, found)
        spare = native.rows(len(found.voxels), found.shape)
        for layer in self._body:
            found, spare = native.apply(layer, found, spare), found
        return found


class _PackedUNet:
    def __init__(self, body: UNet) -> None:
        self._first = PackedLayer(body.first)
        self._down = [[PackedLayer(layer) for layer in step] for step in body.down]
        self._up = [
            (PackedLayer(across), PackedLayer(up)) for across, up in zip(body.across, body.up, strict=True)
        ]

    def run(self, native: NativeThreads, features: Rows) -> Rows:
        """Give features of the same shape; what is given is overwritten."""
        levels = [native.apply(self._first, features)]
        for step in self._down:
            found = levels[-1]
            for layer in step:
                found = native.apply(layer, found)
            levels.append(found)
        found = levels.pop()
        for across, up in reversed(self._up):
            fine = levels.pop()
            native.add_repeated(native.apply(across, found), fine)
            found = native.apply(up, fine, None if levels else features)
        return found


class _Refinement:
    def __init__(self, network: Segmenter) -> None:
        self._detail, self._fine = PackedLayer(network.detail), PackedLayer(network.fine)
        self._layers = [PackedLayer(layer) for layer in network.refine]
        self.channels = self._detail.outputs

    def run(self, native: NativeThreads, even: Rows, context: Rows, coarse: Rows) -> Rows:
        """Give scores at 1 mm, without the background's."""
        found = native.apply(self._detail, even)
        native.add_repeated(context, found, "relu")
        spare = native.rows(self.channels, found.shape)
        for layer in self._layers:
            found, spare = native.apply(layer, found, spare), found
        scores = native.apply(self._fine, found)
        native.add_repeated(coarse, scores)
        return scores


def _level(image: np.ndarray, epsilon: float) -> tuple[float, float]:
    """Give an image's mean, and one through its deviation."""
    mean = float(image.mean(dtype=np.float64))
    centred = (plane - np.float32(mean) for plane in image)
    variance = sum(float(np.vdot(plane, plane)) for plane in centred) / image.size
    return mean, (variance + epsilon) ** -0.5


def _of_even_image(layer: Layer, mean: float, inverse: float) -> Layer:
    """Give a layer that makes of an image what another makes of the levelled one; it reads nothing beyond."""
    sums = layer.weights.sum(axis=(1, 2, 3, 4), dtype=np.float64)
    return layer._replace(
        weights=layer.weights * np.float32(inverse),
        bias=(layer.bias - mean * inverse * sums).astype(np.float32),
    )


def _brain_box(coarse: np.ndarray) -> tuple[slice, ...]:
    """Give the box of the brain, in voxels of 2 mm; where there is none, all."""
    inside = coarse.max(axis=0) > 0
    box = []
    for axis, length in enumerate(inside.shape):
        others = tuple(a for a in range(3) if a != axis)
        along = np.flatnonzero(inside.any(axis=others))
        first, last = (along[0], along[-1]) if along.size else (0, length - 1)
        box.append(slice(max(int(first) - MARGIN, 0), min(int(last) + MARGIN + 1, length)))
    return tuple(box)


def _slabs(shape: tuple[int, ...], channels: int) -> Iterator[tuple[slice, slice]]:
    """Cut a box along its first axis: what is kept of each slab, and what it sees, in voxels of 2 mm."""
    depth = shape[0]
    count = min(-(-4 * channels * SPACING**3 * int(np.prod(shape)) // _SLAB_BYTES), depth)
    edges = [depth * slab // count for slab in range(count + 1)]
    for low, high in pairwise(edges):
        yield slice(low, high), slice(max(low - HALO, 0), min(high + HALO, depth))


def _fine(planes: slice) -> slice:
    return slice(SPACING * planes.start, SPACING * planes.stop)


def _planes(rows: Rows, planes: slice) -> Rows:
    return Rows(np.ascontiguousarray(rows.voxels[:, planes]), rows.width)
