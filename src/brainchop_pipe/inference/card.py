"""What a model is: a card, `models/NAME.json`, that says all that the code must know.

`ModelCard.model_json_schema()` is the machine-readable form of this page, and
``models/README.md`` a guide for people who write one.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError, model_validator

from brainchop_pipe.errors import MissingInputError, ModelError
from brainchop_pipe.inference.card_input import AlphaNumeric, CardPart, Input, WholeVolume
from brainchop_pipe.inference.runner import Precision

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Tissue = Literal["GM", "WM", "CSF"]


class WeightFile(CardPart):
    """One file of the published weights."""

    path: str = Field(description="Place below `base_url` or a mirror, or beside the card")
    sha256: Sha256

    @model_validator(mode="after")
    def _stays_below_its_folder(self) -> Self:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"path {self.path!r} leads out of its folder")
        return self


class MeshNetSettings(CardPart):
    """What a safetensors file does not say of the MeshNet that its weights are of."""

    dilations: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, description="Of each convolution but the last, which is 1×1×1"
    )
    activation: Literal["relu", "elu", "gelu"] = Field(description="After each convolution but the last")
    norm: Literal["none", "batch", "instance"] = Field(
        "none", description="Between convolution and activation; 'batch' is folded into the weights"
    )
    epsilon: float = Field(1e-5, gt=0, description="Of the batch norm")


class Weights(CardPart):
    """Where a model's weights come from and how it is known that they are the right ones."""

    format: Literal["tfjs-layers", "safetensors", "onnx"] = Field(
        description="'onnx': one file, taken as it is; a MeshNet's weights are converted on first use: "
        "'tfjs-layers', model.json and its weight file, or 'safetensors', one file and `meshnet`"
    )
    meshnet: MeshNetSettings | None = Field(None, description="For 'safetensors' alone")
    base_url: str | None = Field(
        None, description="Folder on the web that the paths are below; without it they are beside the card"
    )
    files: tuple[WeightFile, ...]
    onnx_sha256: Sha256 = Field(description="Of the ONNX file that runs: the one given, or the converted one")

    @model_validator(mode="after")
    def _has_the_files_of_its_format(self) -> Self:
        needed = {"onnx": 1, "safetensors": 1, "tfjs-layers": 2}[self.format]
        if len(self.files) != needed:
            raise ValueError(f"format {self.format!r} takes {needed} file(s); {len(self.files)} are given")
        if (self.format == "safetensors") != (self.meshnet is not None):
            raise ValueError("`meshnet` is for the format 'safetensors', which needs it")
        return self


class Label(CardPart):
    """One value of the label maps."""

    index: int = Field(ge=0, le=65535, description="Value in label maps")
    channels: tuple[int, ...] = Field(
        (),
        description="Classes of the network that become this label, where one of them is the most probable; "
        "none: the one of the same number",
    )
    name: str = Field(min_length=1)
    abbreviation: str | None = None
    color: Annotated[str, StringConstraints(pattern=r"^#[0-9A-F]{6}$")]
    freesurfer: tuple[int, ...] = Field(
        (), description="Indices in FreeSurfer's colour table: one, or left and right of a bilateral class"
    )
    tissue: Tissue | None = Field(None, description="For tissue models: what this class is")


class Output(CardPart):
    """What the network's classes are, and what may be written from them."""

    role: Literal["mask", "tissue", "regions"] = Field(
        description="mask: label 1 is the brain; tissue: grey and white matter; regions: anything else"
    )
    description: AlphaNumeric = Field(description="Value of `desc-` in file names, such as 'subcortical'")
    values: Literal["logits", "probabilities", "sigmoid", "labels"] = Field(
        "logits",
        description="What the network gives: scores before the soft-max; probabilities after it; one channel "
        "of scores of label 1, before the sigmoid; or one channel of label numbers",
    )
    extent: Literal["whole", "box"] = Field(
        "whole",
        description="Where the network answers: everywhere it sees, or in a box, whose first voxel, three "
        "int64, is a second output; beyond it all is background. For networks with scores or probabilities "
        "of a volume in one go",
    )
    includes_csf: bool = Field(
        False,
        description="For masks and tissues: the CSF around the brain is in the labels, so that all but the "
        "background are the brain's mask",
    )
    labels: tuple[Label, ...] = Field(min_length=2, description="In the order of their indices")

    @model_validator(mode="after")
    def _labels_fit_the_role(self) -> Self:
        if [label.index for label in self.labels] != list(range(len(self.labels))):
            raise ValueError("labels must have the indices 0, 1, 2, ... in this order")
        if self.role == "mask" and len(self.labels) != 2:
            raise ValueError(f"a mask model has 2 labels; {len(self.labels)} are given")
        if self.role == "tissue" and not {"GM", "WM"} <= {label.tissue for label in self.labels}:
            raise ValueError("a tissue model needs a label with tissue 'GM' and one with 'WM'")
        if self.role == "tissue" and self.includes_csf and not self.indices_of("CSF"):
            raise ValueError("a tissue model that includes CSF needs a label with tissue 'CSF'")
        classes = sorted(c for classes in self.classes for c in classes)
        if classes != list(range(len(classes))):
            raise ValueError(f"labels name the network's channels {classes}; each must be named once")
        if self.values == "sigmoid" and len(self.labels) != 2:
            raise ValueError(f"values 'sigmoid' go with 2 labels; {len(self.labels)} are given")
        return self

    @property
    def finds_brain(self) -> bool:
        """Whether all labels but the background are the brain with the CSF around it."""
        return self.includes_csf and self.role != "regions"

    @property
    def classes(self) -> tuple[tuple[int, ...], ...]:
        """Classes of the network that each label takes together, in the order of the labels."""
        return tuple(label.channels or (label.index,) for label in self.labels)

    @property
    def class_count(self) -> int:
        """How many classes the network tells apart; more than there are labels where labels merge some."""
        return sum(map(len, self.classes))

    @property
    def channel_count(self) -> int:
        """How many channels the network's output has."""
        return 1 if self.values in ("sigmoid", "labels") else self.class_count

    def indices_of(self, tissue: Tissue) -> tuple[int, ...]:
        """Give the indices of the classes that are a tissue; there may be several, or none."""
        return tuple(label.index for label in self.labels if label.tissue == tissue)


