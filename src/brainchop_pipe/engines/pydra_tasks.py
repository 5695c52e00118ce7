"""The steps as Pydra tasks, and the workflow of one image.

Results are remembered by content: of the input images, the parameters, the models'
cards (which hold the SHA-256 of the weights) and the version of this package. Device
and threads are no part of it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias
from typing import Any, cast

# Pydra asks the network for its newest version unless this is set before the import.
os.environ["NO_ET"] = "1"

import attrs
from fileformats.application import Json
from fileformats.generic import File
from fileformats.medimage import MghGz, Nifti1, NiftiGz
from pydra.compose import python, workflow
from pydra.utils.hash import register_serializer

from brainchop_pipe.engines.describe import (
    MODELS,
    PLACES,
    Step,
    choices,
    descriptions,
    is_file,
    is_files,
    parameters,
    with_paths,
)
from brainchop_pipe.file_steps import (
    conform_file,
    correct_bias_file,
    extract_brain_file,
    infer_file,
    post_filter_file,
    restore_file,
    segment_labels_file,
    segment_tissues_file,
)
from brainchop_pipe.settings import DEFAULT_MODELS
from brainchop_pipe.versions import code_version
from brainchop_pipe.zoo.catalog import Model, absolute_names, find_model
from brainchop_pipe.zoo.plan import Plan, plan_names

# `read_image` says what can be read. Any file may come that far: a link's target may have no
# suffix, and fileformats does not recognise NIfTI-2 and MGH.
HeadImage = Nifti1 | NiftiGz | MghGz | File

_VERSION = python.arg(
    name="version",
    type=str,
    default=attrs.Factory(code_version),
    help="Of this package: another version's result is another result. Leave it.",
)


class _ModelName(str):
    """A model's name or card, remembered by what the card says rather than by its name."""

    __slots__ = ()


class _Device(str):
    """Where to run: no part of what a result is remembered by."""

    __slots__ = ()


class _Threads(int):
    """How many threads: no part of what a result is remembered by."""

    __slots__ = ()


class _Gigabytes(float):
    """How much memory: no part of what a result is remembered by."""

    __slots__ = ()


@register_serializer(_ModelName)
def _bytes_of_model(name: _ModelName, _cache: Any) -> Any:
    yield b"model:" + find_model(name).card.model_dump_json().encode()


@register_serializer(_Device)
@register_serializer(_Threads)
@register_serializer(_Gigabytes)
def _bytes_of_resource(_value: Any, _cache: Any) -> Any:
    yield b"resource"


def _model_name(value: Any) -> Any:
    """Mark a model's name; a card's path is made absolute, because tasks run in folders of their own."""
    if isinstance(value, str | os.PathLike):
        return _ModelName(absolute_names([os.fspath(value)])[0])
    if isinstance(value, list | tuple):
        # Of a split: one for each task.
        names = [_model_name(name) for name in value]
        return type(value)(names) if isinstance(value, list) else names
    return value  # a field of a workflow under construction


_CONVERTERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys((*MODELS, "models"), _model_name),
    "device": lambda value: _Device(value) if isinstance(value, str) else value,
    "threads": lambda value: _Threads(value) if isinstance(value, int) else value,
    # No limit is no limit, whatever the number: the limit must not make another result.
    "mem_gb": lambda value: (
        _Gigabytes("inf" if value is None else value) if isinstance(value, int | float | None) else value
    ),
}
_SHARED_OPTIONS = (
    *("prefer_affine", "prepare", "full_volume", "interpolation", "label_scheme", "orientation"),
    *("contrasts", "contrast_files", "keep_conformed", "device", "precision", "threads", "mem_gb", "version"),
)


