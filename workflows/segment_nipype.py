"""Nipype workflows to put into others, as fMRIPrep's are: arguments in, no global state.

Where they run is the host's business; each node says how many processors and how much
memory it takes.
"""

from pathlib import Path
from typing import Any

from brainchop_pipe.workflows.derivatives_nipype import AsAtropos, WriteDerivatives
from brainchop_pipe.workflows.resources import BESIDES_MODEL_GB, model_need_gb

from brainchop_pipe.core.conform import LabelInterpolation
from brainchop_pipe.engines.nipype_interfaces import (
    Conform,
    CorrectBias,
    ExtractBrain,
    SegmentLabels,
    SegmentTissues,
)
from brainchop_pipe.headers import AffineChoice
from brainchop_pipe.inference.numbering import LabelScheme
from brainchop_pipe.inference.runner import Precision
from brainchop_pipe.inference.session import Device
from brainchop_pipe.settings import DEFAULT_MODELS, Orientation, Preparation, Processing
from brainchop_pipe.zoo.catalog import Model, absolute_names, find_model
from brainchop_pipe.zoo.plan import plan_names

# After the interfaces: they set NO_ET before Nipype is imported.
from nipype.interfaces import utility as niu  # isort: skip
from nipype.pipeline import engine as pe  # isort: skip

# Reading, resampling and compressing an image, without a model.
_IMAGE_GB = 1.5

_TISSUES = ("mask", "dseg", "gm", "wm", "csf")


def init_brainchop_segment_wf(
    *,
    models: tuple[str, ...] = DEFAULT_MODELS,
    tissue_model: str | None = None,
    prefer_affine: AffineChoice | None = None,
    prepare: Preparation = "auto",
    mask_model: str | None = None,
    full_volume: bool = False,
    interpolation: LabelInterpolation = "linear",
    label_scheme: LabelScheme = "compact",
    orientation: Orientation = "ras",
    device: Device = "auto",
    precision: Precision = "float32",
    omp_nthreads: int = 1,
    mem_gb: float | None = None,
    name: str = "brainchop_segment_wf",
) -> Any:
    """Build a workflow that conforms an image once and runs any number of models on it.

    Parameters
    ----------
    models : tuple of str
        Names of shipped cards, or paths of cards. A mask model that includes CSF and a
        tissue model make the tissue maps together.
    tissue_model : str or None
        Name of the model that owns the tissue maps; None: the first that can.
    prefer_affine, prepare, full_volume, interpolation, label_scheme, orientation, device, precision, mem_gb
        See `segment_tissues_file` and `segment_labels_file`.
    mask_model : str or None
        Which model finds the brain for others, where no pair does; None: the first of
        `models` that can, else the package's choice.
    omp_nthreads : int
        Threads of one inference.
    name : str

    Returns
    -------
    Workflow
        Inputs of ``inputnode``: ``in_file``, and ``given_mask`` if a mask of the brain is
        to take the place of the mask model's. Outputs of ``outputnode``: ``conformed``;
        ``mask``, ``dseg``, ``gm``, ``wm``, ``csf``, ``tissue_record`` where there is a
        pair; ``labels`` and ``label_records``, lists in the order of the other models.
    """
    workflow = pe.Workflow(name=name)
    plan = plan_names(models, tissue_model, prepare, mask_model)
    inputnode = pe.Node(niu.IdentityInterface(fields=["in_file", "given_mask"]), name="inputnode")
    fields = ["conformed", *_TISSUES, "tissue_record", "labels", "label_records"]
    outputnode = pe.Node(niu.IdentityInterface(fields=fields), name="outputnode")
    conform = pe.Node(Conform(prefer_affine=prefer_affine), name="conform", mem_gb=_IMAGE_GB)
    workflow.connect(inputnode, "in_file", conform, "in_file")
    workflow.connect(conform, "out_file", outputnode, "conformed")
    resources = {"device": device, "precision": precision, "threads": omp_nthreads} | (
        {"mem_gb": mem_gb} if mem_gb else {}
    )
    common = {
        "prefer_affine": prefer_affine,
        "prepare": prepare,
        "full_volume": full_volume,
        "orientation": orientation,
        **resources,
    }

    def add(interface: Any, node_name: str, *models: Model, sees: Any = None, refers: bool = True) -> Any:
        need = max(model_need_gb(model, full_volume=full_volume, mem_gb=mem_gb) for model in models)
        node = pe.Node(interface, name=node_name, mem_gb=need + BESIDES_MODEL_GB, n_procs=omp_nthreads)
        workflow.connect([(conform, node, [("out_file", "in_file")])])
        if refers:
            workflow.connect([(inputnode, node, [("in_file", "reference")])])
        if sees:
            workflow.connect([(sees, node, [("mask", "mask"), ("brain", "brain")])])
        return node

    brain = None
    if plan.mask_model:
        interface = ExtractBrain(
            mask_model=plan.mask_model.asked_as,
            correct=plan.correct,
            measure_contrast=plan.contrast_model is not None,
            prepare=prepare,
            full_volume=full_volume,
            prefer_affine=prefer_affine,
            **resources,
        )
        brain = add(interface, "extract_brain", *plan.makes_brain, refers=False)
        workflow.connect([(inputnode, brain, [("given_mask", "given_mask")])])
    if plan.pair:
        interface = SegmentTissues(tissue_model=plan.pair[1].asked_as, **common)
        tissues = add(interface, "tissues", plan.pair[1], sees=brain)
        outputs = [*zip(_TISSUES, _TISSUES, strict=True), ("record", "tissue_record")]
        workflow.connect([(tissues, outputnode, outputs)])
    scheme = {"interpolation": interpolation, "label_scheme": label_scheme}
    nodes = [
        add(
            SegmentLabels(model=model.asked_as, **scheme, **common),
            f"segment_{model.card.bids_label}",
            model,
            sees=brain if model in plan.with_brain else None,
        )
        for model in plan.singles
    ]
    for output, field in (("labels", "labels"), ("record", "label_records")):
        _merge(workflow, nodes, output, outputnode, field)
    return workflow


