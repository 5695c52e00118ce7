"""What a server of processes imports once for all of them.

Without the collector, which would look for garbage among what the imports make, meanwhile and ever after.
"""

import gc

gc.disable()

from brainchop_pipe.engines import pydra_worker  # noqa: E402, F401 - all jobs come from there

gc.freeze()
gc.enable()
