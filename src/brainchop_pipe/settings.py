"""One run's choices: frozen values, checked once, passed as arguments."""

import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from brainchop_pipe.core.conform import LabelInterpolation
from brainchop_pipe.headers import AffineChoice
from brainchop_pipe.inference.numbering import LabelScheme
from brainchop_pipe.inference.runner import Precision
from brainchop_pipe.inference.session import AVOID_VARIABLE, DEVICES, Device

Orientation = Literal["ras", "native"]
Preparation = Literal["auto", "none", "head", "mask", "brain"]

# In the package itself: mask and tissues of any contrast, without a network.
DEFAULT_MODELS = ("brainchop_any",)

# For a process whose predecessor broke while it ran a network: the processors alone.
AFTER_CRASH = {AVOID_VARIABLE: ",".join(device for device in DEVICES if device not in ("auto", "cpu"))}


@dataclass(frozen=True)
class Processing:
    """What is done to each image.

    Parameters
    ----------
    models : tuple of str
        Names of shipped cards, or paths of cards.
    tissue_model : str or None
        The model that owns the tissue maps; None: the first that can.
    prefer_affine : {"sform", "qform"} or None
        Which one to believe where the two contradict each other.
    prepare : {"auto", "none", "head", "mask", "brain"}
        "auto": what a model's card asks for; "none": every model sees the whole head as
        it is; "head": the same, its bias field corrected; "mask": what lies within a
        brain mask; "brain": the same, its bias field corrected and its grey levels
        brought to those that a model is used to. Models that find the brain see the head
        as their cards ask for it, unless "none" or "head" is asked for.
    mask_model : str or None
        Which one finds the brain for models that see it alone, where no pair does; None:
        the first of `models` that can, else the package's choice.
    mask : Path or None
        A brain mask of the image, in place of the mask model's.
    contrasts : tuple of (str, Path)
        Further images of the head, by BIDS suffix, for models of several channels.
    full_volume : bool
        No crop to the head.
    output_orientation : {"ras", "native"}
        Order of voxels in the outputs: nearest to RAS+, or the file's own.
    label_interpolation : {"linear", "nearest"}
    label_scheme : {"compact", "freesurfer"}
        Numbers as the model has them, or those of FreeSurfer's colour table, left and
        right apart.
    device : str
    precision : {"float32", "bfloat16"}
        What networks whose cards allow it compute in.
    threads : int
        Of one inference; 1 or more. A run over images decides it from `Settings`.
    mem_gb : float or None
        Most that one inference may take; None: what it takes in one piece.
    """

    models: tuple[str, ...] = DEFAULT_MODELS
    tissue_model: str | None = None
    prefer_affine: AffineChoice | None = None
    prepare: Preparation = "auto"
    mask_model: str | None = None
    mask: Path | None = None
    contrasts: tuple[tuple[str, Path], ...] = ()
    full_volume: bool = False
    output_orientation: Orientation = "ras"
    label_interpolation: LabelInterpolation = "linear"
    label_scheme: LabelScheme = "compact"
    device: Device = "auto"
    precision: Precision = "float32"
    threads: int = 1
    mem_gb: float | None = None

    def parameters(self, but: tuple[str, ...] = ()) -> dict[str, Any]:
        """Give what decides the content of an output, apart from its models: names as in files.

        Parameters
        ----------
        but : tuple of str
            Fields that a step does not have.
        """
        decisive = (
            *("prefer_affine", "prepare", "full_volume", "output_orientation"),
            *("label_interpolation", "label_scheme", "precision"),
        )
        return {
            pascal_case(f.name): getattr(self, f.name) for f in fields(self) if f.name in {*decisive} - {*but}
        }


@dataclass(frozen=True)
class Query:
    """Which images of a dataset to take.

    Parameters
    ----------
    participant_labels, session_labels : tuple of str
        Without ``sub-`` and ``ses-``; empty for all.
    modalities : tuple of str
        BIDS suffixes.
    filters : dict
        Further entities by suffix in lower case, such as ``{"t1w": {"acquisition": "mprage"}}``.
    database_dir : Path or None
        Index of an earlier run of pybids.
    names_must_exist : bool
        Whether a participant or session that is named and has no image is an error.
    """

    participant_labels: tuple[str, ...] = ()
    session_labels: tuple[str, ...] = ()
    modalities: tuple[str, ...] = ("T1w",)
    filters: dict[str, dict[str, Any]] = field(default_factory=dict)
    database_dir: Path | None = None
    names_must_exist: bool = True


@dataclass(frozen=True)
class Settings:
    """All choices of a run.

    Parameters
    ----------
    output_dir : Path
    processing : Processing
    query : Query
    bids_dir : Path or None
        None for images that are in no dataset.
    work_dir : Path or None
        For intermediate files; None: below the output folder.
    derivatives : tuple of (str, Path)
        Names and folders of BIDS derivatives whose brain masks take the place of the
        mask model's.
    extras : tuple of {"prepared", "conformed", "brain"}
        What is written besides: the brain, evenly lit; image and labels on the
        conformed grid; the image within the brain mask.
    force, check_hashes : bool
        Redo what is there; compare the input's content, not only its size and time.
    stop_on_first_crash : bool
    skip_bids_validation : bool
    nprocs : int
        Processors that the run may use.
    omp_nthreads : int or None
        Threads of one inference; None: as many as there are for each image at a time.
    mem_gb : float or None
        Most that the run may need; None: what is free.
    writes_dataset_files : bool
        Whether this run writes what stands once in an output folder, such as
        ``dataset_description.json``; tasks of a job array do not.
    command : str
        The command line as provenance shows it, without paths.
    """

    output_dir: Path
    processing: Processing = Processing()
    query: Query = Query()
    bids_dir: Path | None = None
    work_dir: Path | None = None
    derivatives: tuple[tuple[str, Path], ...] = ()
    extras: tuple[str, ...] = ()
    force: bool = False
    check_hashes: bool = False
    stop_on_first_crash: bool = False
    skip_bids_validation: bool = False
    nprocs: int = 1
    omp_nthreads: int | None = None
    mem_gb: float | None = None
    writes_dataset_files: bool = True
    command: str = "brainchop"


def available_cpus() -> int:
    """Count the processors that this process may use: affinity mask, then SLURM's share, at least 1.

    ``os.cpu_count()`` would count all of the node's.
    """
    # macOS has no affinity masks.
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return max(1, min(count, int(share))) if share.isdigit() else max(1, count)


def pascal_case(name: str) -> str:
    """Give a field's name as files have it: ``full_volume`` is ``FullVolume``."""
    return "".join(part.capitalize() for part in name.split("_"))
