"""What is written for an image: which files, under which names, with which metadata.

The bare names (``desc-brain_mask``, ``dseg``, ``label-*_probseg``) are those that
sMRIPrep and fMRIPrep take for the truth about a T1w image. They are written all or
none, by a mask model that includes CSF and a tissue model together; every other
result has the model's name in its own.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from brainchop_pipe.bids.names import Source
from brainchop_pipe.inference.numbering import LabelScheme, output_labels
from brainchop_pipe.record import StepRecord
from brainchop_pipe.settings import Processing
from brainchop_pipe.storage import json_bytes, write_if_changed
from brainchop_pipe.zoo.catalog import Model
from brainchop_pipe.zoo.plan import is_mask_model, plan_models

BIDS_VERSION = "1.11.1"

# What BIDS has no place for, as patterns of `.bidsignore`, and why it is there.
IGNORED = {
    "*_morph.tsv": "volumes of an image; BIDS has no such derivative yet",
    "morph.json": "what the columns of these mean",
    "group.tsv": "all volumes and quality numbers of the study",
    "group.json": "what its columns mean",
    "*.html": "reports",
    "figures": "their pictures",
    "logs": "settings, log and crash reports of the runs",
    "prov": "provenance in the form of the BIDS version after 1.11",
}

# What is written only where it was asked for: the image as models saw it, on the conformed grid,
# and within the brain mask; and the labels on the conformed grid.
Extra = Literal["prepared", "conformed head", "conformed labels", "extracted"]
Content = Literal["mask", "dseg", "GM", "WM", "CSF", "segmentation"] | Extra

# Those that there is one of for all products of an image: which of them wrote it does not matter.
SHARED_EXTRAS: tuple[Extra, ...] = ("prepared", "conformed head", "extracted")

# Of the trusted set: index, name, abbreviation, colour. The numbers are BIDS's and sMRIPrep's,
# the colours those of Okabe and Ito, for eyes of any kind.
_TISSUES = (
    ("0", "Background", "BG", "#000000"),
    ("1", "Grey matter", "GM", "#D55E00"),
    ("2", "White matter", "WM", "#F0E442"),
    ("3", "Cerebrospinal fluid", "CSF", "#56B4E9"),
)

_VOLUME_COLUMNS = {
    "index": {"Description": "Value in the label map"},
    "name": {"Description": "Name of the label"},
    "volume_mm3": {"Description": "Volume, counted on the model's grid", "Units": "mm^3"},
    "intracranial_fraction": {"Description": "Volume by that of brain with CSF; n/a where that is not known"},
}

_TABLE_HEAD = ("index", "name", "abbreviation", "color")

_FREESURFER_COLUMN = "Index in FreeSurfer's colour table; left and right for a class of both sides"

_README = """\
# Brain segmentations by brainchop_pipe

Each image of the raw dataset (`DatasetLinks` in `dataset_description.json`) has its
label maps in the folder of the same name, on its own grid. Voxels are in the order
nearest to RAS+ unless the sidecar's `OutputOrientation` says "native".

- `*_desc-brain_mask.nii.gz`: brain with the cerebrospinal fluid around it, 0 or 1
- `*_dseg.nii.gz`: 1 = grey matter, 2 = white matter, 3 = cerebrospinal fluid (`*_dseg.tsv`)
- `*_label-{GM,WM,CSF}_probseg.nii.gz`: probabilities of these, 0 to 1, adding up to 1 in the mask
- `*_seg-NAME_desc-*_dseg.nii.gz`: label map of the model NAME; labels in the `.tsv` beside it
- `*_morph.tsv`: volumes of an image's labels
- `sub-*.html`: a page for each participant, with pictures; look at them before you trust the maps
- `index.html`, `group.tsv`, `phenotype/`: all images together, after the group level

