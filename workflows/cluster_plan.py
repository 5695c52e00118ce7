"""Who is not done, and how participants are dealt over the tasks of a job array."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from math import ceil

from brainchop_pipe.workflows.segment_image import is_done, plan_image
from brainchop_pipe.workflows.suitability import refusal

from brainchop_pipe.bids.dataset import find_images
from brainchop_pipe.bids.derivatives import Product
from brainchop_pipe.bids.names import Source
from brainchop_pipe.errors import UsageError
from brainchop_pipe.settings import Settings
from brainchop_pipe.zoo.catalog import Model

# File systems of clusters answer slowly, and many at a time.
_QUESTIONS_AT_A_TIME = min(32, 4 * (os.cpu_count() or 1))


def find_unfinished(settings: Settings, models: tuple[Model, ...]) -> tuple[dict[str, int], int]:
    """Find out which participants have images left to do.

    Parameters
    ----------
    settings : Settings
        With a dataset.
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
    if settings.bids_dir is None:
        raise UsageError("jobs of a cluster need a BIDS dataset; images of none are segmented one by one")
    bids_dir = settings.bids_dir.resolve()
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
