"""One training's choices, read from a TOML file and checked once."""

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from brainchop_pipe.errors import MissingInputError, UsageError

Kind = Literal["random", "T1w", "T2w", "FLAIR", "CT"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(_Part):
    """What images are made from."""

    label_maps: tuple[str, ...] = Field((), description="Files, or patterns such as maps/*.nii.gz")
    left_out: tuple[str, ...] = Field((), description="Names of maps that training never sees")
    pairs: tuple[tuple[str, str], ...] = Field((), description="Your own images and their corrected labels")
    left_out_pairs: tuple[tuple[str, str], ...] = ()
    pair_share: float = Field(0.3, ge=0, le=1, description="Share of the pairs among what is trained on")


class Making(_Part):
    """How images are made; probabilities are shares of the images, lengths are millimetres."""

    least_shape: tuple[int, int, int] = (112, 144, 144)
    most_shape: tuple[int, int, int] = (160, 224, 208)
    kinds: dict[Kind, float] = {"random": 0.4, "T1w": 0.34, "T2w": 0.12, "FLAIR": 0.1, "CT": 0.04}
    rotation_deg: float = 10.0
    scaling: float = 0.15
    shear: float = 0.04
    shift_mm: tuple[float, float, float] = (12.0, 30.0, 15.0)
    deformation_mm: float = 3.5
    bias: float = 0.35
    noise: float = 0.08
    gamma: float = 0.3
    thickest_mm: float = 6.0
    low_resolution: float = Field(0.6, description="Share with voxels larger than 1 mm")
    lesions: float = 0.2
    cropped: float = 0.3
    faceless: float = 0.1
    brain_only: float = 0.08


class Network(_Part):
    """The network: a body at 2 mm, and its refinement at 1 mm."""

    body: Literal["unet", "meshnet"] = "unet"
    widths: tuple[int, ...] = Field(
        (16, 32, 64, 128), description="Channels at 2, 4, 8, ... mm; MeshNet: one"
    )
    dilations: tuple[int, ...] = Field((1, 2, 4, 8, 4, 2, 1), description="Of a MeshNet")
    refining: int = Field(8, description="Channels at 1 mm")


class Fitting(_Part):
    """How the network is fitted."""

    start: str = Field(
        "",
        description="Model that a new training begins with the weights of: brainchop_any, or a card "
        "(.json) that `export` wrote",
    )
    seed: int = 0
    steps: int = 5000
    warm_up: int = 100
    decay: int = Field(1500, description="Steps at the end over which the learning rate falls to 0")
    learning_rate: float = 5e-4
    weight_decay: float = 1e-4
    average: float = Field(
        0.995, description="Decay of the running average of weights, which is what is kept"
    )
    patch: int = Field(80, description="Edge of the cube that is refined in a step, even")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Of the convolutions; auto: bfloat16 where the device has it. Processors without it "
        "take minutes a step",
    )
    workers: int = Field(
        1,
        description="Processes that make images; with 0 the device of the training makes them, a GPU fastest",
    )
    threads: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    checkpoint_minutes: float = 3.0
    check_every: int = Field(250, description="Steps between two looks at the images left out")
    check_images: int = 8


class Finishing(_Part):
    """What becomes of the averaged weights when they are exported."""

    start_share: float = Field(
        0,
        ge=0,
        le=1,
        description="Share of the weights that training began with (`fitting.start`) in the exported ones; "
        "0.5 is a network between both, often better than either on images of another kind",
    )
    white_offset: float = Field(
        0,
        description="Added to white matter's score: the one for which `calibrate` finds as much white matter "
        "as there is",
    )


class Card(_Part):
    """What the exported model's card says that the network does not tell; see ``models/README.md``."""

    name: str = "mine"
    version: str = "1"
    title: str = "Brain and tissues, any contrast"
    description: str = "Brain with the CSF around it, and its grey matter, white matter and CSF."
    intended_use: str = "Research. Not for clinical use."
    training_data: str = Field("", description="Sources; how many images and how long is added")
    modalities: tuple[str, ...] = ("T1w", "T2w", "FLAIR", "PDw")
    license_id: str = "MIT"
    license_url: str = "https://opensource.org/license/mit"
    citations: tuple[str, ...] = ()
    prepare: Literal["none", "head"] = Field(
        "head", description="head: the bias field of the head is corrected before the network sees it"
    )
    crop_threshold: int = 20
    crop_margin: int = 16
    crop_agreement: float = Field(
        0, ge=0, le=1, description="Measured by you: share of labels within the head's box as without"
    )
    crop_measured_on: str = "not measured"
    full_gb: float = 2.0
    cropped_gb: float = 1.0
    full_seconds: float | None = Field(
        None,
        gt=0,
        description="Measured by you, on two processors of a server; the card says nothing without",
    )
    cropped_seconds: float | None = Field(None, gt=0)


class Settings(_Part):
    """All of it."""

    data: Data = Data()
    making: Making = Making()
    network: Network = Network()
    fitting: Fitting = Fitting()
    finishing: Finishing = Finishing()
    card: Card = Card()


def read_settings(path: Path) -> Settings:
    """Read a training's configuration; relative paths in it start at its folder.

    Raises
    ------
    MissingInputError
        There is no such file.
    UsageError
        It is no TOML, or a key is unknown or out of range; the message names each.
    """
    try:
        with path.open("rb") as file:
            settings = Settings.model_validate(tomllib.load(file))
    except FileNotFoundError:
        raise MissingInputError(f"configuration {path} is not there") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"configuration {path} is no TOML: {error}") from error
    except ValidationError as error:
        findings = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"configuration {path}: {findings}") from error
    start = settings.fitting.start
    if not start.endswith(".json"):
        return settings
    fitting = settings.fitting.model_copy(update={"start": str(path.parent.absolute() / start)})
    return settings.model_copy(update={"fitting": fitting})
