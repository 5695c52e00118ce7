"""Networks of `models.train` by code of our own."""

from collections.abc import Callable, Sequence

import numpy as np

from brainchop_pipe.inference.chain import Layer
from brainchop_pipe.inference.native_layers import FOUR, NativeThreads, PackedLayer, Rows
from brainchop_pipe.inference.segmenter import MARGIN, SPACING, Segmenter, UNet

# A layer sees one plane beyond those that it makes. It lags by two, so that what is new begins with a
# voxel of 2 mm.
_LAG = SPACING
# Planes before the new ones: two that are never looked at, so that a four begins with what is made,
# and four that are seen for the second time.
_OLD = FOUR + _LAG
# Fours of planes at a time, for each thread: with two of them threads wait less for one another. More
# than the second number together take memory, some 100 MB for eight; further threads have nothing to do.
_FOURS_OF_EACH, _MOST_FOURS = 2, 16


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
            self._refinement.run(
                native, lambda planes: (part[planes] - mean) * inverse, context, coarse, scores[1:]
            )
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
    """Layers at 1 mm, a few planes at a time: what one makes is in the cache when the next sees it."""

    def __init__(self, network: Segmenter) -> None:
        self._detail, self._fine = PackedLayer(network.detail), PackedLayer(network.fine)
        self._layers = [PackedLayer(layer) for layer in network.refine]

    def run(
        self,
        native: NativeThreads,
        even: Callable[[slice], np.ndarray],
        context: Rows,
        coarse: Rows,
        scores: np.ndarray,
    ) -> None:
        """Write scores at 1 mm, without the background's; `even` gives planes of the levelled image."""
        channels = [1, self._detail.outputs, *(layer.outputs for layer in self._layers)]
        image, *made = (_Window(native, each, scores.shape[1:]) for each in channels)
        for first in range(0, scores.shape[1] + _LAG * len(made), image.count):
            image.move_to(first)
            image.new.inside[0] = even(image.planes)
            made[0].follow(image, native, self._detail)
            native.add_repeated(_under(context, made[0]), made[0].new, "relu")
            for layer, before, after in zip(self._layers, made, made[1:], strict=False):
                after.follow(before, native, layer)
            here = native.apply(self._fine, made[-1].new)
            native.add_repeated(_under(coarse, made[-1]), here)
            scores[:, made[-1].planes] = here.inside


class _Window:
    """The planes of a volume that are looked at, as it is made from its first to its last one.

    There is room for `count` new planes, behind those that a layer sees for the second
    time. What a layer makes lags by two planes, as the levels of 2 mm need.

    Parameters
    ----------
    native : NativeThreads
    channels : int
    shape : (int, int, int)
        Of the volume; its depth is even.
    """

    def __init__(self, native: NativeThreads, channels: int, shape: Sequence[int]) -> None:
        self.count = FOUR * min(_FOURS_OF_EACH * native.count, _MOST_FOURS)
        # In the order of planes, so that they move in one piece.
        by_plane = native.rows(_OLD + self.count + _LAG, (channels, *shape[1:]))
        self._rows = Rows(by_plane.voxels.swapaxes(0, 1), by_plane.width)
        self._depth = shape[0]
        self._first, self.planes = 0, slice(0, 0)

    def move_to(self, first: int) -> None:
        """Let the new planes be those from `first` on; the last ones before are kept."""
        self._first = first
        self.planes = slice(max(first, 0), max(min(first + self.count, self._depth), first, 0))
        kept = self._rows.voxels[:, self.count + _LAG : self.count + _OLD]
        self._rows.voxels[:, _LAG:_OLD] = kept

    def follow(self, before: "_Window", native: NativeThreads, layer: PackedLayer) -> None:
        """Make the planes that a layer can make now."""
        self.move_to(before._first - _LAG)
        # Beyond the volume's end there are no planes, and each side of the layer has as many.
        behind = min(_OLD + self.count, before._index(self._depth))
        seen, made = before._rows.planes(0, behind), self._rows.planes(_LAG, _LAG + behind)
        native.apply(layer, seen, made, (FOUR, min(FOUR + self.count, behind)))
        # Before its begin all is 0.
        self._rows.voxels[:, : max(self._index(0), 0)] = 0

    @property
    def new(self) -> Rows:
        """The new planes, as far as the volume goes."""
        return self._rows.planes(self._index(self.planes.start), self._index(self.planes.stop))

    def _index(self, plane: int) -> int:
        return plane - self._first + _OLD


def _under(coarse: Rows, window: _Window) -> Rows:
    """Give the planes of 2 mm that cover a window's new ones."""
    return coarse.planes(window.planes.start // SPACING, window.planes.stop // SPACING)


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