Not for clinical use. How a file was made (input, model, versions, parameters,
digests) stands in its sidecar under `Provenance`, and for people with
`brainchop provenance FILE`. `brainchop verify FOLDER` checks all files against it.
"""


@dataclass(frozen=True)
class Product:
    """Files that belong together: written, skipped and redone as one.

    Parameters
    ----------
    models : tuple of Model
        Mask model and tissue model, which may be the same, or the one model of a segmentation.
    mask_model : Model or None
        The one that finds the brain for them; None where they see the whole head.
    contrast_model : Model or None
        The one that tells the tissues apart to whose contrast they are used; None where they
        are used to none.
    extras : tuple of str
        What is written besides.
    """

    models: tuple[Model, ...]
    mask_model: Model | None = None
    contrast_model: Model | None = None
    extras: tuple[Extra, ...] = ()

    @property
    def involved(self) -> tuple[Model, ...]:
        """All models that decide what comes out: what finds the brain first, the product's own last."""
        *first, last = self.models
        models = filter(None, (self.mask_model, *first, self.contrast_model, last))
        return tuple({model.card.name: model for model in models}.values())

    @property
    def finds_brain(self) -> bool:
        """Whether its label map is where the brain is."""
        output = self.models[0].card.output
        return self.is_tissue_set or output.role == "mask" or output.finds_brain

    @property
    def is_tissue_set(self) -> bool:
        """Whether these are the bare names."""
        return len(self.models) == 2

    def label_map(self, source: Source) -> PurePosixPath:
        """Place of its label map, the one file that every product has."""
        files = self.files(source)
        return files["dseg"] if self.is_tissue_set else files["segmentation"]

    def files(self, source: Source) -> dict[Content, PurePosixPath]:
        """Images of this product for a source, by content, below the output folder."""
        extras: dict[Content, PurePosixPath] = {e: self._extra(e, source) for e in self.extras}
        if not self.is_tissue_set:
            return {"segmentation": source.derivative("dseg", ".nii.gz", **self._entities), **extras}
        tissues: tuple[Literal["GM", "WM", "CSF"], ...] = ("GM", "WM", "CSF")
        return {
            "mask": source.derivative("mask", ".nii.gz", desc="brain"),
            "dseg": source.derivative("dseg", ".nii.gz"),
            **{t: source.derivative("probseg", ".nii.gz", label=t) for t in tissues},
            **extras,
        }

    @property
    def _entities(self) -> dict[str, str]:
        """What tells its label map from others of the image."""
        card = self.models[0].card
        return {} if self.is_tissue_set else {"seg": card.bids_label, "desc": card.output.description}

    def _extra(self, extra: Extra, source: Source) -> PurePosixPath:
        if extra == "prepared":
            return source.derivative(source.suffix, ".nii.gz", res="1mm", desc="biascorr")
        if extra == "extracted":
            return source.derivative(source.suffix, ".nii.gz", desc="brain")
        if extra == "conformed head":
            return _conformed_head(source)
        return source.derivative("dseg", ".nii.gz", space=source.conformed_space, **self._entities)


def plan_products(
    models: tuple[Model, ...], processing: Processing, extras: tuple[Extra, ...] = ()
) -> tuple[Product, ...]:
    """Decide which models write the trusted tissue set together, and which write for themselves.

    Parameters
    ----------
    models : tuple of Model
        Those that may run on the image.
    processing : Processing
        Says which model owns the tissue set, and what models are to see.
    extras : tuple of str
        What is written besides: labels by each product, the others once, by the first
        product that has what they are made of.
    """
    plan = plan_models(models, processing.tissue_model, processing.prepare, processing.mask_model)

    def product(own: tuple[Model, ...], mask_model: Model | None) -> Product:
        has_contrast = any(model in plan.with_contrast for model in own)
        return Product(own, mask_model, plan.contrast_model if has_contrast else None)

    products = [product(plan.pair, plan.mask_model)] if plan.pair else []
    for model in plan.singles:
        sees_brain = model in plan.with_brain and not is_mask_model(model.card)
        products.append(product((model,), plan.mask_model if sees_brain else None))
    for extra in extras:
        able = [place for place, product in enumerate(products) if _can_write(product, extra)]
        for place in able if extra == "conformed labels" else able[:1]:
            products[place] = replace(products[place], extras=(*products[place].extras, extra))
    return tuple(products)


def _can_write(product: Product, extra: Extra) -> bool:
    """Tell whether a product has what a further file is made of."""
    if extra == "prepared":
        return product.mask_model is not None
    return product.finds_brain if extra == "extracted" else True


def sidecar_metadata(content: Content, source: Source, product: Product) -> dict[str, Any]:
    """Give the BIDS keys of a derivative's sidecar."""
    metadata: dict[str, Any] = {"Sources": [source.uri], "SpatialReference": source.uri}
    if content == "mask":
        metadata["Type"] = "Brain"
        metadata["Description"] = "Brain with the cerebrospinal fluid around it"
    elif content == "extracted":
        metadata["Description"] = "The image within the brain mask, 0 elsewhere; in its own grey levels"
        metadata["SkullStripped"] = True
    elif content == "conformed head":
        metadata["SpatialReference"] = f"bids::{_conformed_head(source)}"
        metadata["Description"] = "The image on the models' grid, 256 x 256 x 256 voxels of 1 mm, 0 to 255"
        metadata["SkullStripped"] = False
    elif content == "prepared":
        metadata["Description"] = (
            "The conformed image within the brain mask, its bias field corrected where the models wanted "
            "that: what they saw before it was smoothed and its grey levels were changed; not the input"
        )
        metadata |= {"SkullStripped": True, "Resolution": "1 mm, in grey levels of 0 to 255"}
    elif content in ("GM", "WM", "CSF"):
        metadata["Description"] = f"Probability of {content} within the brain mask, 0 to 1"
    elif content == "dseg":
        metadata["Manual"] = False
        metadata["Description"] = "Tissue with the largest probability: 1 = GM, 2 = WM, 3 = CSF"
    else:
        metadata |= _of_labels(content, source, product)
    return metadata


