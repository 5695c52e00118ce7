"""What a model is: a card, `models/NAME.json`, that says all that the code must know.

`ModelCard.model_json_schema()` is the machine-readable form of this page, and
``models/README.md`` a guide for people who write one.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from brainchop_pipe.errors import MissingInputError, ModelError

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
AlphaNumeric = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]+$")]
Tissue = Literal["GM", "WM", "CSF"]


class _Part(BaseModel):
    """A piece of a card: immutable, and an unknown key is an error, not a typing mistake kept silent."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class WeightFile(_Part):
    """One file of the published weights."""

    path: str = Field(description="Place below `base_url` or a mirror, or beside the card")
    sha256: Sha256

    @model_validator(mode="after")
    def _stays_below_its_folder(self) -> Self:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"path {self.path!r} leads out of its folder")
        return self


class Weights(_Part):
    """Where a model's weights come from and how it is known that they are the right ones."""

    format: Literal["tfjs-layers", "onnx"] = Field(
        description="'onnx': one file; 'tfjs-layers': model.json and its weight file, converted on first use"
    )
    base_url: str | None = Field(
        None, description="Folder on the web that the paths are below; without it they are beside the card"
    )
    files: tuple[WeightFile, ...]
    onnx_sha256: Sha256 = Field(description="Of the ONNX file that runs: the one given, or the converted one")

    @model_validator(mode="after")
    def _has_the_files_of_its_format(self) -> Self:
        needed = {"onnx": 1, "tfjs-layers": 2}[self.format]
        if len(self.files) != needed:
            raise ValueError(f"format {self.format!r} takes {needed} file(s); {len(self.files)} are given")
        return self


class QuantileScaling(_Part):
    """clip((v - q_low) / (q_high - q_low + epsilon), 0, 1) with quantiles of the whole volume."""

    method: Literal["quantile"]
    low: float = Field(0.02, ge=0, le=1)
    high: float = Field(0.98, ge=0, le=1)
    epsilon: float = Field(1e-3, gt=0, description="In grey levels of 0-255")


class RangeScaling(_Part):
    """(v - min) / (max - min) over the whole volume."""

    method: Literal["minmax"]


class Crop(_Part):
    """How the network's field of view is cut to the head, and what that changes."""

    threshold: int = Field(ge=0, le=254, description="Grey levels above it are head")
    margin_voxels: int = Field(ge=0, description="Added on each side of the head's box")
    agreement: float = Field(
        ge=0, le=1, description="Share of the foreground with the same label as in the full volume"
    )
    measured_on: str


class Input(_Part):
    """The volume that the network takes: (1, 1, 256, 256, 256) float32 of 1 mm in LIA order."""

    intensity: QuantileScaling | RangeScaling = Field(discriminator="method")
    prepare: Literal["none", "brain"] = Field(
        "none",
        description="brain: where a mask model owns the tissue maps together with this one, what lies "
        "outside of its mask is set to 0, the bias field within is corrected, and the peak of white matter "
        "is scaled to `white_matter`, in place of `intensity`",
    )
    white_matter: float = Field(1.0, gt=0, le=2, description="Where a prepared brain has its white matter")
    crop: Crop | None = Field(None, description="None: the network must see the full volume")


class Label(_Part):
    """One class of the network."""

    index: int = Field(ge=0, le=65535, description="Channel of the network, and value in label maps")
    name: str = Field(min_length=1)
    abbreviation: str | None = None
    color: Annotated[str, StringConstraints(pattern=r"^#[0-9A-F]{6}$")]
    freesurfer: tuple[int, ...] = Field(
        (), description="Indices in FreeSurfer's colour table: one, or left and right of a bilateral class"
    )
    tissue: Tissue | None = Field(None, description="For tissue models: what this class is")


class Output(_Part):
    """What the network's classes are, and what may be written from them."""

    role: Literal["mask", "tissue", "regions"] = Field(
        description="mask: class 1 is the brain; tissue: grey and white matter; regions: anything else"
    )
    description: AlphaNumeric = Field(description="Value of `desc-` in file names, such as 'subcortical'")
    includes_csf: bool = Field(False, description="For masks: the CSF around the brain is part of it")
    labels: tuple[Label, ...] = Field(min_length=2, description="In the order of the network's channels")

    @model_validator(mode="after")
    def _labels_fit_the_role(self) -> Self:
        if [label.index for label in self.labels] != list(range(len(self.labels))):
            raise ValueError("labels must have the indices 0, 1, 2, ... in this order")
        if self.role == "mask" and len(self.labels) != 2:
            raise ValueError(f"a mask model has 2 labels; {len(self.labels)} are given")
        if self.role == "tissue" and not {"GM", "WM"} <= {label.tissue for label in self.labels}:
            raise ValueError("a tissue model needs a label with tissue 'GM' and one with 'WM'")
        return self

    def indices_of(self, tissue: Tissue) -> tuple[int, ...]:
        """Give the indices of the classes that are a tissue; there may be several, or none."""
        return tuple(label.index for label in self.labels if label.tissue == tissue)


class PostFilter(_Part):
    """What is done to the label map before it leaves the models' grid."""

    largest_component: bool = Field(True, description="Keep the largest region of all labels together")
    connectivity: Literal[6, 18, 26] = 26


class License(_Part):
    """Terms under which the weights may be used."""

    id: str = Field(description="SPDX identifier")
    url: str


class Memory(_Part):
    """Peak memory of a run of the network on the CPU, gigabytes (10^9 bytes)."""

    full_gb: float = Field(gt=0)
    cropped_gb: float = Field(gt=0, description="For a typical adult head")


class ModelCard(_Part):
    """All that is known of a model."""

    schema_version: Literal[1]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$")]
    version: str = Field(min_length=1)
    bids_label: AlphaNumeric = Field(description="Value of `seg-` in file names: letters and digits only")
    title: str
    description: str
    intended_use: str = Field(description="Say so if it is not for clinical use")
    training_data: str = Field(description="As far as known")
    modalities: tuple[AlphaNumeric, ...] = Field(
        min_length=1, description="BIDS suffixes of the contrasts that it was trained for"
    )
    license: License
    citations: tuple[str, ...]
    weights: Weights
    input: Input
    output: Output
    post_filter: PostFilter = PostFilter()
    memory: Memory


def read_card(path: Path) -> ModelCard:
    """Read and check a model card.

    Raises
    ------
    MissingInputError
        There is no such file.
    ModelError
        The file is no JSON, or a key is missing, unknown, or out of range; the
        message names each.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise MissingInputError(f"model card {path} is not there") from None
    try:
        return ModelCard.model_validate(json.loads(text))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"model card {path} is no JSON: {error}") from error
    except ValidationError as error:
        findings = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']} (found {str(e['input'])[:60]!r})"
            for e in error.errors()
        )
        raise ModelError(f"model card {path} does not fit the schema: {findings}") from error
