"""Example: a Nipype workflow over a BIDS dataset, several images at a time.

``python -m brainchop_pipe.workflows.dataset_nipype BIDS_DIR OUT WORK [MODEL...]``
"""

import argparse
import logging
from pathlib import Path
from typing import Any

from brainchop_pipe.workflows.segment_nipype import init_brainchop_derivatives_wf, init_brainchop_segment_wf
from brainchop_pipe.workflows.suitability import cannot_be_named, refusal

from brainchop_pipe.bids.dataset import find_images
from brainchop_pipe.settings import DEFAULT_MODELS, Query, available_cpus
from brainchop_pipe.zoo.catalog import find_models

from nipype.pipeline import engine as pe  # isort: skip

logger = logging.getLogger(__name__)

_OUTPUTS = ("mask", "dseg", "gm", "wm", "csf", "tissue_record", "labels", "label_records")


def init_dataset_wf(bids_dir: Path, output_dir: Path, models: tuple[str, ...], omp_nthreads: int = 1) -> Any:
    """Build a workflow that segments all T1w images of a dataset into BIDS derivatives.

    Parameters
    ----------
    bids_dir, output_dir : Path
    models : tuple of str
    omp_nthreads : int
        Threads of one inference.
    """
    whole = pe.Workflow(name="brainchop_dataset_wf")
    for source in find_images(bids_dir, Query()):
        suits = not any(refusal(source, model, ("T1w",)) for model in find_models(models))
        if not suits or cannot_be_named(source):
            logger.warning("%s is passed over; the app would say why", source.name)
            continue
        image_wf = pe.Workflow(name=f"{source.stem.replace('-', '_')}_wf")
        segment = init_brainchop_segment_wf(models=models, omp_nthreads=omp_nthreads)
        write = init_brainchop_derivatives_wf(bids_dir=bids_dir, output_dir=output_dir, models=models)
        image = str(bids_dir / source.folder / source.name)
        segment.inputs.inputnode.in_file = write.inputs.inputnode.source_file = image
        links = [(f"outputnode.{name}", f"inputnode.{name}") for name in _OUTPUTS]
        image_wf.connect([(segment, write, links)])
        whole.add_nodes([image_wf])
    return whole


def main(argv: list[str] | None = None) -> int:
    """Run the script."""
    parser = argparse.ArgumentParser(prog="dataset_nipype", description=__doc__)
    parser.add_argument("bids_dir", type=Path)
    parser.add_argument("output_dir", type=Path)
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("models", nargs="*", default=list(DEFAULT_MODELS))
    given = parser.parse_args(argv)
    workflow = init_dataset_wf(given.bids_dir.resolve(), given.output_dir.resolve(), tuple(given.models))
    workflow.base_dir = given.work_dir.resolve()
    workflow.config["execution"] = {"crashdump_dir": str(given.work_dir.resolve() / "crashes")}
    # Nipype looks for finished nodes once a second unless it is told otherwise.
    workflow.run(plugin="MultiProc", plugin_args={"n_procs": available_cpus(), "poll_sleep_duration": 0.1})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
