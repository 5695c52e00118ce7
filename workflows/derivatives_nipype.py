"""Nipype interfaces around the steps: derivatives as the app writes them, tissues as Atropos numbers them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from brainchop_pipe.workflows.publish_product import publish_image

from brainchop_pipe.core.grid import Volume
from brainchop_pipe.images import image_bytes, read_image
from brainchop_pipe.settings import Processing, Settings
from brainchop_pipe.step_files import LabelFiles, TissueFiles
from brainchop_pipe.storage import write_whole

from nipype.interfaces.base import (  # isort: skip
    BaseInterfaceInputSpec,
    Directory,
    File,
    OutputMultiPath,
    SimpleInterface,
    TraitedSpec,
    isdefined,
    traits,
)

# BIDS's numbers of grey matter, white matter, CSF to those of Atropos.
_ATROPOS = np.array([0, 2, 3, 1], np.uint8)


class _DerivativesInputSpec(BaseInterfaceInputSpec):
    source_file = File(exists=True, mandatory=True, desc="the raw image")
    bids_dir = Directory(exists=True, mandatory=True, desc="root of the raw dataset")
    output_dir = Directory(mandatory=True, desc="root of the derivatives")
    given_mask = File(exists=True, desc="the mask that took the place of a model's, if one did")
    processing = traits.Instance(Processing, mandatory=True, desc="what was done to the image")
    mask = File(exists=True)
    dseg = File(exists=True)
    gm = File(exists=True)
    wm = File(exists=True)
    csf = File(exists=True)
    tissue_record = File(exists=True)
    labels = traits.List(File(exists=True))
    label_records = traits.List(File(exists=True))


class _DerivativesOutputSpec(TraitedSpec):
    out_files = OutputMultiPath(File(exists=True), desc="the images that were written")


class WriteDerivatives(SimpleInterface):
    """Write maps of an image as BIDS derivatives, with provenance in their sidecars."""

    input_spec = _DerivativesInputSpec
    output_spec = _DerivativesOutputSpec
    _always_run = True  # others may have changed what is there

    def _run_interface(self, runtime: Any) -> Any:
        given = self.inputs
        mask = Path(given.given_mask) if isdefined(given.given_mask) else None
        settings = Settings(
            Path(given.output_dir),
            replace(given.processing, mask=mask),
            bids_dir=Path(given.bids_dir),
            command="nipype workflow",
        )
        tissues = None
        if isdefined(given.tissue_record):
            names = ("mask", "dseg", "gm", "wm", "csf", "tissue_record")
            files = {name.removeprefix("tissue_"): Path(getattr(given, name)) for name in names}
            tissues = TissueFiles(**files, conformed=None)
        labels = []
        if isdefined(given.labels):
            pairs = zip(given.labels, given.label_records, strict=True)
            labels = [LabelFiles(Path(image), None, Path(record)) for image, record in pairs]
        written = publish_image(Path(given.source_file), settings, tissues, labels)
        self._results["out_files"] = [str(path) for path in written]
        return runtime


class _AsAtroposInputSpec(BaseInterfaceInputSpec):
    in_file = File(exists=True, mandatory=True, desc="1 = GM, 2 = WM, 3 = CSF")


class _AsAtroposOutputSpec(TraitedSpec):
    out_file = File(exists=True, desc="1 = CSF, 2 = GM, 3 = WM")


class AsAtropos(SimpleInterface):
    """Number tissues as ANTs' Atropos does in T1w images."""

    input_spec = _AsAtroposInputSpec
    output_spec = _AsAtroposOutputSpec

    def _run_interface(self, runtime: Any) -> Any:
        image = read_image(Path(self.inputs.in_file))
        path = Path(runtime.cwd) / "segm.nii.gz"
        volume = Volume(_ATROPOS[image.volume.voxels], image.volume.grid)
        write_whole(path, image_bytes(volume, image.placement, labels=True), durable=False)
        self._results["out_file"] = str(path)
        return runtime
