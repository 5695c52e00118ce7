"""What both engines take over from a step: its parameters, their defaults, and what they mean."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

# Where a step writes to is the engine's business.
PLACES = ("out_file", "out_dir")

# Parameters that name a model, and those that are resources: no part of what a result is of.
MODELS = ("model", "mask_model", "tissue_model")
RESOURCES = ("device", "threads", "mem_gb")

Step = Callable[..., Any]


def parameters(step: Step) -> dict[str, inspect.Parameter]:
    """Give the parameters of a step that an engine offers, in order."""
    signature = inspect.signature(step)
    return {name: p for name, p in signature.parameters.items() if name not in PLACES}


def with_paths(step: Step, given: dict[str, Any]) -> dict[str, Any]:
    """Give a step's arguments with files as paths, whatever an engine calls a file."""
    return {name: _as_path(given[name], parameter) for name, parameter in parameters(step).items()}


def _as_path(value: Any, parameter: inspect.Parameter) -> Any:
    if is_files(parameter):
        return tuple(Path(each) for each in value)
    return Path(value) if is_file(parameter) and value is not None else value


def is_file(parameter: inspect.Parameter) -> bool:
    """Tell whether a parameter is a file to read, or may be one."""
    return parameter.annotation in (Path, Path | None)


def is_files(parameter: inspect.Parameter) -> bool:
    """Tell whether a parameter is any number of files to read."""
    return bool(parameter.annotation == tuple[Path, ...])


def choices(parameter: inspect.Parameter) -> tuple[Any, ...]:
    """Give the values that a parameter may have; empty where its type does not list them."""
    annotation = parameter.annotation
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    found = [a for a in get_args(annotation) if get_origin(a) is Literal]
    return (None, *get_args(found[0])) if found else ()


def descriptions(step: Step) -> dict[str, str]:
    """Give what a step's docstring says of each parameter, in one line each."""
    text = inspect.getdoc(step) or ""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w+\n-+\n|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.findall(
        r"^(\w+) : [^\n]*\n((?:    [^\n]*\n?)*)", section[1] if section else "", re.MULTILINE
    )
    return {name: " ".join(body.split()) for name, body in entries}
