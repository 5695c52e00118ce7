"""How a file was made, in words: the same for the terminal and for pages."""

from typing import Any

from brainchop_pipe.bids.sidecar import ModelRecord, ProvenanceRecord


def provenance_lines(record: ProvenanceRecord) -> tuple[tuple[str, str], ...]:
    """Tell how a file was made, for people: what it is, and its value."""
    lines = [
        ("Command", record.command),
        ("Input", f"{record.input.uri} (SHA-256 {record.input.sha256})"),
        *((f"Model {model.name}", _model_line(model, record)) for model in record.models),
    ]
    if record.given_mask is not None:
        lines.append(("Mask that was given", f"SHA-256 {record.given_mask.sha256}"))
    lines += [(f"Contrast {suffix}", f"SHA-256 {file.sha256}") for suffix, file in record.contrasts.items()]
    lines += [
        ("Program", _program_line(record.code)),
        ("Parameters", ", ".join(f"{name}: {value}" for name, value in record.parameters.items())),
        ("Versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
        ("Machine", ", ".join(_machine_words(record.hardware))),
        ("Time", f"{record.start_time} to {record.end_time}"),
        ("Peak memory", f"{record.peak_memory_mb} MB"),
    ]
    if record.output is not None:
        lines.append(("Output", f"{record.output.size} bytes, SHA-256 {record.output.sha256}"))
    return tuple(lines)


def _model_line(model: ModelRecord, record: ProvenanceRecord) -> str:
    parts = [f"version {model.version}", f"{model.source_url}, SHA-256 {model.sha256}", model.license]
    execution = record.execution.get(model.name)
    if execution is not None:
        asked = execution.requested_device
        parts.append(f"ran on {execution.provider} (asked for: {asked}), {execution.threads} threads")
        parts.append(f"{execution.precision}, saw {execution.field_of_view}")
        parts += [execution.preparation] if execution.preparation else []
    return "; ".join(parts)


def _program_line(code: dict[str, Any]) -> str:
    parts = [f"{code.get('Name')} {code.get('Version')}"]
    if "Commit" in code:
        parts.append(f"commit {code['Commit']}{' with changes' if code.get('Dirty') else ''}")
    if "Container" in code:
        parts.append(f"container {code['Container'].get('Digest')}")
    return ", ".join(parts)


def _machine_words(hardware: dict[str, Any]) -> list[str]:
    values = [value for value in hardware.values() if value]
    return [" ".join(map(str, value)) if isinstance(value, list) else str(value) for value in values]
