"""The steps as Nipype interfaces.

Results are remembered by the input images (as Nipype's configuration says: time and
size, or content), the parameters, the models' cards (which hold the SHA-256 of the
weights) and the version of this package. Device and threads are no part of it.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

# Nipype asks the network for its newest version unless this is set before the import.
os.environ["NO_ET"] = "1"

from nipype.interfaces.base import (
    BaseInterfaceInputSpec,
    File,
    InputMultiObject,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

from brainchop_pipe.engines.describe import (
    MODELS,
    RESOURCES,
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
from brainchop_pipe.versions import code_version
from brainchop_pipe.zoo.catalog import absolute_names, find_model


class _ModelName(traits.BaseStr):
    """A model's name or card; a card's path is made absolute, because nodes run in folders of their own."""

    def validate(self, owner: Any, name: str, value: Any) -> str:
        """Check that it is a text."""
        text = str(super().validate(owner, name, value))
        return absolute_names([text])[0]


class _StepInputSpec(BaseInterfaceInputSpec):
    """What all steps have."""

    version = traits.Str(desc="Of this package: another version's result is another result. Leave it.")

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        if not isdefined(self.version):
            self.version = code_version()

    def get_hashval(self, hash_method: str | None = None) -> tuple[list[Any], str]:
        """Add what the models' cards say to what the inputs are remembered by."""
        items, digest = super().get_hashval(hash_method)
        given = [getattr(self, name, traits.Undefined) for name in MODELS]
        # A MapNode holds a list of what each of its nodes gets.
        names = [
            n for value in given if isdefined(value) for n in ([value] if isinstance(value, str) else value)
        ]
        cards = "".join(find_model(name).card.model_dump_json() for name in names)
        return items, hashlib.md5((digest + cards).encode(), usedforsecurity=False).hexdigest()


class _StepInterface(SimpleInterface):
    """Runs a step in the node's folder."""

    step: Step
    # The output file, or "." for the output folder.
    place = "."

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__(**given)
        # Nodes are pickled, and a pickle finds a class by its place.
        for name in ("input_spec", "output_spec"):
            spec = getattr(cls, name)
            spec.__module__, spec.__qualname__ = cls.__module__, f"{cls.__name__}.{name}"

    def _run_interface(self, runtime: Any) -> Any:
        step = type(self).step
        values = {name: getattr(self.inputs, name) for name in parameters(step)}
        defaults = {name: parameter.default for name, parameter in parameters(step).items()}
        given = {name: v if isdefined(v) else defaults[name] for name, v in values.items()}
        given = with_paths(step, given)
        place = Path(runtime.cwd) / self.place
        if self.place != ".":
            self._results["out_file"] = str(step(**given, out_file=place))
        else:
            files = step(**given, out_dir=place)
            self._results |= {name: str(path) for name, path in files._asdict().items() if path}
        return runtime


def _inputs(step: Step) -> type:
    """Give a step's parameters as traits."""
    help_texts = descriptions(step)
    fields = {}
    for name, parameter in parameters(step).items():
        about: dict[str, Any] = {"desc": help_texts[name], "mandatory": parameter.default is parameter.empty}
        # What is None or empty by default is left out; but of a choice None is one.
        if not about["mandatory"] and (parameter.default not in (None, ()) or choices(parameter)):
            about["usedefault"] = True
        if name in RESOURCES:
            about["nohash"] = True
        fields[name] = _trait(name, parameter, about)
    return type("InputSpec", (_StepInputSpec,), fields)


def _trait(name: str, parameter: Any, about: dict[str, Any]) -> Any:
    allowed = choices(parameter)
    if is_file(parameter):
        return File(exists=True, **about)
    if is_files(parameter):
        return InputMultiObject(File(exists=True), **about)
    if parameter.annotation == tuple[str, ...]:
        return InputMultiObject(traits.Str(), **about)
    if name in MODELS:
        default = parameter.default
        return _ModelName(default, **about) if isinstance(default, str) else _ModelName(**about)
    if allowed:
        return traits.Enum(parameter.default, list(allowed), **about)
    if parameter.annotation is bool:
        return traits.Bool(parameter.default, **about)
    if parameter.annotation is str:
        return traits.Str(parameter.default, **about)
    if parameter.annotation == float | None:
        return traits.Float(**about)
    return traits.Range(low=1, value=parameter.default, **about)


def _outputs(*names: str) -> type:
    return type("OutputSpec", (TraitedSpec,), {name: File(exists=True) for name in names})


class Conform(_StepInterface):
    __doc__ = conform_file.__doc__
    step = conform_file
    place = "conformed.nii"
    input_spec = _inputs(conform_file)
    output_spec = _outputs("out_file")


class ExtractBrain(_StepInterface):
    __doc__ = extract_brain_file.__doc__
    step = extract_brain_file
    input_spec = _inputs(extract_brain_file)
    output_spec = _outputs("mask", "brain")


class Infer(_StepInterface):
    __doc__ = infer_file.__doc__
    step = infer_file
    place = "labels.nii"
    input_spec = _inputs(infer_file)
    output_spec = _outputs("out_file")


class PostFilter(_StepInterface):
    __doc__ = post_filter_file.__doc__
    step = post_filter_file
    place = "labels.nii"
    input_spec = _inputs(post_filter_file)
    output_spec = _outputs("out_file")


class Restore(_StepInterface):
    __doc__ = restore_file.__doc__
    step = restore_file
    place = "labels.nii.gz"
    input_spec = _inputs(restore_file)
    output_spec = _outputs("out_file")


class SegmentLabels(_StepInterface):
    __doc__ = segment_labels_file.__doc__
    step = segment_labels_file
    input_spec = _inputs(segment_labels_file)
    output_spec = _outputs("labels", "conformed", "record")


class SegmentTissues(_StepInterface):
    __doc__ = segment_tissues_file.__doc__
    step = segment_tissues_file
    input_spec = _inputs(segment_tissues_file)
    output_spec = _outputs("mask", "dseg", "gm", "wm", "csf", "conformed", "record")


class CorrectBias(_StepInterface):
    __doc__ = correct_bias_file.__doc__
    step = correct_bias_file
    input_spec = _inputs(correct_bias_file)
    output_spec = _outputs("corrected", "field", "brain")
