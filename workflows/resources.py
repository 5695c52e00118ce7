"""How many images at a time, with how many threads each, in how much memory, on which GPUs."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

from brainchop_pipe.errors import UsageError
from brainchop_pipe.inference.turns import TURNS_VARIABLE
from brainchop_pipe.inference.ways import least_gb
from brainchop_pipe.settings import Settings
from brainchop_pipe.zoo.catalog import Model

logger = logging.getLogger(__name__)

# An inference gains little from more; another image at the same time gains more.
THREADS_PER_IMAGE = 4

# What a process needs besides the model: libraries, image, probabilities on both grids.
BESIDES_MODEL_GB = 2.0


class Share(NamedTuple):
    """What each image may take.

    Parameters
    ----------
    workers, threads : int
        Networks at a time, and threads of each; 1 or more.
    ahead : int
        Further images that are read, conformed or written meanwhile.
    mem_gb : float
        Most that a model may take; larger ones are run in tiles.
    """

    workers: int
    threads: int
    ahead: int
    mem_gb: float


def share_processors(settings: Settings, models: tuple[Model, ...], images: int) -> Share:
    """Decide how many images are worked on at a time, and the threads and memory of each.

    Parameters
    ----------
    settings : Settings
    models : tuple of Model
    images : int
        How many there are.

    Returns
    -------
    Share
        Workers times threads are at most `settings.nprocs` unless
        `settings.omp_nthreads` is more than that.
    """
    threads = settings.omp_nthreads or THREADS_PER_IMAGE
    workers = max(1, min(settings.nprocs // threads, images))
    need = (
        max(model_need_gb(model, full_volume=settings.processing.full_volume) for model in models)
        + BESIDES_MODEL_GB
    )
    allowed = settings.mem_gb if settings.mem_gb is not None else available_memory_gb()
    fitting = max(1, int(allowed / need))
    if fitting < workers:
        logger.info("memory of %.1f GB holds %d images at a time, of %.1f GB each", allowed, fitting, need)
        workers = fitting
    threads = settings.omp_nthreads or max(1, settings.nprocs // workers)
    # Less than the smallest tiles take would be no run at all.
    least = max(least_gb(model.card) for model in models)
    ahead = 1 if images > workers and allowed >= workers * need + BESIDES_MODEL_GB else 0
    room = (allowed - ahead * BESIDES_MODEL_GB) / workers - BESIDES_MODEL_GB
    return Share(workers, threads, ahead, max(room, least))


def turn_variables(share: Share, folder: Path, gpu: str | None) -> dict[str, str]:
    """Have processes that share the processors, or one GPU, take turns in running networks.

    Parameters
    ----------
    share : Share
    folder : Path
        Of this run alone.
    gpu : str or None
        None for the processors.
    """
    if not share.ahead:
        return {}
    turns = folder / "turns" / (f"gpu-{gpu}" if gpu is not None else "cpu")
    turns.mkdir(parents=True, exist_ok=True)
    return {TURNS_VARIABLE: f"{share.workers if gpu is None else 1}:{turns}"}


def check_memory(models: tuple[Model, ...], settings: Settings) -> None:
    """Refuse a model that needs more memory than was allowed, in tiles too, before any image is read.

    Raises
    ------
    UsageError
    """
    for model in models:
        need = least_gb(model.card, full_volume=settings.processing.full_volume) + BESIDES_MODEL_GB
        if settings.mem_gb is not None and need > settings.mem_gb:
            raise UsageError(
                f"model {model.card.name!r} needs {need:.1f} GB ({BESIDES_MODEL_GB} GB for the image); "
                f"--mem-gb allows {settings.mem_gb}. Allow more, or choose a smaller model"
            )


def model_need_gb(model: Model, *, full_volume: bool, mem_gb: float | None = None) -> float:
    """Give the peak memory of a model's inference as its card states it, gigabytes.

    Parameters
    ----------
    model : Model
    full_volume : bool
    mem_gb : float or None
        The limit to which it is cut into tiles, if it is.
    """
    whole = full_volume or model.card.input.crop is None
    need = model.card.memory.full_gb if whole else model.card.memory.cropped_gb
    return need if mem_gb is None else min(need, max(mem_gb, least_gb(model.card)))


def available_memory_gb() -> float:
    """Give the memory that this process may still take, gigabytes: the machine's, cgroup's, SLURM's.

    Infinite where the system does not say (macOS).
    """
    limits = [_free_gb(), _cgroup_gb()]
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")
    if slurm.isdigit() and int(slurm):
        limits.append(int(slurm) / 1e3)
    return min(limits)


def _free_gb() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    available = next((line.split()[1] for line in lines if line.startswith("MemAvailable")), None)
    return int(available) * 1024 / 1e9 if available else float("inf")


def _cgroup_gb() -> float:
    """Give what the container or job may still take, after cgroup version 2 or 1."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            values = [
                Path("/sys/fs/cgroup", name).read_text(encoding="ascii").strip() for name in (limit, used)
            ]
        except OSError:
            continue
        if all(value.isdigit() for value in values):
            return (int(values[0]) - int(values[1])) / 1e9
    return float("inf")
