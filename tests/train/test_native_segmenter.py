"""Networks of training run by code of our own as they do by onnxruntime."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch, the extra [train]")

from brainchop_pipe.models.train.exporting import to_onnx, weights_in
from brainchop_pipe.models.train.network import Segmenter
from brainchop_pipe.models.train.settings import Network

from brainchop_pipe.errors import ModelError
from brainchop_pipe.inference.native_layers import NativeThreads
from brainchop_pipe.inference.native_runner import NativeRunner, pays_for
from brainchop_pipe.inference.native_segmenter import _Refinement
from brainchop_pipe.inference.onnx_file import sealed
from brainchop_pipe.inference.onnxruntime_runner import CPU, OnnxRuntimeRunner
from brainchop_pipe.inference.segmenter import SEAL, segmenter_of
from conftest import require_native
from networks import mesh_net

require_native()

BODIES = {
    "unet": Network(widths=(4, 6, 10), refining=3),
    "meshnet": Network(body="meshnet", widths=(5,), dilations=(1, 2, 4, 1), refining=8),
}


def network(name: str, offset: float = 0) -> Segmenter:
    """A network of random weights; the greater the offset, the more brain it finds."""
    torch.manual_seed(1)
    made = Segmenter(BODIES[name])
    with torch.no_grad():
        for weights in made.parameters():
            weights += torch.randn_like(weights) * 0.2
        made.coarse.bias += offset
    return made


def image() -> np.ndarray:
    """A bright ball in a dark room, so that scores differ over the image."""
    places = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (64, 48, 80)), indexing="ij"))
    ball = (np.linalg.norm(places, axis=0) < 0.4).astype(np.float32)
    return (ball + np.random.default_rng(0).normal(0.3, 0.1, ball.shape).astype(np.float32))[None, None]


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("offset", [-100, -3, -1.5, 100])
def test_scores_and_corner_are_those_of_onnxruntime(name, offset):
    content = to_onnx(network(name, offset))
    expected, corner = OnnxRuntimeRunner(content, CPU, 1, strict=False).run(image())
    for threads in (1, 3):
        found, first = NativeRunner(content, threads).run(image())
        assert first.tolist() == corner.tolist()
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_equal_weights_of_which_the_exporter_keeps_one_are_found():
    made = Segmenter(BODIES["unet"])
    with torch.no_grad():
        for name, weights in made.named_parameters():
            if name.endswith("bias"):
                weights.fill_(0.3)
        made.refine[1].weight.copy_(made.refine[3].weight)
    content = to_onnx(made)
    assert weights_in(content).keys() == made.state_dict().keys()
    expected, _ = OnnxRuntimeRunner(content, CPU, 1, strict=False).run(image())
    found, _ = NativeRunner(content, 2).run(image())
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_sealed_file_of_another_network_is_refused():
    with pytest.raises(ModelError, match=r"has no stem\.0\.weight; choose another device"):
        NativeRunner(sealed(mesh_net((1,)), SEAL), 1)


def test_edges_that_cannot_be_halved_are_refused():
    with pytest.raises(ModelError, match="must be a multiple of 2"):
        NativeRunner(to_onnx(network("unet")), 1).run(np.ascontiguousarray(image()[..., :78]))


def test_image_far_from_zero_keeps_its_contrast():
    content, far = to_onnx(network("unet", -3)), image() + 3000
    expected, corner = OnnxRuntimeRunner(content, CPU, 1, strict=False).run(image())
    found, first = NativeRunner(content, 1).run(far)
    assert first.tolist() == corner.tolist()
    np.testing.assert_allclose(found, expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("depth", [2, 4, 6, 10, 16, 22, 26])
def test_planes_at_a_time_do_not_change_scores(depth):
    """Windows of 8, 24 and 64 planes, over boxes that they fit and do not fit."""
    unet = segmenter_of(to_onnx(network("unet")))
    part = image()[0, 0, :depth]
    random = np.random.default_rng(depth).normal(size=(6, depth // 2, 24, 40)).astype(np.float32)
    found = []
    for threads in (1, 3, 8):
        scores = np.zeros((3, *part.shape), np.float32)
        with NativeThreads(threads) as native:
            context, coarse = native.rows_of(random[:3]), native.rows_of(random[3:])
            _Refinement(unet).run(native, part.__getitem__, context, coarse, scores)
        found.append(scores)
    whole = torch.from_numpy(random)[None]
    with torch.no_grad():
        expected = network("unet").eval().sharpened(torch.from_numpy(part)[None, None], whole)[0].numpy()
    for scores in found:
        np.testing.assert_allclose(scores, expected, atol=1e-5 * np.abs(expected).max())


def test_file_that_was_changed_since_is_left_to_libraries():
    content = to_onnx(network("unet"))
    assert pays_for(content)
    assert segmenter_of(content) is not None
    place = len(content) // 2
    changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    assert not pays_for(changed)
    assert not pays_for(sealed(content, "another writer"))