def _inputs(step: Step) -> dict[str, Any]:
    """Give a step's parameters as fields of a task."""
    help_texts = descriptions(step)
    fields = {}
    for name, parameter in parameters(step).items():
        given: dict[str, Any] = {"help": help_texts[name]}
        if parameter.default is not parameter.empty:
            given["default"] = parameter.default
        if is_file(parameter):
            given["type"] = HeadImage if parameter.default is parameter.empty else HeadImage | None
        elif is_files(parameter):
            given["type"] = GenericAlias(tuple, (HeadImage, ...))
        elif allowed := choices(parameter):
            given["type"] = str | None if None in allowed else str
            given["allowed_values"] = [value for value in allowed if value is not None]
        else:
            given["type"] = parameter.annotation
        if name in _CONVERTERS:
            given["converter"] = _CONVERTERS[name]
        fields[name] = python.arg(**given)
    return fields | {"version": _VERSION}


def _call(step: Step, given: dict[str, Any], place: str) -> Any:
    """Run a step in the task's own folder, which is the current one."""
    target = next(name for name in PLACES if name in step.__annotations__)
    return step(**with_paths(step, given), **{target: Path.cwd() / place})


def _found_here(task: Any) -> Any:
    """Say that a task's class is in this module: pickles then name it, and do not take all of it along."""
    task.__module__ = task.Outputs.__module__ = __name__
    task.Outputs.__qualname__ = f"{task.__name__}.Outputs"
    return task


def _task(step: Step, outputs: dict[str, Any]) -> Any:
    """Make a task of a function that calls a step; parameters and docstring are the step's."""

    def define(function: Any) -> Any:
        function.__doc__ = step.__doc__
        return _found_here(python.define(function, inputs=_inputs(step), outputs=outputs))

    return define


@_task(conform_file, {"out_file": Nifti1})
def Conform(**given: Any) -> Any:
    return _call(conform_file, given, "conformed.nii")


@_task(extract_brain_file, {"mask": Nifti1, "brain": Nifti1})
def ExtractBrain(**given: Any) -> Any:
    return tuple(_call(extract_brain_file, given, "."))


@_task(infer_file, {"out_file": Nifti1})
def Infer(**given: Any) -> Any:
    return _call(infer_file, given, "labels.nii")


@_task(post_filter_file, {"out_file": Nifti1})
def PostFilter(**given: Any) -> Any:
    return _call(post_filter_file, given, "labels.nii")


@_task(restore_file, {"out_file": NiftiGz})
def Restore(**given: Any) -> Any:
    return _call(restore_file, given, "labels.nii.gz")


@_task(segment_labels_file, {"labels": NiftiGz, "conformed": NiftiGz | None, "record": Json})
def SegmentLabels(**given: Any) -> Any:
    return tuple(_call(segment_labels_file, given, "."))


@_task(
    segment_tissues_file,
    {
        **dict.fromkeys(("mask", "dseg", "gm", "wm", "csf"), NiftiGz),
        "conformed": NiftiGz | None,
        "record": Json,
    },
)
def SegmentTissues(**given: Any) -> Any:
    return tuple(_call(segment_tissues_file, given, "."))


@_task(correct_bias_file, {"corrected": NiftiGz, "field": NiftiGz, "brain": NiftiGz})
def CorrectBias(**given: Any) -> Any:
    return tuple(_call(correct_bias_file, given, "."))


_OPTIONS = _inputs(segment_tissues_file) | _inputs(segment_labels_file)
_BRAIN_OPTIONS = _inputs(extract_brain_file)


@_found_here
@python.define(outputs={"in_order": list[File]})
def InOrder(first: list[File], second: list[File], places: list[int]) -> Any:
    """Bring the files of two lists, one after the other, into the places that they are to have."""
    both = [*first, *second]
    return [both[places.index(place)] for place in range(len(both))]


