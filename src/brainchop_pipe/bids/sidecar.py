"""What stands in a sidecar of this program, written and read by the same definitions.

Keys of files are those of the fields in Pascal case: ``start_time`` is ``StartTime``.
What a reader does not know is passed over, so that older and newer files can be read.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_pascal


class SidecarPart(BaseModel):
    """A mapping in a sidecar."""

    model_config = ConfigDict(
        frozen=True, alias_generator=to_pascal, populate_by_name=True, allow_inf_nan=False
    )

    def as_json(self) -> dict[str, Any]:
        """Give what was set, under the names that files have."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


class InputRecord(SidecarPart):
    """The image that a result was made of: the file as it lay there, and what it holds."""

    uri: str = Field(alias="URI")
    sha256: str = Field(alias="SHA256")
    voxels_sha256: str = Field(alias="VoxelsSHA256")
    size: int
    modification_time_ns: int


class OutputRecord(SidecarPart):
    """A file as it was written."""

    sha256: str = Field(alias="SHA256")
    size: int


class FurtherFile(SidecarPart):
    """A file that was read besides the image."""

    sha256: str = Field(alias="SHA256")


class ModelRecord(SidecarPart):
    """A model: what ran, where it is from, under which terms."""

    name: str
    version: str
    sha256: str = Field(alias="SHA256")
    source_url: str = Field(alias="SourceURL")
    source_sha256: dict[str, str] = Field(alias="SourceSHA256")
    license: str
    trained_for: tuple[str, ...]
    intended_use: str
    citations: tuple[str, ...] = ()


class ExecutionRecord(SidecarPart):
    """Where a model ran, against where it was asked to run, in which numbers, and on what."""

    requested_device: str
    provider: str
    fallbacks: tuple[str, ...]
    threads: int
    precision: str
    field_of_view: str = ""
    preparation: str = ""


class ProvenanceRecord(SidecarPart):
    """How a file came about."""

    signature: str
    command: str
    parameters: dict[str, bool | str | None]
    input: InputRecord
    given_mask: FurtherFile | None = None
    contrasts: dict[str, FurtherFile] = {}
    models: tuple[ModelRecord, ...]
    execution: dict[str, ExecutionRecord]
    code: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    start_time: str
    end_time: str
    stage_seconds: dict[str, float]
    peak_memory_mb: int = Field(alias="PeakMemoryMB")
    warnings: tuple[str, ...]
    output: OutputRecord | None = None


class QualityRecord(SidecarPart):
    """Numbers that tell a result that is right from one to look at."""

    flags: tuple[str, ...]
    intracranial_volume_mm3: float | None
    intracranial_volume_method: str | None
    intracranial_fractions: dict[str, float]
    components_removed: int
    border_share: float
    mean_confidence: float | None


class LabelMapSidecar(SidecarPart):
    """What the sidecar of a label map says besides BIDS's own keys."""

    volumes_mm3: dict[str, float]
    quality: QualityRecord
    provenance: ProvenanceRecord
    label_scheme: str | None = None
    sides: str | None = None
