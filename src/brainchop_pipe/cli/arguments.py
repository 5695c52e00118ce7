"""Arguments → settings. The BIDS-App's are spelled as in BIDS-Apps and fMRIPrep."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, NoReturn, get_args

from brainchop_pipe.bids.dataset import CONTRASTS, read_filter_file
from brainchop_pipe.cli.cluster_arguments import cluster_options
from brainchop_pipe.cli.numbers import whole_number_from_1
from brainchop_pipe.core.conform import LabelInterpolation
from brainchop_pipe.errors import UsageError
from brainchop_pipe.headers import AffineChoice
from brainchop_pipe.inference.numbering import LabelScheme
from brainchop_pipe.inference.runner import Precision
from brainchop_pipe.inference.session import DEVICES
from brainchop_pipe.settings import (
    DEFAULT_MODELS,
    Orientation,
    Preparation,
    Processing,
    Query,
    Settings,
    available_cpus,
)
from brainchop_pipe.zoo.plan import DEFAULT_MASK_MODEL

_EPILOG = """\
other commands:
  brainchop segment IMAGE... -o DIR    images that are in no BIDS dataset
  brainchop models ...                 list, show, check, fetch and verify models
  brainchop verify OUT                 check all images of an output
  brainchop provenance FILE            what made a file, and whether that is still the same
  brainchop rerun FILE                 make a file again, and compare
  brainchop jobs OUT                   what became of the jobs of --cluster slurm
each has a --help. A dataset in a folder that is called like a command is ./segment, for example.
"""


class Parser(argparse.ArgumentParser):
    """Exit 64 on wrong usage, as the BIDS execution draft wants; argparse's own is 2."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError with the message and the usage."""
        raise UsageError(f"{message}\n{self.format_usage().rstrip()}")


def app_parser() -> argparse.ArgumentParser:
    """Make the parser of ``brainchop BIDS_DIR OUT LEVEL``."""
    parser = Parser(
        prog="brainchop",
        description="Segment the brains of a BIDS dataset with ONNX models, into BIDS derivatives.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[cluster_options()],
    )
    add = parser.add_argument
    add("bids_dir", type=Path, metavar="BIDS_DIR", help="root of the dataset")
    add("output_dir", type=Path, metavar="OUT", help="where the derivatives go; created if need be")
    add("level", metavar="{participant,group}", help="segment the images, or collect the volumes of all")
    choice = parser.add_argument_group("which images")
    add = choice.add_argument
    labels: dict[str, Any] = {
        "nargs": "+",
        "default": [],
        "metavar": "LABEL",
        "help": "default: all; the prefix may be left out",
    }
    add("--participant-label", "--participant_label", type=_sub, **labels)
    add("--session-label", "--session_label", type=_ses, **labels)
    add(
        "--modality",
        nargs="+",
        default=["T1w"],
        metavar="SUFFIX",
        help="contrasts to segment, default T1w; a model runs on those that it was trained for",
    )
    add("--bids-filter-file", "--bids_filter_file", type=Path, metavar="FILE", help="as fMRIPrep's")
    add(
        "--bids-database-dir",
        "--bids_database_dir",
        type=Path,
        metavar="DIR",
        help="index of pybids to use, made if it is not there; it does not notice new files",
    )
    add(
        "--skip-bids-validation",
        "--skip_bids_validation",
        action="store_true",
        help="take the folder as it is; else the official validator checks it where it is installed",
    )
    _add_processing(parser)
    parser.add_argument("--version", action="version", version=_version())
    return parser


def segment_parser() -> argparse.ArgumentParser:
    """Make the parser of ``brainchop segment``."""
    parser = Parser(prog="brainchop segment", description="Segment images that are in no BIDS dataset.")
    add = parser.add_argument
    add("images", nargs="+", type=Path, metavar="IMAGE", help=".nii, .nii.gz, .mgz, .mgh or .hdr/.img")
    add("-o", "--output-dir", type=Path, required=True, metavar="DIR")
    add(
        "--modality",
        choices=CONTRASTS,
        metavar="SUFFIX",
        help="contrast of the images; default: what a BIDS name says, else T1w",
    )
    _add_processing(parser)
    return parser