def init_brainchop_derivatives_wf(
    *,
    bids_dir: Path,
    output_dir: Path,
    models: tuple[str, ...] = DEFAULT_MODELS,
    tissue_model: str | None = None,
    prefer_affine: AffineChoice | None = None,
    prepare: Preparation = "auto",
    mask_model: str | None = None,
    full_volume: bool = False,
    interpolation: LabelInterpolation = "linear",
    label_scheme: LabelScheme = "compact",
    orientation: Orientation = "ras",
    precision: Precision = "float32",
    name: str = "brainchop_derivatives_wf",
) -> Any:
    """Build a workflow that writes what `init_brainchop_segment_wf` makes as BIDS derivatives.

    Names, sidecars and provenance are those of the BIDS-App, which takes the output for
    its own. Give the same arguments as to `init_brainchop_segment_wf`.

    Parameters
    ----------
    bids_dir : Path
        The raw dataset.
    output_dir : Path
        Root of the derivatives.
    models, tissue_model, prefer_affine, prepare, mask_model, full_volume, interpolation
        See `init_brainchop_segment_wf`.
    label_scheme, orientation, precision
        See `init_brainchop_segment_wf`.
    name : str

    Returns
    -------
    Workflow
        Inputs of ``inputnode``: ``source_file``, the raw image, ``given_mask`` where the
        other workflow had one, and its outputs but ``conformed``. Output of ``outputnode``: ``out_files``.
    """
    workflow = pe.Workflow(name=name)
    fields = ["source_file", "given_mask", *_TISSUES, "tissue_record", "labels", "label_records"]
    inputnode = pe.Node(niu.IdentityInterface(fields=fields), name="inputnode")
    outputnode = pe.Node(niu.IdentityInterface(fields=["out_files"]), name="outputnode")
    processing = Processing(
        models=absolute_names(models),
        tissue_model=tissue_model,
        prefer_affine=prefer_affine,
        prepare=prepare,
        mask_model=absolute_names([mask_model])[0] if mask_model else None,
        full_volume=full_volume,
        label_interpolation=interpolation,
        label_scheme=label_scheme,
        output_orientation=orientation,
        precision=precision,
    )
    interface = WriteDerivatives(
        bids_dir=bids_dir.resolve(), output_dir=output_dir.resolve(), processing=processing
    )
    write = pe.Node(interface, name="write", mem_gb=0.5)
    workflow.connect([(inputnode, write, [(field, field) for field in fields])])
    workflow.connect([(write, outputnode, [("out_files", "out_files")])])
    return workflow