class PostFilter(CardPart):
    """What is done to the label map, in this order, on the model's grid: before its way back to the image."""

    core_voxels: int = Field(
        0,
        ge=0,
        le=16,
        multiple_of=2,
        description="First: take the surface off all labels together, so deep, keep the largest region and "
        "what is near it; removes noise, and what hangs on by a thin bridge. 0: not",
    )
    largest_component: bool = Field(True, description="Keep the largest region of all labels together")
    largest_component_per_label: bool = Field(
        False, description="Keep the largest region of each label, the two largest of a class of both sides"
    )
    least_mm3: float = Field(0, ge=0, description="Remove regions of all labels together that are smaller")
    least_mm3_per_label: float = Field(0, ge=0, description="Remove regions of a label that are smaller")
    fill_holes: bool = Field(False, description="What all labels together enclose gets the nearest label")
    fill_holes_per_label: bool = Field(False, description="What one label encloses becomes that label")
    connectivity: Literal[6, 18, 26] = Field(26, description="Neighbours that touch: face, edge or corner")


class License(CardPart):
    """Terms under which the weights may be used."""

    id: str = Field(description="SPDX identifier")
    url: str


class ShorterType(CardPart):
    """A type shorter than float32 that the network may compute in, where a user asks for it."""

    type: Literal["bfloat16"]
    agreement: float = Field(
        gt=0, le=1, description="Share of the foreground with the label that float32 gives"
    )
    measured_on: str = Field(min_length=1, description="Image, device, versions")


class Memory(CardPart):
    """Peak memory of a run of the network on the CPU, gigabytes (10^9 bytes)."""

    full_gb: float = Field(gt=0)
    cropped_gb: float = Field(gt=0, description="For a typical adult head")


class Time(CardPart):
    """How long a run of the network takes on two processors of a server, seconds."""

    full_seconds: float = Field(gt=0)
    cropped_seconds: float = Field(gt=0, description="For a typical adult head")


class ModelCard(CardPart):
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
    shorter_types: tuple[ShorterType, ...] = Field((), description="What it may compute in besides float32")
    time: Time | None = Field(None, description="What jobs of a cluster are planned by; none: a minute")

    @model_validator(mode="after")
    def _can_play_its_role(self) -> Self:
        finds_brain = self.output.finds_brain
        if finds_brain and self.input.grid.values == "raw":
            raise ValueError("a mask model that includes CSF sees the conformed image: grid.values 'uint8'")
        if (finds_brain or self.output.role == "tissue") and self.input.contrasts:
            raise ValueError("models of masks with CSF and of tissues take one contrast")
        if self.output.extent == "box":
            self._can_answer_for_a_box()
        return self

    def _can_answer_for_a_box(self) -> None:
        run, layout, values = self.input.run, self.input.layout, self.output.values
        in_one_go = isinstance(run, WholeVolume) and run.halo is None
        if not in_one_go or layout != "NCDHW" or values not in ("logits", "probabilities"):
            raise ValueError(
                "output.extent 'box' goes with layout 'NCDHW', values 'logits' or 'probabilities', and a run "
                "over the volume without halo"
            )

    def allows(self, precision: Precision) -> bool:
        """Tell whether the network may compute in a type; float32 is always allowed."""
        return precision == "float32" or precision in {shorter.type for shorter in self.shorter_types}


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
