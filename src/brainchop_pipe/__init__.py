"""Deep-learning brain segmentation for whole studies: conform, ONNX inference, post-filter, BIDS.

Importing this package does nothing but define names; the steps are in
`brainchop_pipe.steps`, the BIDS-App in `brainchop_pipe.workflows.bids_app`.
"""

from brainchop_pipe._version import __commit_id__ as _commit_id
from brainchop_pipe._version import __version__

# Hash of the commit that this was built from, "g" and hexadecimal digits; None if not known.
__commit__: str | None = _commit_id

__all__ = ["__commit__", "__version__"]
