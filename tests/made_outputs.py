"""Made outputs: sidecars and tables as the app writes them, beside images of nothing."""

import json
from pathlib import Path

from brainchop_pipe.bids.names import Source, parse_name
from brainchop_pipe.bids.results import TISSUES
from brainchop_pipe.bids.sidecar import (
    ExecutionRecord,
    InputRecord,
    LabelMapSidecar,
    ModelRecord,
    ProvenanceRecord,
    QualityRecord,
)

LABELS = {1: "Grey matter", 2: "White matter", 3: "Cerebrospinal fluid"}
VOLUMES = {1: 600e3, 2: 500e3, 3: 300e3}


def made_source(name: str) -> Source:
    entities, suffix = parse_name(name)
    sub = f"sub-{dict(entities)['sub']}"
    folder = Path(sub) / "anat"
    return Source(folder, name, f"bids:raw:{folder}/{name}", sub, entities, suffix)


def made_provenance(source: Source, **changes: object) -> ProvenanceRecord:
    known = {
        "signature": "0" * 64,
        "command": "brainchop BIDS_DIR OUT participant",
        "parameters": {"Prepare": "auto", "OutputOrientation": "ras"},
        "input": InputRecord(
            uri=source.uri, sha256="1" * 64, voxels_sha256="2" * 64, size=1, modification_time_ns=1
        ),
        "models": (
            ModelRecord(
                name="made",
                version="1",
                sha256="3" * 64,
                source_url="local file",
                source_sha256={},
                license="MIT",
                trained_for=("T1w",),
                intended_use="Tests",
                citations=("Maker (2026) A paper",),
            ),
        ),
        "execution": {
            "made": ExecutionRecord(
                requested_device="auto",
                provider="CPUExecutionProvider",
                fallbacks=(),
                threads=1,
                precision="float32",
                field_of_view="256 x 256 x 256",
            )
        },
        "code": {"Name": "brainchop_pipe", "Version": "1.0"},
        "versions": {"onnxruntime": "1.0", "SimpleITK": "2.3"},
        "hardware": {"OperatingSystem": "Linux", "Machine": "x86_64", "CPU": "A processor", "GPU": None},
        "start_time": "2026-01-01T00:00:00Z",
        "end_time": "2026-01-01T00:00:01Z",
        "stage_seconds": {"infer made": 1.0},
        "peak_memory_mb": 1,
        "warnings": (),
    }
    return ProvenanceRecord(**{**known, **changes})


def make_result(
    output_dir: Path,
    name: str,
    volumes: dict[int, float] = VOLUMES,
    *,
    labels: dict[int, str] = LABELS,
    segmentation: str = TISSUES,
    flags: tuple[str, ...] = (),
    **changes: object,
) -> Path:
    """Write sidecar, table and a file in place of the image for a label map; gives the sidecar."""
    source = made_source(name)
    more = {} if segmentation == TISSUES else {"seg": segmentation, "desc": "made"}
    place = output_dir / source.derivative("dseg", ".json", **more)
    place.parent.mkdir(parents=True, exist_ok=True)
    total = sum(volumes.values())
    quality = QualityRecord(
        flags=flags,
        intracranial_volume_mm3=total,
        intracranial_volume_method="mask of made",
        intracranial_fractions={str(i): v / total for i, v in volumes.items()},
        components_removed=0,
        border_share=0.0,
        mean_confidence=0.9,
    )
    sidecar = LabelMapSidecar(
        volumes_mm3={str(i): v for i, v in volumes.items()},
        quality=quality,
        provenance=made_provenance(source, **changes),
    )
    place.write_text(json.dumps(sidecar.as_json()))
    place.with_name(place.name.replace(".json", ".nii.gz")).touch()
    rows = "".join(f"{i}\t{label}\t#D55E00\n" for i, label in labels.items())
    place.with_suffix(".tsv").write_text(f"index\tname\tcolor\n0\tBackground\t#000000\n{rows}")
    return place