@_found_here
@workflow.define(
    inputs={
        "in_file": workflow.arg(type=HeadImage, help="A head: NIfTI or MGH."),
        "models": workflow.arg(
            type=list[str],
            default=list(DEFAULT_MODELS),
            converter=_CONVERTERS["models"],
            help="Names of shipped cards, or paths of cards.",
        ),
        "tissue_model": workflow.arg(
            type=str | None,
            default=None,
            help="Name of the model that owns the tissue maps; None: the first that can.",
        ),
        "mask_model": workflow.arg(
            type=str | None,
            default=None,
            converter=_model_name,
            help="Which model finds the brain for others, where no pair does; None: the first of `models` "
            "that can, else the package's choice.",
        ),
        "given_mask": _BRAIN_OPTIONS["given_mask"],
        **{name: _OPTIONS[name] for name in _SHARED_OPTIONS},
    },
    outputs={
        "mask": NiftiGz | None,
        "dseg": NiftiGz | None,
        "gm": NiftiGz | None,
        "wm": NiftiGz | None,
        "csf": NiftiGz | None,
        "tissue_record": Json | None,
        "labels": list[File],
        "label_records": list[File],
    },
)
def Segment(
    in_file: Any, models: Any, tissue_model: Any, mask_model: Any, given_mask: Any, **options: Any
) -> Any:
    """Segment an image: conform it once, find its brain once, then run any number of models on it.

    A mask model that includes CSF and a tissue model make the tissue maps together;
    every other model makes a label map of its own, in the order of `models`.
    """
    plan = plan_names(models, tissue_model, options["prepare"], mask_model)
    affine, version = {"prefer_affine": options["prefer_affine"]}, {"version": options["version"]}
    conformed = workflow.add(Conform(in_file=in_file, **affine, **version), name="conform").out_file
    seen: dict[str, Any] = {}
    if finds_brain_apart(plan, given_mask):
        task = ExtractBrain(
            in_file=conformed,
            mask_model=cast(Model, plan.mask_model).asked_as,
            correct=plan.correct,
            measure_contrast=plan.contrast_model is not None,
            given_mask=given_mask,
            **_of(extract_brain_file, options),
        )
        brain = workflow.add(task, name="extract_brain")
        seen = {"mask": brain.mask, "brain": brain.brain}
    common = {"in_file": conformed, "reference": in_file}
    outputs: dict[str, Any] = dict.fromkeys(("mask", "dseg", "gm", "wm", "csf", "record"))
    if plan.pair:
        given = _of(segment_tissues_file, options)
        task = SegmentTissues(**common, **seen, tissue_model=plan.pair[1].asked_as, **given)
        tissues = workflow.add(task, name="tissues")
        outputs = {name: getattr(tissues, name) for name in outputs}
    common |= _of(segment_labels_file, options)
    return (*outputs.values(), *_add_labels(plan, common, seen))


def finds_brain_apart(plan: Plan, given_mask: Any) -> bool:
    """Tell whether `Segment` has a node for the brain alone: others see it, or its mask is given."""
    return plan.mask_model is not None and not (plan.finds_brain_with_tissues and given_mask is None)


def label_nodes(plan: Plan) -> list[tuple[str, int]]:
    """Give the node of `Segment`, and the place in it, that makes the label map of each single model."""
    places = {"labels": 0, "labels_of_brain": 0}
    nodes = []
    for model in plan.singles:
        node = "labels_of_brain" if model in plan.with_brain else "labels"
        nodes.append((node, places[node]))
        places[node] += 1
    return nodes


def _of(step: Step, options: dict[str, Any]) -> dict[str, Any]:
    """Give the options that a step has."""
    return {name: value for name, value in options.items() if name in (*parameters(step), "version")}


def _add_labels(plan: Plan, common: dict[str, Any], seen: dict[str, Any]) -> tuple[Any, Any]:
    """Add the models that make label maps: those that see the brain apart, so that others need not wait."""
    without = [model for model in plan.singles if model not in plan.with_brain]
    nodes = []
    for name, models, given in (("labels", without, {}), ("labels_of_brain", plan.with_brain, seen)):
        if models:
            task = SegmentLabels(**common, **given).split(model=[m.asked_as for m in models]).combine("model")
            nodes.append(workflow.add(task, name=name))
    if not nodes:
        return [], []
    if len(nodes) == 1:
        return nodes[0].labels, nodes[0].record
    places = [plan.singles.index(model) for model in (*without, *plan.with_brain)]
    labels, records = (
        workflow.add(
            InOrder(first=getattr(nodes[0], kind), second=getattr(nodes[1], kind), places=places),
            name=f"{kind}_in_order",
        )
        for kind in ("labels", "record")
    )
    return labels.in_order, records.in_order
