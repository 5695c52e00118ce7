"""What a card says of a network's input: its lattice, its grey values, and how it is run over a volume."""

from typing import Annotated, Literal, Self

from nibabel.orientations import axcodes2ornt
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from brainchop_pipe.core.contrast import Contrast

AlphaNumeric = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+$")]
Plane = Literal["axial", "coronal", "sagittal"]
Preparing = Literal["none", "head", "mask", "brain"]

_PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")


class CardPart(BaseModel):
    """A piece of a card: immutable, and an unknown key is an error, not a typing mistake kept silent."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelGrid(CardPart):
    """The lattice that a network sees; the default is FreeSurfer's, which all models share."""

    shape: tuple[int, int, int] = Field((256, 256, 256), description="Voxels along each axis")
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    orientation: Annotated[str, StringConstraints(pattern=r"^[LRAPIS]{3}$")] = Field(
        "LIA", description="Where each axis leads: left or right, anterior or posterior, inferior or superior"
    )
    values: Literal["uint8", "raw"] = Field(
        "uint8", description="uint8: 0 to 99.9 % of the image spread over 0 to 255; raw: as in the file"
    )

    @model_validator(mode="after")
    def _is_a_lattice(self) -> Self:
        if min(self.shape) < 1 or min(self.spacing_mm) <= 0:
            raise ValueError(f"shape {self.shape} and spacing {self.spacing_mm} must be above 0")
        if len(set(axcodes2ornt(tuple(self.orientation))[:, 0])) != 3:
            raise ValueError(f"orientation {self.orientation!r} names an axis twice; 'RAS' is an example")
        return self

    @property
    def is_conformed(self) -> bool:
        """Whether it is the lattice that an image is conformed to once for all models."""
        return self == ModelGrid()


class QuantileScaling(CardPart):
    """clip((v - q_low) / (q_high - q_low + epsilon), 0, 1) with quantiles of the volume."""

    method: Literal["quantile"]
    low: float = Field(0.02, ge=0, le=1)
    high: float = Field(0.98, ge=0, le=1)
    epsilon: float = Field(1e-3, gt=0, description="In grey levels")
    over: Literal["volume", "foreground"] = Field("volume", description="All voxels, or those that are not 0")


class RangeScaling(CardPart):
    """(v - min) / (max - min) over the whole volume."""

    method: Literal["minmax"]


class ZScoreScaling(CardPart):
    """(v - mean) / standard deviation; what is not counted stays 0."""

    method: Literal["zscore"]
    over: Literal["volume", "foreground"] = Field(
        "foreground", description="All voxels, or those that are not 0"
    )


class WindowScaling(CardPart):
    """clip((v - low) / (high - low), 0, 1) with fixed grey levels, as for CT."""

    method: Literal["window"]
    low: float
    high: float

    @model_validator(mode="after")
    def _opens(self) -> Self:
        if self.high <= self.low:
            raise ValueError(f"window from {self.low} to {self.high} is empty; high must be above low")
        return self


class NoScaling(CardPart):
    """Grey levels as they are on the model's lattice."""

    method: Literal["none"]


Intensity = QuantileScaling | RangeScaling | ZScoreScaling | WindowScaling | NoScaling


class Crop(CardPart):
    """How the network's field of view is cut to the head, and what that changes."""

    threshold: int = Field(ge=0, le=254, description="Grey levels above it are head")
    margin_voxels: int = Field(ge=0, description="Added on each side of the head's box")
    agreement: float = Field(
        ge=0, le=1, description="Share of the foreground with the same label as in the full volume"
    )
    measured_on: str


class WholeVolume(CardPart):
    """The network takes the volume, or its crop, in one go, or in tiles where memory is short."""

    method: Literal["volume"] = "volume"
    halo: int | None = Field(
        None,
        ge=0,
        description="Voxels around one that its label depends on: the reach of the convolutions. None: "
        "the network must not be tiled",
    )
    most_gb: float | None = Field(
        None, gt=0, description="Run in tiles of no more memory than this, even where there is more"
    )

    @model_validator(mode="after")
    def _can_keep_the_limit(self) -> Self:
        if self.most_gb is not None and self.halo is None:
            raise ValueError("most_gb needs the halo that tiles are to have")
        return self


class SubVolumes(CardPart):
    """The network takes pieces of one size: a grid of them, then more at random places; voxels vote."""

    method: Literal["subvolumes"]
    shape: tuple[int, int, int]
    count: int = Field(
        0, ge=0, le=5000, description="Pieces in all; those beyond the grid lie at places drawn from a normal"
    )
    sd_share: float = Field(
        0.2, gt=0, description="Standard deviation of the places, as a share of the volume's size"
    )
    seed: int = 0