def init_brainchop_brain_extraction_wf(
    *,
    mask_model: str = DEFAULT_MODELS[0],
    tissue_model: str = DEFAULT_MODELS[-1],
    device: Device = "auto",
    omp_nthreads: int = 1,
    name: str = "brain_extraction_wf",
) -> Any:
    """Build a workflow that can stand where niworkflows' ``init_brain_extraction_wf`` does.

    Parameters
    ----------
    mask_model, tissue_model : str
        Names of shipped cards, or paths of cards.
    device : str
        "auto": the best that works; a name is strict.
    omp_nthreads : int
        Threads of one inference.
    name : str

    Returns
    -------
    Workflow
        Inputs of ``inputnode``: ``in_files``, a list of images on one grid, of which the
        first is segmented; ``in_mask``, there for the sake of the interface, has no use
        without a registration. Outputs of ``outputnode``, on the images' own grid:
        ``out_file``, ``bias_corrected``, ``bias_image`` (lists, one an image), ``out_mask``,
        ``out_segm`` and ``out_tpms`` in the order of ANTs' Atropos for T1w images, CSF,
        grey matter, white matter: 1, 2, 3.

    Notes
    -----
    Source: the fields and their meaning are those of niworkflows 1.14,
    ``niworkflows/anat/ants.py``. The bias field is N4's within the mask; outside of the
    mask's box it goes on with its values at the border.
    """
    workflow = pe.Workflow(name=name)
    inputnode = pe.Node(niu.IdentityInterface(fields=["in_files", "in_mask"]), name="inputnode")
    fields = ["out_file", "out_mask", "bias_corrected", "bias_image", "out_segm", "out_tpms"]
    outputnode = pe.Node(niu.IdentityInterface(fields=fields), name="outputnode")
    first = pe.Node(niu.Select(index=[0]), name="first")
    segment = init_brainchop_segment_wf(
        models=(mask_model, tissue_model),
        tissue_model=find_model(tissue_model).card.name,
        orientation="native",
        device=device,
        omp_nthreads=omp_nthreads,
    )
    correct = pe.MapNode(CorrectBias(), iterfield=["in_file"], name="correct_bias", mem_gb=_IMAGE_GB)
    reorder = pe.Node(AsAtropos(), name="reorder")
    tpms = pe.Node(niu.Merge(3), name="tpms")
    workflow.connect(
        [
            (inputnode, first, [("in_files", "inlist")]),
            (first, segment, [("out", "inputnode.in_file")]),
            (inputnode, correct, [("in_files", "in_file")]),
            (segment, correct, [("outputnode.mask", "mask")]),
            (segment, reorder, [("outputnode.dseg", "in_file")]),
            (segment, tpms, [(f"outputnode.{t}", f"in{i}") for i, t in enumerate(("csf", "gm", "wm"), 1)]),
            (segment, outputnode, [("outputnode.mask", "out_mask")]),
            (correct, outputnode, [("brain", "out_file"), ("corrected", "bias_corrected")]),
            (correct, outputnode, [("field", "bias_image")]),
            (reorder, outputnode, [("out_file", "out_segm")]),
            (tpms, outputnode, [("out", "out_tpms")]),
        ]
    )
    return workflow


def _merge(workflow: Any, nodes: list[Any], output: str, outputnode: Any, field: str) -> None:
    """Bring an output of several nodes together in a list; without nodes the list stays undefined."""
    if nodes:
        merge = pe.Node(niu.Merge(len(nodes)), name=field)
        links = [(node, merge, [(output, f"in{place}")]) for place, node in enumerate(nodes, start=1)]
        workflow.connect([*links, (merge, outputnode, [("out", field)])])
