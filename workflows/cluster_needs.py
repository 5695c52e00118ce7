"""What a task asks of the cluster: processors, memory and time, from the models' cards."""

from dataclasses import dataclass
from math import ceil

from brainchop_pipe.workflows.resources import BESIDES_MODEL_GB, THREADS_PER_IMAGE, model_need_gb

from brainchop_pipe.inference.session import first_choice
from brainchop_pipe.inference.ways import OPENVINO_MEMORY
from brainchop_pipe.settings import Settings
from brainchop_pipe.zoo.catalog import Model

# Of the app's first process, which hands out work and writes.
_FIRST_PROCESS_GB = 0.5

# Of an image besides its models: reading, conform, bias correction, the way back, writing, pictures.
_BESIDES_MODELS_SECONDS = 20.0

# Where a card does not say.
_UNKNOWN_SECONDS = 60.0

# Processors that cards' times are of, and beyond which an inference gains little.
_PROCESSORS_OF_CARDS = 2
_USEFUL_PROCESSORS = 4

# Nodes are of many kinds and shared file systems slow at times: a task that is killed at its
# limit costs more than one that waits a little longer for its start.
_TIME_FACTOR = 2.0
_TIME_EXTRA_MINUTES = 15


@dataclass(frozen=True)
class Needs:
    """What one task needs.

    Parameters
    ----------
    processors : int
    memory_gb : float
    seconds_per_image : float
        With as many images at a time as the processors allow.
    """

    processors: int
    memory_gb: float
    seconds_per_image: float

    @property
    def memory_mb(self) -> int:
        """Memory as SLURM is asked for it."""
        return ceil(self.memory_gb * 1000)

    def minutes(self, images: int) -> int:
        """Give the time limit of a task of so many images."""
        return ceil(images * self.seconds_per_image / 60 * _TIME_FACTOR) + _TIME_EXTRA_MINUTES


def task_needs(settings: Settings, models: tuple[Model, ...], processors: int | None) -> Needs:
    """Tell what a task needs.

    Parameters
    ----------
    settings : Settings
    models : tuple of Model
        All that are loaded.
    processors : int or None
        Of a task; None: those that one image makes use of.
    """
    processors = processors or settings.omp_nthreads or THREADS_PER_IMAGE
    full = settings.processing.full_volume
    at_a_time = max(1, processors // (settings.omp_nthreads or THREADS_PER_IMAGE))
    # OpenVINO takes more, and auto leaves it where a task has less.
    factor = OPENVINO_MEMORY if first_choice(settings.processing.device) == "openvino" else 1.0
    model = factor * max(model_need_gb(model, full_volume=full) for model in models)
    # One image more is read or written meanwhile.
    usual = at_a_time * (model + BESIDES_MODEL_GB) + BESIDES_MODEL_GB
    memory = settings.mem_gb if settings.mem_gb is not None else usual
    inference = sum(_seconds(model, full) for model in models)
    faster = min(processors / at_a_time, _USEFUL_PROCESSORS) / _PROCESSORS_OF_CARDS
    seconds = _BESIDES_MODELS_SECONDS + inference / faster
    return Needs(processors, memory + _FIRST_PROCESS_GB, seconds / at_a_time)


def _seconds(model: Model, full_volume: bool) -> float:
    time = model.card.time
    if time is None:
        return _UNKNOWN_SECONDS
    return time.full_seconds if full_volume or model.card.input.crop is None else time.cropped_seconds