class Slices(CardPart):
    """A 2-D network takes slice after slice; probabilities of several planes are averaged."""

    method: Literal["slices"]
    planes: tuple[Plane, ...] = Field(_PLANES, min_length=1, max_length=3)
    batch: int = Field(8, ge=1, description="Slices at a time")


Run = WholeVolume | SubVolumes | Slices


class WantedContrast(CardPart):
    """The contrast that a network is used to, but for its white matter; see `core.contrast.Contrast`."""

    csf: float = Field(gt=0, le=2, description="Level of CSF")
    grey_matter: float = Field(gt=0, le=2, description="Level of grey matter")
    sharpness: float = Field(gt=0, le=1, description="Images that are sharper are smoothed to this")


class Input(CardPart):
    """The volume that the network takes; by default (1, 1, 256, 256, 256) float32 of 1 mm in LIA order."""

    grid: ModelGrid = ModelGrid()
    layout: Literal["NCDHW", "NDHWC", "NCHW", "NHWC"] = Field(
        "NCDHW", description="Order of batch, channel and space; those without D are for 2-D networks"
    )
    dtype: Literal["float32", "float16", "uint8", "int32"] = "float32"
    contrasts: tuple[AlphaNumeric, ...] = Field(
        (), description="For several channels: the BIDS suffix of each; the first is the image itself"
    )
    multiple_of: int = Field(
        1, ge=1, description="Sizes that the network takes, as U-Nets do; zeros are added at the end"
    )
    intensity: Intensity = Field(discriminator="method")
    prepare: Preparing = Field(
        "none",
        description="head: the bias field of the whole head is corrected, and noise that stands out in the "
        "air is set to 0; mask: the network sees what lies within a brain mask, the rest is 0; brain: "
        "within it, the bias field is corrected and grey levels brought to `white_matter` and `contrast`, in "
        "place of `intensity`. A network that finds the brain may see a head alone",
    )
    prepare_alone: Preparing | None = Field(
        None,
        description="What it sees where it makes a label map of its own, and not tissue maps together with a "
        "mask model; None: the same",
    )
    white_matter: float = Field(1.0, gt=0, le=2, description="Where a prepared brain has its white matter")
    contrast: WantedContrast | None = Field(
        None,
        description="Of a prepared brain: its CSF, grey and white matter are brought to these levels and to "
        "`white_matter`, and its borders to this sharpness. None: white matter alone is scaled",
    )
    crop: Crop | None = Field(None, description="None: the network must see the full volume")
    run: Run = Field(WholeVolume(), discriminator="method")

    @property
    def wanted_contrast(self) -> Contrast | None:
        """The contrast to which a prepared brain is brought; None: white matter alone is scaled."""
        if self.contrast is None:
            return None
        return Contrast(white_matter=self.white_matter, **self.contrast.model_dump())

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        two_dimensional = "D" not in self.layout
        if two_dimensional != isinstance(self.run, Slices):
            raise ValueError(f"layout {self.layout!r} does not go with run method {self.run.method!r}")
        if isinstance(self.run, SubVolumes) and any(
            piece > size for piece, size in zip(self.run.shape, self.grid.shape, strict=True)
        ):
            raise ValueError(f"pieces of {self.run.shape} are larger than the grid of {self.grid.shape}")
        if isinstance(self.run, WholeVolume) and self.run.halo is not None and self.multiple_of > 1:
            raise ValueError("a network with multiple_of cannot be tiled exactly; leave run.halo out")
        if self.dtype in ("uint8", "int32") and (
            not isinstance(self.intensity, NoScaling) or self.prepare == "brain"
        ):
            raise ValueError(f"dtype {self.dtype!r} cannot hold scaled values; use the intensity 'none'")
        if len(self.contrasts) == 1:
            raise ValueError("contrasts are for networks of several channels; leave them out for one")
        if self.contrast is not None and not (
            self.contrast.csf < self.contrast.grey_matter < self.white_matter <= 1
        ):
            raise ValueError(
                f"levels of CSF ({self.contrast.csf}), grey ({self.contrast.grey_matter}) and white matter "
                f"({self.white_matter}) must rise in this order, as in T1-weighted images, to 1 at most"
            )
        if self.contrast is not None and "brain" not in (self.prepare, self.prepare_alone):
            raise ValueError("a contrast is that of a prepared brain; ask for it with prepare 'brain'")
        if self.contrasts and self.prepare == "brain":
            raise ValueError("prepare 'brain' is for networks of one channel; 'mask' is for any")
        return self