def app_settings(given: argparse.Namespace, argv: list[str]) -> Settings:
    """Make the settings of a run over a dataset."""
    query = Query(
        participant_labels=tuple(given.participant_label),
        session_labels=tuple(given.session_label),
        modalities=tuple(given.modality),
        filters=read_filter_file(given.bids_filter_file) if given.bids_filter_file else {},
        database_dir=given.bids_database_dir,
    )
    places = {given.bids_dir: "BIDS_DIR", given.output_dir: "OUT", given.work_dir: "WORK_DIR"}
    return _settings(given, query, describe_command(argv, places), given.bids_dir)


def segment_settings(given: argparse.Namespace, argv: list[str], contrasts: tuple[str, ...]) -> Settings:
    """Make the settings of a run over single images."""
    places = {given.output_dir: "OUT", given.work_dir: "WORK_DIR"}
    return _settings(given, Query(modalities=contrasts), describe_command(["segment", *argv], places), None)


def describe_command(argv: list[str], places: dict[Path | None, str]) -> str:
    """Give the command line without what a path could tell: folders by role, files by name.

    >>> describe_command(["/home/ann/study", "out", "participant"], {Path("/home/ann/study"): "BIDS_DIR"})
    'brainchop BIDS_DIR out participant'
    """
    roles = {str(path): role for path, role in places.items() if path is not None}
    words = []
    for word in argv:
        option, value = _split_option(word)
        plain = str(Path(value)) if value else value
        words.append(option + roles.get(plain, Path(value).name if os.sep in value else value))
    return " ".join(["brainchop", *words])


def _split_option(word: str) -> tuple[str, str]:
    """Split ``--work-dir=X`` and ``-wX`` after the option; a word that is no option has an empty one."""
    if word.startswith("--"):
        option, equals, value = word.partition("=")
        return option + equals, value
    return (word[:2], word[2:]) if word.startswith("-") else ("", word)


def _settings(given: argparse.Namespace, query: Query, command: str, bids_dir: Path | None) -> Settings:
    processing = Processing(
        models=tuple(given.models),
        tissue_model=given.tissue_model,
        prefer_affine=given.prefer_affine,
        prepare=given.prepare,
        mask_model=given.mask_model,
        mask=given.mask,
        full_volume=given.full_volume,
        output_orientation=given.output_orientation,
        label_interpolation=given.label_interpolation,
        label_scheme=given.label_scheme,
        device=given.device,
        precision=given.precision,
    )
    return Settings(
        output_dir=given.output_dir,
        processing=processing,
        query=query,
        bids_dir=bids_dir,
        work_dir=given.work_dir,
        derivatives=tuple(given.derivatives),
        extras=tuple(given.write_also),
        force=given.force,
        check_hashes=given.check_hashes,
        stop_on_first_crash=given.stop_on_first_crash,
        skip_bids_validation=getattr(given, "skip_bids_validation", False),
        nprocs=min(given.nprocs or available_cpus(), available_cpus()),
        omp_nthreads=given.omp_nthreads,
        mem_gb=given.mem_gb if given.mem_mb is None else given.mem_mb / 1000,
        command=command,
    )


def _add_processing(parser: argparse.ArgumentParser) -> None:
    """Add what both ways of running have in common."""
    _add_models(parser)
    _add_outputs(parser)
    _add_resources(parser)