def _of_labels(content: Content, source: Source, product: Product) -> dict[str, Any]:
    """Give the keys of a model's label map, or of labels on the conformed grid."""
    title = "Tissues" if product.is_tissue_set else product.models[0].card.title
    metadata: dict[str, Any] = {"Manual": False, "Description": title}
    if content == "conformed labels":
        metadata["SpatialReference"] = f"bids::{_conformed_head(source)}"
    if not product.is_tissue_set:
        metadata["freesurfer"] = {"Description": _FREESURFER_COLUMN}
    return metadata


def _conformed_head(source: Source) -> PurePosixPath:
    return source.derivative(source.suffix, ".nii.gz", space=source.conformed_space, desc="conform")


def label_table(source: Source, product: Product, scheme: LabelScheme) -> dict[PurePosixPath, bytes]:
    """Give the table of labels that stands beside a product's label map, by its place.

    Beside each label map, not once at the root: a table there would need a sidecar of
    its own, whose keys BIDS inheritance hands to the label maps, against their own.
    """
    files = product.files(source)
    maps = [product.label_map(source), *filter(None, [files.get("conformed labels")])]
    places = [place.with_name(place.name.removesuffix(".nii.gz") + ".tsv") for place in maps]
    if product.is_tissue_set:
        return dict.fromkeys(places, _table(_TABLE_HEAD, _TISSUES))
    rows = (
        (
            str(label.index),
            label.name,
            label.abbreviation or "n/a",
            label.color,
            ",".join(map(str, label.freesurfer)) or "n/a",
        )
        for label in output_labels(product.models[0].card, scheme)
    )
    return dict.fromkeys(places, _table((*_TABLE_HEAD, "freesurfer"), rows))


def volume_table_place(source: Source, product: Product) -> PurePosixPath:
    """Give the place of a product's table of volumes, below the output folder."""
    place = product.label_map(source)
    return place.with_name(place.name.removesuffix("_dseg.nii.gz") + "_morph.tsv")


def volume_table(product: Product, record: StepRecord, scheme: LabelScheme) -> bytes:
    """Give the volumes of a product's labels as a table; a label without any voxel has 0."""
    if product.is_tissue_set:
        names = {int(index): name for index, name, *_ in _TISSUES}
    else:
        names = {label.index: label.name for label in output_labels(product.models[0].card, scheme)}
    fractions = record.quality.intracranial_fractions
    rows = []
    for index, name in names.items():
        if index:
            volume = record.volumes_mm3.get(str(index), 0.0)
            share = f"{fractions.get(index, 0.0):.5f}" if fractions else "n/a"
            rows.append((str(index), name, str(volume), share))
    return _table(_VOLUME_COLUMNS, rows)


def write_dataset_files(output_dir: Path, bids_dir: Path, code: dict[str, Any]) -> None:
    """Write what stands once at the root: description, read-me, what validators should pass over.

    Parameters
    ----------
    output_dir, bids_dir : Path
    code : dict
        Entry of ``GeneratedBy`` for this program.
    """
    raw = raw_link(output_dir, bids_dir)
    raw_description = _raw_description(bids_dir)
    description = {
        "Name": f"brainchop_pipe segmentations of {raw_description.get('Name', 'a dataset without a name')}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "Authors": [*_authors(raw_description), "The brainchop_pipe developers"],
        "GeneratedBy": [code],
        "DatasetLinks": {"raw": raw},
        "SourceDatasets": [{"URL": raw}],
    }
    write_if_changed(output_dir / "dataset_description.json", json_bytes(description))
    write_if_changed(output_dir / "README.md", _README.encode())
    write_if_changed(output_dir / ".bidsignore", "".join(f"{p}\n" for p in IGNORED).encode())
    write_if_changed(output_dir / "morph.json", json_bytes(_VOLUME_COLUMNS))


def raw_link(output_dir: Path, bids_dir: Path) -> str:
    """Give the relative URI that leads from the derivatives to the raw dataset."""
    return quote(os.path.relpath(bids_dir.resolve(), output_dir.resolve()))


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> bytes:
    return "".join("\t".join(row) + "\n" for row in (head, *rows)).encode()


def _authors(description: dict[str, Any]) -> list[str]:
    """Give the authors of a dataset; none where the entry is not the list that BIDS wants."""
    authors = description.get("Authors")
    return [str(author) for author in authors] if isinstance(authors, list) else []


def _raw_description(bids_dir: Path) -> dict[str, Any]:
    """Read the raw dataset's description; empty where validation was skipped and there is none."""
    try:
        content = json.loads((bids_dir / "dataset_description.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
