"""Build sMRIPrep's workflow with derivatives; runs in a Python that has smriprep.

``python smriprep_check.py BIDS_DIR DERIVATIVES T1W PARTICIPANT``: prints what was found as
JSON in its first line, what sMRIPrep logs of its stages after that.
"""

import json
import logging
import sys

from niworkflows.utils.spaces import Reference, SpatialReferences
from smriprep.utils.bids import collect_derivatives
from smriprep.workflows.anatomical import init_anat_fit_wf

bids_dir, derivatives, t1w, participant = sys.argv[1:]
found = collect_derivatives(derivatives, participant, std_spaces=[])
sys.stdout.write(json.dumps(found) + "\n")
for name in ("nipype.workflow", "smriprep"):
    logging.getLogger(name).addHandler(logging.StreamHandler(sys.stdout))
init_anat_fit_wf(
    bids_root=bids_dir,
    output_dir=derivatives + "-smriprep",
    freesurfer=False,
    hires=False,
    longitudinal=False,
    msm_sulc=False,
    t1w=[t1w],
    t2w=[],
    skull_strip_mode="force",
    skull_strip_template=Reference("OASIS30ANTs"),
    spaces=SpatialReferences([]),
    precomputed=found,
    omp_nthreads=1,
)