def _add_models(parser: argparse.ArgumentParser) -> None:
    models = parser.add_argument_group("models")
    add = models.add_argument
    add(
        "--models",
        "--model",
        nargs="+",
        default=list(DEFAULT_MODELS),
        metavar="NAME",
        help=f"names (`brainchop models list`) or paths of cards; default {' '.join(DEFAULT_MODELS)}",
    )
    add(
        "--tissue-model",
        metavar="NAME",
        help="which model owns dseg and probseg; default: the first that can",
    )
    add(
        "--device",
        choices=DEVICES,
        default="auto",
        help="auto takes the best that works; a name is strict: that one or an error",
    )
    add(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="what networks compute in where their cards name it (`brainchop models show NAME` tells how far "
        "labels agree then); bfloat16 needs OpenVINO and a processor that has it",
    )
    add(
        "--prepare",
        choices=get_args(Preparation),
        default="auto",
        help="what models see. auto: as their cards say; none: the whole head; head: the same, its bias "
        "field corrected; mask: what lies in a brain mask; brain: the same, its bias field corrected and "
        "white matter at one level",
    )
    add(
        "--mask-model",
        metavar="NAME",
        help="which model finds the brain for others, where no pair makes tissue maps; default: the first of "
        f"--models that can, else {DEFAULT_MASK_MODEL}",
    )
    add("--mask", type=Path, metavar="FILE", help="brain mask of the one image, in place of a model's")
    add(
        "-d",
        "--derivatives",
        nargs="+",
        default=[],
        type=_named_folder,
        metavar="NAME=DIR",
        help="BIDS derivatives whose brain masks (desc-brain_mask) take the place of a model's",
    )
    add("--full-volume", action="store_true", help="no crop to the head: exact, and up to twice as slow")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    images = parser.add_argument_group("images and outputs")
    add = images.add_argument
    add("--prefer-affine", choices=get_args(AffineChoice), help="which to believe where the two contradict")
    add(
        "--output-orientation",
        choices=get_args(Orientation),
        default="ras",
        help="order of voxels in the outputs; sMRIPrep needs ras, the default",
    )
    add(
        "--label-interpolation",
        choices=get_args(LabelInterpolation),
        default="linear",
        help="on the way back to the image's grid; linear weighs the labels around",
    )
    add(
        "--label-scheme",
        choices=get_args(LabelScheme),
        default="compact",
        help="numbers of the model, or FreeSurfer's with left and right apart (seg- files)",
    )
    add(
        "--write-also",
        nargs="+",
        choices=("brain", "conformed", "prepared"),
        default=[],
        metavar="WHAT",
        help="brain: the image within the brain mask (desc-brain); conformed: image and labels on a grid of "
        "1 mm (space-conformed); prepared: the brain, evenly lit (desc-biascorr)",
    )
    add("--force", action="store_true", help="make anew what is there, edited files included")
    add(
        "--check-hashes",
        action="store_true",
        help="compare contents, not sizes and times, to find what is done",
    )
    add(
        "-w",
        "--work-dir",
        "--work_dir",
        type=Path,
        metavar="DIR",
        help="intermediate files; default: below OUT",
    )


def _add_resources(parser: argparse.ArgumentParser) -> None:
    resources = parser.add_argument_group("resources")
    add = resources.add_argument
    add(
        "--nprocs",
        "--n_cpus",
        "--n-cpus",
        type=whole_number_from_1,
        metavar="N",
        help="processors that the run may use; with --cluster, those of a task (default 4)",
    )
    add(
        "--omp-nthreads",
        type=whole_number_from_1,
        metavar="N",
        help="threads of one inference; default: the processors, shared by images at a time, 4 or more each",
    )
    memory = resources.add_mutually_exclusive_group()
    memory.add_argument(
        "--mem-gb",
        "--mem_gb",
        type=float,
        metavar="GB",
        help="most for all images at a time, and for a model",
    )
    memory.add_argument("--mem-mb", "--mem_mb", type=float, metavar="MB")
    add("--stop-on-first-crash", action="store_true", help="end the run at the first image that fails")
    add("--notrack", action="store_true", help="accepted for compatibility: nothing is ever tracked")
    add("-v", "--verbose", action="count", default=0, help="say more; twice: everything")


def _sub(label: str) -> str:
    return label.removeprefix("sub-")


def _ses(label: str) -> str:
    return label.removeprefix("ses-")


def _named_folder(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not (name and equals and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=DIR")
    return name, Path(folder)


def _version() -> str:
    from brainchop_pipe import __version__

    return f"brainchop_pipe {__version__} (Python {sys.version.split()[0]})"
