"""The BIDS-App: walk a dataset, run what is missing, confine what fails."""

import asyncio
import logging
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from brainchop_pipe.workflows.locks import try_lock
from brainchop_pipe.workflows.outcome import Outcome, tell_outcomes
from brainchop_pipe.workflows.resources import Share, check_memory, share_processors, turn_variables
from brainchop_pipe.workflows.run_log import run_log, write_citation
from brainchop_pipe.workflows.segment_image import Workplace, check_extras, segment_image
from brainchop_pipe.workflows.suitability import cannot_be_named
from brainchop_pipe.workflows.warm_up import warm_up
from brainchop_pipe.workflows.work_folder import check_work_folder, work_folder

from brainchop_pipe.bids.dataset import check_dataset, find_images
from brainchop_pipe.bids.derivatives import write_dataset_files
from brainchop_pipe.bids.environment import code_record
from brainchop_pipe.bids.names import Source
from brainchop_pipe.bids.publish import prepare_output_dir
from brainchop_pipe.engines.lanes import Lanes
from brainchop_pipe.errors import UsageError
from brainchop_pipe.inference.session import gpus_of
from brainchop_pipe.settings import Settings
from brainchop_pipe.zoo.catalog import Model, find_models
from brainchop_pipe.zoo.check import check_file
from brainchop_pipe.zoo.fetch import ModelStore
from brainchop_pipe.zoo.plan import check_tissue_model, plan_models

logger = logging.getLogger(__name__)

# How long to wait between looks at locks that another run holds.
_POLL_SECONDS = 1.0

Report = Callable[[int, int, list[Outcome]], None]


def run_participants(settings: Settings, report: Report) -> list[Outcome]:
    """Run the participant level over a dataset.

    Parameters
    ----------
    settings : Settings
        With a dataset.
    report : callable
        Told after each image: images finished, images in all, the image's outcomes.

    Returns
    -------
    list of Outcome
        One an image and model.

    Raises
    ------
    PipeError
        Dataset, output folder or a model cannot be used; nothing was written then
        but an empty output folder.
    """
    if settings.bids_dir is None:
        raise UsageError("the participant level needs a BIDS dataset")
    bids_dir = settings.bids_dir.resolve()
    check_dataset(bids_dir, skip_validation=settings.skip_bids_validation)
    sources = find_images(bids_dir, settings.query)
    jobs = {source: bids_dir / source.folder / source.name for source in sources}
    return run_images(jobs, settings, report)


def run_images(jobs: dict[Source, Path], settings: Settings, report: Report) -> list[Outcome]:
    """Run a set of images, several at a time.

    Each is worked on in a process of its own. Two runs on the same output folder share
    the work: each takes the images that the other does not hold, and looks again at
    those at the end.
    """
    _check_current_folder()
    if settings.processing.mask is not None and len(jobs) != 1:
        raise UsageError(
            f"--mask is the mask of one image; there are {len(jobs)}. Choose one, or give masks in a BIDS "
            "dataset (--derivatives NAME=DIR)"
        )
    models, involved = check_run(settings)
    if settings.bids_dir is not None and settings.writes_dataset_files:
        write_dataset_files(settings.output_dir, settings.bids_dir, code_record())
    images = sum(source.suffix in settings.query.modalities for source in jobs)
    share = share_processors(settings, involved, images)
    processing = replace(settings.processing, threads=share.threads, mem_gb=share.mem_gb)
    settings = replace(settings, processing=processing)
    with run_log(settings), work_folder(settings) as folder:
        try:
            outcomes = asyncio.run(_Run(jobs, models, settings, report).work(share, folder))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        except Exception:
            logger.exception("the run ended")
            raise
        if settings.writes_dataset_files:
            write_citation(settings.output_dir, (source.participant for source in jobs))
        return outcomes


def check_run(settings: Settings) -> tuple[tuple[Model, ...], tuple[Model, ...]]:
    """Refuse a run that cannot be, before any image is read; models are fetched if need be.

    Returns
    -------
    (tuple of Model, tuple of Model)
        Those of the run, and all that may be loaded.

    Raises
    ------
    PipeError
        See `run_participants`.
    """
    models = find_models(settings.processing.models)
    check_tissue_model(models, settings.processing.tissue_model)
    involved = _models_to_load(models, settings)
    check_memory(involved, settings)
    check_extras(models, settings)
    check_work_folder(settings)
    prepare_output_dir(settings.output_dir, settings.bids_dir)
    store = ModelStore.from_environment()
    limit = None if settings.mem_gb is None else int(settings.mem_gb * 1e9)
    for model in involved:
        check_file(model, store.load(model), limit)
    return models, involved


