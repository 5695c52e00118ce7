"""Fit a network, in as many pieces as it takes."""

import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from brainchop_pipe.models.train.checkpoint import Average, Progress, load_checkpoint, save_checkpoint
from brainchop_pipe.models.train.evaluation import evaluate
from brainchop_pipe.models.train.exporting import weights_in
from brainchop_pipe.models.train.loss import disagreement, one_hot, shares
from brainchop_pipe.models.train.making import Example
from brainchop_pipe.models.train.network import Segmenter
from brainchop_pipe.models.train.settings import Fitting, Settings
from brainchop_pipe.models.train.sources import CHECKING, TRAINING, Examples, Heads
from torch import Tensor
from torch.utils.data import DataLoader

from brainchop_pipe.errors import UsageError
from brainchop_pipe.inference.segmenter import SPACING
from brainchop_pipe.zoo.catalog import find_model
from brainchop_pipe.zoo.fetch import ModelStore

Show = Callable[[dict[str, float]], None]

logger = logging.getLogger(__name__)

_LARGEST_GRADIENT = 1.0

# Keep the choice of the part to refine apart from the making of images.
_PATCHES = 2


class Training:
    """A network on its way.

    Parameters
    ----------
    settings : Settings
    folder : Path
        Gets the checkpoint; where one is there, training goes on from it.

    Raises
    ------
    UsageError
        The device is not there, or the checkpoint, or the model to start with, is of another network.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        fitting = settings.fitting
        if fitting.device == "cuda" and not torch.cuda.is_available():
            raise UsageError(
                "the configuration wants a GPU (fitting.device), and PyTorch finds none; "
                'set device = "cpu" and workers = 1'
            )
        torch.manual_seed(fitting.seed)
        if fitting.threads:
            torch.set_num_threads(fitting.threads)
        self.settings, self.folder = settings, folder
        network = begun_with(fitting.start, Segmenter(settings.network))
        self.network = network.to(fitting.device, memory_format=torch.channels_last_3d)
        self.average = Average(self.network, fitting.average)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), fitting.learning_rate, weight_decay=fitting.weight_decay
        )
        self._is_short = computes_in_bfloat16(fitting)
        self.progress: Progress = load_checkpoint(folder, self.network, self.average, self.optimizer)
        self._stopping = False

    def save(self) -> None:
        """Write the checkpoint."""
        save_checkpoint(self.folder, self.settings, self.network, self.average, self.optimizer, self.progress)

    def step(self, example: Example) -> Tensor:
        """Fit to one image; give the loss before, which nobody has waited for yet."""
        fitting, number = self.settings.fitting, self.progress.step
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(number, fitting)
        image, tissues = example.image.to(fitting.device), example.tissues.to(fitting.device)
        box = choose_patch(tissues, fitting.patch, np.random.default_rng((fitting.seed, _PATCHES, number)))
        with torch.autocast(fitting.device, torch.bfloat16, enabled=self._is_short):
            even, features, coarse = self.network(image[None, None])
            parts = [_cut(v, box, s) for v, s in ((even, 1), (features, SPACING), (coarse, SPACING))]
            fine = self.network.refined(*parts)
        part = tissues[tuple(box)]
        loss = disagreement(coarse, shares(tissues)) + disagreement(fine, one_hot(part))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), _LARGEST_GRADIENT)
        self.optimizer.step()
        self.average.update(self.network, number)
        self.progress.step += 1
        return loss.detach()

    def averaged(self) -> Segmenter:
        """Give a network with the averaged weights."""
        network = Segmenter(self.settings.network)
        network.to(self.settings.fitting.device)
        network.load_state_dict(self.average.weights)
        return network

    def run(self, seen: Heads, kept: Heads, show: Show) -> None:
        """Go on to the last step; SIGTERM and Ctrl-C end it with a checkpoint.

        Parameters
        ----------
        seen, kept : Heads
            What is trained on, and what is left out to see how training goes.
        show : function of a dict
            Gets each line of the history.
        """
        fitting = self.settings.fitting
        loader = _loader(seen, self.settings, self.progress.step)
        looks = Examples(kept, self.settings.making, 0.5, (fitting.seed, CHECKING), fitting.check_images)
        before = signal.signal(signal.SIGTERM, self._stop)
        try:
            self._follow(loader, list(looks), show)
        except KeyboardInterrupt:
            self._stopping = True
        finally:
            signal.signal(signal.SIGTERM, before)
            self.save()

    def _follow(self, loader: "DataLoader[Example]", looks: list[Example], show: Show) -> None:
        fitting, losses = self.settings.fitting, list[Tensor]()
        started = saved = time.monotonic()
        earlier = self.progress.seconds
        for example in loader:
            losses.append(self.step(example))
            self.progress.seconds = earlier + time.monotonic() - started
            if self.progress.step % fitting.check_every == 0 or self.progress.step == fitting.steps:
                found = evaluate(self.averaged(), looks)
                line = {"step": self.progress.step, "minutes": round(self.progress.seconds / 60, 1)}
                line |= {"loss": round(float(torch.stack(losses).mean()), 4)} | found
                self.progress.history.append(line)
                losses.clear()
                show(line)
            if time.monotonic() - saved > 60 * fitting.checkpoint_minutes:
                self.save()
                saved = time.monotonic()
            if self._stopping:
                logger.info("stopped after step %d", self.progress.step)
                return

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True


def computes_in_bfloat16(fitting: Fitting) -> bool:
    """Tell whether convolutions compute in bfloat16: where asked to, or left free and the device has it."""
    if fitting.precision != "auto":
        return fitting.precision == "bfloat16"
    # PyTorch's own question, before it hands bfloat16 to oneDNN.
    return fitting.device == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def begun_with(start: str, network: Segmenter) -> Segmenter:
    """Put the weights of an exported model into a network; without a name it stays as it is.

    Raises
    ------
    UsageError
        `export` did not write that model, or it is another network.
    """
    if not start:
        return network
    try:
        network.load_state_dict(weights_in(ModelStore.from_environment().load(find_model(start))))
    except RuntimeError as error:
        raise UsageError(
            f"the training is to start with {start}, which is no export of the network that the "
            f"configuration describes; set [network] as it was in that model's training: {error}"
        ) from error
    return network


def learning_rate(step: int, fitting: Fitting) -> float:
    """Give the rate of a step: it rises, stays, and falls to 0 at the end."""
    rising = (step + 1) / max(fitting.warm_up, 1)
    falling = (fitting.steps - step) / max(fitting.decay, 1)
    return fitting.learning_rate * max(min(1.0, rising, falling), 0.0)


def choose_patch(tissues: Tensor, edge: int, rng: np.random.Generator) -> tuple[slice, ...]:
    """Choose the cube that is refined: around a voxel of brain, if there is one; even corners.

    Parameters
    ----------
    tissues : uint8, shape (I, J, K)
    edge : int
        Even. The cube is smaller where the volume is.
    rng : numpy.random.Generator
    """
    coarse = tissues.cpu().numpy()[::8, ::8, ::8] > 0
    points = np.argwhere(coarse if coarse.any() else np.ones_like(coarse)) * 8
    center = points[rng.integers(len(points))]
    corner = [
        int(np.clip(c - edge // 2, 0, max(n - edge, 0))) // SPACING * SPACING
        for c, n in zip(center, tissues.shape, strict=True)
    ]
    return tuple(slice(c, min(c + edge, n)) for c, n in zip(corner, tissues.shape, strict=True))


def _cut(volume: Tensor, box: tuple[slice, ...], spacing: int) -> Tensor:
    i, j, k = (slice(s.start // spacing, s.stop // spacing) for s in box)
    return volume[:, :, i, j, k].contiguous(memory_format=torch.channels_last_3d)


def _loader(heads: Heads, settings: Settings, first: int) -> "DataLoader[Example]":
    fitting = settings.fitting
    workers = min(fitting.workers, os.cpu_count() or 1)
    examples = Examples(
        heads if workers else heads.on(fitting.device),
        settings.making,
        settings.data.pair_share,
        (fitting.seed, TRAINING),
        fitting.steps,
        first,
    )
    # They come in their order whatever the number of processes, each made of its own seed.
    return DataLoader(
        examples,
        batch_size=None,
        shuffle=False,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        multiprocessing_context="fork" if workers else None,
    )
