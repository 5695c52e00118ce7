"""What a step says of itself, beside the images that it writes."""

import hashlib
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from brainchop_pipe.core.contrast import TissueContrast
from brainchop_pipe.core.grid import Volume
from brainchop_pipe.core.order import in_order
from brainchop_pipe.core.quality import Quality
from brainchop_pipe.inference.session import Execution
from brainchop_pipe.storage import sha256_of_file

# What a preparation is called, at its beginning, that corrects the head and not what lies in a mask.
EVEN_HEAD = "N4 bias correction of the whole head"
# What follows where the head stood out from noise.
NOISE_CLEARED = ", noise in the air set to 0"
# What stands in a preparation that brings the levels of three tissues where a model wants them.
TISSUES_BROUGHT = "CSF, grey and white matter"


class InputDigests(BaseModel):
    """Which image a result was made of.

    The second digest is of the voxels in C order and native little-endian type, then
    of the affine as float64: the same for ``.nii`` and ``.nii.gz``.
    """

    model_config = ConfigDict(frozen=True)

    sha256: str
    voxels_sha256: str
    size: int

    @classmethod
    def of(cls, path: Path, volume: Volume) -> "InputDigests":
        """Describe a file and the volume that was read from it."""
        voxels = in_order(volume.voxels, "C")
        decoded = hashlib.sha256(voxels.astype(voxels.dtype.newbyteorder("<"), copy=False).data)
        decoded.update(np.ascontiguousarray(volume.grid.affine, "<f8").data)
        return cls(sha256=sha256_of_file(path), voxels_sha256=decoded.hexdigest(), size=path.stat().st_size)


class Origin(BaseModel):
    """Where a conformed image comes from: it travels in the header of its file.

    Parameters
    ----------
    digests : InputDigests
    notes : tuple of str
        What a user should know of the image and of its way onto the models' grid.
    """

    model_config = ConfigDict(frozen=True)

    digests: InputDigests
    notes: tuple[str, ...]


class ModelRun(BaseModel):
    """A run of a model that others build on.

    Parameters
    ----------
    model : str
        Name.
    execution : Execution
        Where it ran.
    field_of_view : str
        What it saw.
    preparation : str
        What was done to its input before; empty where nothing was.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    execution: Execution
    field_of_view: str
    preparation: str


class BrainRecord(BaseModel):
    """How a brain mask, and the evenly lit brain within it, came about.

    Parameters
    ----------
    mask_run : ModelRun or None
        Of the mask model; None for a mask that was given.
    mask_sha256 : str or None
        Of the mask that was given.
    corrected : bool
        Whether the bias field within the mask was corrected.
    white_matter : float or None
        Grey level of white matter in the conformed image, after the correction; None
        where it was not looked for, or not found.
    contrast : TissueContrast or None
        Of the corrected image; None where it was not measured, or is not that of a T1-weighted
        brain.
    contrast_origin : str
        Whose tissues it was measured in; empty for None.
    contrast_run : ModelRun or None
        Of the model that told the tissues apart, where it ran for that alone.
    usable : bool
        False: the mask looks wrong, and models should see the whole head.
    removed_components : int
        By the mask model's post-filter.
    volume_mm3 : float
    upside_down : bool
        See `looks_upside_down`.
    seconds : dict
        By stage.
    notes : tuple of str
    """

    model_config = ConfigDict(frozen=True)

    mask_run: ModelRun | None
    mask_sha256: str | None
    corrected: bool
    white_matter: float | None
    contrast: TissueContrast | None = None
    contrast_origin: str = ""
    contrast_run: ModelRun | None = None
    usable: bool
    removed_components: int
    volume_mm3: float
    upside_down: bool
    seconds: dict[str, float]
    notes: tuple[str, ...]

    @property
    def mask_model(self) -> str | None:
        """Name of the mask model; None for a mask that was given."""
        return self.mask_run.model if self.mask_run else None

    @property
    def origin(self) -> str:
        """Whose mask it is, for people."""
        return f"mask of {self.mask_model}" if self.mask_model else "a mask that was given"


class StepRecord(BaseModel):
    """How the maps of one model, or of a mask and a tissue model together, came about.

    Parameters
    ----------
    digests : InputDigests or None
        None where the conformed image does not say what it was made of.
    brain : BrainRecord or None
        None where no mask was made for the step.
    model : str
        Name of the one that the step ran.
    execution : Execution
        Where it ran.
    field_of_view : str
        What it saw, and in which pieces.
    parameters : dict
        Of `Processing.parameters`, those that the step has.
    preparation : str
        What was done to the model's input before; empty where nothing was.
    quality : Quality
        Volumes are counted on the model's grid.
    flags : tuple of str
        What looks wrong with the result, in whole sentences.
    sides : str
        How left and right of a class were told apart; empty where they were not.
    seconds : dict
        By stage, such as ``infer tissue``.
    notes : tuple of str
    started, ended : str
        ISO 8601, UTC.
    peak_memory_mb : int
        Largest resident memory of the process so far, earlier images included.
    """

    model_config = ConfigDict(frozen=True)

    digests: InputDigests | None
    brain: BrainRecord | None
    model: str
    execution: Execution
    field_of_view: str
    parameters: dict[str, bool | str | None]
    preparation: str
    quality: Quality
    flags: tuple[str, ...]
    sides: str
    seconds: dict[str, float]
    notes: tuple[str, ...]
    started: str
    ended: str
    peak_memory_mb: int

    @property
    def run(self) -> ModelRun:
        """The step's own run, as those are told that it builds on."""
        return ModelRun(
            model=self.model,
            execution=self.execution,
            field_of_view=self.field_of_view,
            preparation=self.preparation,
        )

    @property
    def volumes_mm3(self) -> dict[str, float]:
        """Volumes by label index as files have them, to a tenth."""
        return {str(label): round(volume, 1) for label, volume in self.quality.volumes_mm3.items()}


@dataclass
class Clock:
    """Seconds by stage, and when the work began."""

    started: str = field(default_factory=lambda: utc_now())
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of what is done within to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add a time that was taken elsewhere to a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def peak_memory_mb() -> int:
    """Give the largest resident memory of this process so far, megabytes (10^6 bytes)."""
    if sys.platform == "linux":
        # What getrusage tells there is no less than what the process held that started this program.
        with suppress(OSError, IndexError):
            status = Path("/proc/self/status").read_text()
            return int(status.partition("VmHWM:")[2].split()[0]) * 1024 // 1_000_000
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1_000_000 if sys.platform == "darwin" else peak * 1024 // 1_000_000


def utc_now() -> str:
    """Give the time as ISO 8601, UTC, whole seconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