def _models_to_load(models: tuple[Model, ...], settings: Settings) -> tuple[Model, ...]:
    """Give the models that may run: those for the brain too, but none for its mask if all masks are given."""
    processing = settings.processing
    plan = plan_models(models, processing.tissue_model, processing.prepare, processing.mask_model)
    masks_are_given = processing.mask is not None or bool(settings.derivatives)
    if masks_are_given and plan.mask_model is None:
        raise UsageError(
            "a brain mask was given, but no model of this run would see it: name a tissue model with a mask "
            "model, or --prepare mask or brain"
        )
    if masks_are_given:
        needed = (*plan.pair[1:], *filter(None, [plan.contrast_model]))
    else:
        needed = (*plan.pair, *plan.makes_brain)
    return tuple({model.card.name: model for model in (*needed, *plan.singles)}.values())


@dataclass
class _Run:
    """A run over images: what is left to do, and what came out so far."""

    jobs: dict[Source, Path]
    models: tuple[Model, ...]
    settings: Settings
    report: Report
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = deque(self.jobs)
        self.uses = Counter(source.key for source in self.jobs)
        self.finished = 0
        self.interrupted = False

    async def work(self, share: Share, folder: Path) -> list[Outcome]:
        """Take images until none is left, as many at a time as there are processes for them."""
        gpus = gpus_of(self.settings.processing.device)
        count = share.workers + share.ahead
        per_gpu = 1 + share.ahead
        turns = partial(turn_variables, share, folder)
        lanes = Lanes(count, gpus, per_gpu=per_gpu, variables=turns)
        with _on_signal(self._interrupt), lanes:
            workplace = Workplace(lanes, folder)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._warm_up(lanes, wants_gpu=bool(gpus)))
                    for _ in range(count + len(gpus) * per_gpu):
                        group.create_task(self._take_images(workplace))
            except ExceptionGroup as errors:
                # What ends a run (an output folder without locks) hits all workers alike.
                raise errors.exceptions[0] from None
        if self.interrupted:
            raise asyncio.CancelledError
        return self.outcomes

    async def _warm_up(self, lanes: Lanes, *, wants_gpu: bool) -> None:
        """Have a process start and import its libraries while this one still imports its own."""
        try:
            await lanes.run(warm_up, self.settings.processing.device, wants_gpu=wants_gpu)
        except Exception:
            logger.warning("a process could not load what networks need", exc_info=True)

    def _interrupt(self, task: "asyncio.Task[None]") -> None:
        """End the run at its next wait, and never in the midst of a write."""
        self.interrupted = True
        self.waiting.clear()
        task.cancel()

    async def _take_images(self, workplace: Workplace) -> None:
        """Work on one image after the other; those that another run holds come last."""
        passed_over = 0
        while self.waiting:
            source = self.waiting.popleft()
            with try_lock(self.settings.output_dir, source) as locked:
                if locked:
                    passed_over = 0
                    self._finish(await self._segment(source, workplace))
                else:
                    passed_over += 1
                    self.waiting.append(source)
            # Where there is nothing to wait for, signals have their turn.
            await asyncio.sleep(_POLL_SECONDS if passed_over > len(self.waiting) else 0)

    async def _segment(self, source: Source, workplace: Workplace) -> list[Outcome]:
        reason = cannot_be_named(source, self.uses[source.key])
        if reason:
            outcomes = [Outcome(source, m.card.name, "failed", reason=reason) for m in self.models]
        else:
            outcomes = await segment_image(source, self.jobs[source], self.models, self.settings, workplace)
        return tell_outcomes(outcomes, source, self.settings)

    def _finish(self, outcomes: list[Outcome]) -> None:
        self.finished += 1
        self.outcomes += outcomes
        self.report(self.finished, len(self.jobs), outcomes)
        if self.settings.stop_on_first_crash and any(o.status == "failed" for o in outcomes):
            self.waiting.clear()


@contextmanager
def _on_signal(interrupt: Callable[["asyncio.Task[None]"], None]) -> Iterator[None]:
    """Call a function with this task on SIGINT and SIGTERM, where signals can be had."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    for number in numbers:
        loop.add_signal_handler(number, interrupt, task)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            # None: somebody's handler that Python does not know.
            signal.signal(number, handler or signal.SIG_DFL)


def _check_current_folder() -> None:
    """Refuse to start where processes cannot: in a folder that is gone."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise UsageError("the current folder is not there any more; cd to another and run again") from None
