"""What a paper should say of the methods, and whom to cite: from what the sidecars tell."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from brainchop_pipe.bids.sidecar import ModelRecord, ProvenanceRecord
from brainchop_pipe.inference import native_runner, openvino_runner
from brainchop_pipe.record import EVEN_HEAD, NOISE_CLEARED, TISSUES_BROUGHT

_SELF = "brainchop_pipe {version}: brain segmentation with ONNX models for whole studies"
_N4 = (
    "Tustison NJ et al. (2010) N4ITK: Improved N3 Bias Correction, IEEE Transactions on Medical Imaging "
    "29(6):1310-1320, doi:10.1109/TMI.2010.2046908"
)
_LANDMARKS = (
    "Nyúl LG, Udupa JK (1999) On standardizing the MR image intensity scale, Magnetic Resonance in Medicine "
    "42(6):1072-1081, doi:10.1002/(SICI)1522-2594(199912)42:6<1072::AID-MRM11>3.0.CO;2-M"
)
_FASTSURFER = (
    "Henschel L et al. (2020) FastSurfer - A fast and accurate deep learning based neuroimaging pipeline, "
    "NeuroImage 219:117012, doi:10.1016/j.neuroimage.2020.117012"
)
_BIDS = (
    "Gorgolewski KJ et al. (2016) The brain imaging data structure, a format for organizing and describing "
    "outputs of neuroimaging experiments, Scientific Data 3:160044, doi:10.1038/sdata.2016.44"
)


@dataclass
class _References:
    """References in the order of their first use."""

    entries: list[str] = field(default_factory=list)

    def cite(self, *texts: str) -> str:
        """Give the numbers of references, such as " [1, 2]"; empty for none."""
        self.entries += [text for text in dict.fromkeys(texts) if text not in self.entries]
        numbers = [str(self.entries.index(text) + 1) for text in texts]
        return f" [{', '.join(numbers)}]" if numbers else ""


@dataclass
class _PreparedModels:
    """Models by what was done to their input, each once, in the order of their first use.

    Parameters
    ----------
    evened : list of str
        The bias field of the head was corrected.
    cleared : list of str
        So it was, and noise in the air taken off.
    scaled : list of str
        They saw the brain with white matter at a level.
    brought : list of str
        They saw it with three tissues at theirs.
    masked : list of str
        They saw it as it was.
    """

    evened: list[str] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    scaled: list[str] = field(default_factory=list)
    brought: list[str] = field(default_factory=list)
    masked: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, records: Iterable[ProvenanceRecord]) -> Self:
        """Sort the models that ran."""
        models = cls()
        for name, execution in (pair for record in records for pair in record.execution.items()):
            for group in models._groups_of(execution.preparation):
                if name not in group:
                    group.append(name)
        return models

    def _groups_of(self, preparation: str) -> list[list[str]]:
        if preparation.startswith(EVEN_HEAD):
            return [self.evened, self.cleared] if preparation.endswith(NOISE_CLEARED) else [self.evened]
        if TISSUES_BROUGHT in preparation:
            return [self.brought]
        if "N4" in preparation:
            return [self.scaled]
        return [self.masked] if preparation else []


@dataclass(frozen=True)
class Methods:
    """A paragraph for a paper, and its references in the order of their numbers."""

    paragraph: str
    references: tuple[str, ...]

    def as_markdown(self) -> str:
        """Give both as a text of their own."""
        listed = "\n".join(f"{number}. {text}" for number, text in enumerate(self.references, start=1))
        return f"# How to describe and cite this\n\n{self.paragraph}\n\n## References\n\n{listed}\n"


def describe_methods(records: Iterable[ProvenanceRecord]) -> Methods:
    """Describe how label maps were made.

    Parameters
    ----------
    records : iterable of ProvenanceRecord
        Of all label maps that are meant; at least one.

    Notes
    -----
    Versions, providers and precisions are listed where there are several.
    """
    records = tuple(records)
    references = _References()
    dataset = _dataset(records, references)
    versions = {str(record.code.get("Version", "")): None for record in records}
    self_cited = references.cite(*(_SELF.format(version=version) for version in versions))
    sentences = [
        f"Images{dataset} were segmented with brainchop_pipe {' and '.join(versions)}{self_cited}.",
        "Each image was resampled to the grid of the models, 256 x 256 x 256 voxels of 1 mm with intensities "
        "of 0 to 255 unless a model has another, as FreeSurfer and FastSurfer do"
        f"{references.cite(_FASTSURFER)}.",
        *_preparations(records, references),
        *(_model_sentence(model, references) for model in _models(records)),
        _where(records),
        "Labels were brought back to the grid of the image.",
    ]
    return Methods(" ".join(sentences), tuple(references.entries))


def _dataset(records: tuple[ProvenanceRecord, ...], references: _References) -> str:
    of_dataset = any(record.input.uri.startswith("bids:") for record in records)
    return f" of a BIDS dataset{references.cite(_BIDS)}" if of_dataset else ""


def _models(records: tuple[ProvenanceRecord, ...]) -> list[ModelRecord]:
    """Give the models that ran, each version of them once."""
    return list({(m.name, m.sha256): m for record in records for m in record.models}.values())


def _model_sentence(model: ModelRecord, references: _References) -> str:
    return f"The model {model.name} (version {model.version}) was used{references.cite(*model.citations)}."


def _preparations(records: tuple[ProvenanceRecord, ...], references: _References) -> Iterator[str]:
    """Say which models saw a prepared image, and whose masks were used."""
    models = _PreparedModels.of(records)
    if models.evened:
        yield (
            f"For {_listed(models.evened)} the bias field of the head was corrected with N4"
            f"{references.cite(_N4)}."
        )
    if models.cleared:
        yield (
            f"Where noise stood out in the air around a head, {_listed(models.cleared)} saw it set to 0; the "
            "sidecars say in which images."
        )
    yield from _levels(models, references)
    if models.masked:
        yield f"For {_listed(models.masked)} what lies outside of the brain was set to 0."
    if any(record.given_mask for record in records):
        yield "Brain masks of another origin took the place of a model's."


def _levels(models: _PreparedModels, references: _References) -> Iterator[str]:
    """Say which models saw a brain alone, and what its grey levels were brought to."""
    alone = [name for name in models.scaled if name not in models.brought]
    if alone:
        yield (
            f"For {_listed(alone)} the brain was masked, its bias field corrected with N4"
            f"{references.cite(_N4)} and its white matter brought to one level."
        )
    if models.brought:
        yield (
            f"For {_listed(models.brought)} the brain was masked, its bias field corrected with N4"
            f"{references.cite(_N4)}, its borders smoothed where they were sharper than the model knows, "
            "and the medians of its CSF, grey and white matter brought to fixed levels, linearly between "
            f"them{references.cite(_LANDMARKS)}."
        )
    if models.brought and len(alone) < len(models.scaled):
        yield (
            "Where the tissues could not be told apart, white matter alone was brought to its level; the "
            "sidecars say in which images."
        )


def _where(records: tuple[ProvenanceRecord, ...]) -> str:
    runtimes = {
        f"{_library(execution.provider, record.versions)} ({execution.provider}; {execution.precision})"
        for record in records
        for execution in record.execution.values()
    }
    return f"Models ran in {_listed(sorted(runtimes))}."


def _library(provider: str, versions: Mapping[str, str]) -> str:
    """Name the library that a provider is of, with its version; this package, named elsewhere, without."""
    if provider == native_runner.PROVIDER:
        return "brainchop_pipe"
    is_openvino = provider == openvino_runner.PROVIDER
    name, package = ("OpenVINO", "openvino") if is_openvino else ("ONNX Runtime", "onnxruntime")
    return f"{name} {versions.get(package, '')}"


def _listed(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
