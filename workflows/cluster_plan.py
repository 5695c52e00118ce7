"""Who is not done, and how participants are dealt over the tasks of a job array."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from math import ceil
from pathlib import Path

from brainchop_pipe.workflows.bids_app import check_run
from brainchop_pipe.workflows.cluster_needs import Needs, task_needs
from brainchop_pipe.workflows.cluster_report import participants_at_work
from brainchop_pipe.workflows.segment_image import is_done, plan_image
from brainchop_pipe.workflows.suitability import refusal

from brainchop_pipe.bids.dataset import check_dataset, find_images
from brainchop_pipe.bids.derivatives import Product, write_dataset_files
from brainchop_pipe.bids.environment import code_record
from brainchop_pipe.bids.names import Source
from brainchop_pipe.errors import UsageError
from brainchop_pipe.settings import Settings
from brainchop_pipe.zoo.catalog import Model

# File systems of clusters answer slowly, and many at a time.
_QUESTIONS_AT_A_TIME = min(32, 4 * (os.cpu_count() or 1))


@dataclass(frozen=True)
class Choices:
    """What a user chose about the jobs.

    Parameters
    ----------
    task_minutes : float
        How long a task should take.
    array_size : int or None
        How many tasks there are; None: as many as `task_minutes` makes.
    array_limit : int or None
        How many of them may run at a time.
    processors : int or None
        Of a task.
    gres : str or None
        Such as ``gpu:1``.
    sbatch_args : tuple of str
        Further options of sbatch; they overrule what is planned.
    """

    task_minutes: float = 40
    array_size: int | None = None
    array_limit: int | None = None
    processors: int | None = None
    gres: str | None = None
    sbatch_args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """Who is to be worked on by which task.

    Parameters
    ----------
    slices : tuple of tuple of str
        Participants of each task; empty where all are done.
    needs : Needs
        Of a task.
    minutes : int
        Time limit of a task.
    participants : int
        How many the models are for, done ones included.
    at_work : int
        How many are left out because earlier jobs have them.
    """

    slices: tuple[tuple[str, ...], ...]
    needs: Needs
    minutes: int
    participants: int
    at_work: int

    @property
    def left(self) -> int:
        """How many participants are to be worked on."""
        return sum(map(len, self.slices))


def plan_jobs(settings: Settings, choices: Choices) -> Plan:
    """Plan who is to be worked on by which task, and write what stands once in the output folder.

    Models are fetched here, once for all tasks.

    Raises
    ------
    PipeError
        As of `run_participants`.
    """
    if settings.bids_dir is None or settings.processing.mask is not None:
        raise UsageError(
            "jobs of a cluster need a BIDS dataset; give masks of it with --derivatives NAME=DIR"
        )
    bids_dir = settings.bids_dir.resolve()
    check_dataset(bids_dir, skip_validation=settings.skip_bids_validation)
    # The work folder is for the tasks to make, on their nodes.
    models, involved = check_run(replace(settings, work_dir=None))
    write_dataset_files(settings.output_dir, bids_dir, code_record())
    images, participants = find_unfinished(bids_dir, settings, models)
    busy = participants_at_work(settings.output_dir) & images.keys()
    images = {label: count for label, count in images.items() if label not in busy}
    needs = task_needs(settings, involved, choices.processors)
    wanted = count_tasks(sum(images.values()), needs.seconds_per_image, choices.task_minutes)
    slices = deal(images, choices.array_size or wanted) if images else ()
    minutes = needs.minutes(largest_slice(slices, images)) if slices else 0
    return Plan(slices, needs, minutes, participants, len(busy))


def find_unfinished(
    bids_dir: Path, settings: Settings, models: tuple[Model, ...]
) -> tuple[dict[str, int], int]:
    """Find out which participants have images left to do; no image is opened.

    Parameters
    ----------
    bids_dir : Path
    settings : Settings
    models : tuple of Model

    Returns
    -------
    (dict, int)
        How many images of each are left, by participant without ``sub-``, in the order
        of their names; how many participants have images for these models at all.

    Raises
    ------
    NoMatchError, UsageError
        See `find_images`.
    """
    by_participant: dict[str, list[Source]] = defaultdict(list)
    for source in find_images(bids_dir, settings.query):
        by_participant[source.participant.removeprefix("sub-")].append(source)

    @cache
    def products(usable: tuple[str, ...]) -> tuple[Product, ...]:
        chosen = tuple(model for model in models if model.card.name in usable)
        return plan_image(chosen, settings) if chosen else ()

    def left(sources: list[Source]) -> tuple[int, int]:
        """Count the images that are left, and those that models are for."""
        wanted = {source: products(_usable(source, models, settings)) for source in sources}
        wanted = {source: made for source, made in wanted.items() if made}
        paths = {source: bids_dir / source.folder / source.name for source in wanted}
        open_ = [s for s, made in wanted.items() if not is_done(s, paths[s], made, settings)]
        return len(open_), len(wanted)

    with ThreadPoolExecutor(_QUESTIONS_AT_A_TIME) as threads:
        counts = dict(zip(by_participant, threads.map(left, by_participant.values()), strict=True))
    unfinished = {label: count for label, (count, _) in sorted(counts.items()) if count}
    return unfinished, sum(wanted > 0 for _, wanted in counts.values())


def deal(images: Mapping[str, int], tasks: int) -> tuple[tuple[str, ...], ...]:
    """Deal participants over tasks, in their order, so that all get about as many images.

    Parameters
    ----------
    images : mapping
        How many images each participant has: 1 or more.
    tasks : int
        How many there may be; 1 or more.

    Returns
    -------
    tuple of tuple of str
        At most `tasks`, none of them empty; every participant is in one.
    """
    total = sum(images.values())
    slices: dict[int, list[str]] = defaultdict(list)
    before = 0
    for label, count in images.items():
        # By the middle of what a participant brings, so that rounding favours no end.
        slices[int((before + count / 2) * tasks / total)].append(label)
        before += count
    return tuple(tuple(labels) for labels in slices.values())


def count_tasks(images: int, seconds_per_image: float, task_minutes: float) -> int:
    """Give the number of tasks of which each takes about `task_minutes`; 1 or more."""
    return max(1, ceil(images * seconds_per_image / (60 * task_minutes)))


def largest_slice(slices: Sequence[Iterable[str]], images: Mapping[str, int]) -> int:
    """Give the number of images of the slice that has most."""
    return max(sum(images[label] for label in labels) for labels in slices)


def _usable(source: Source, models: tuple[Model, ...], settings: Settings) -> tuple[str, ...]:
    return tuple(m.card.name for m in models if not refusal(source, m, settings.query.modalities))
