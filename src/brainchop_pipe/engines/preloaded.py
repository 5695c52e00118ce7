"""What a server of processes imports once for all of them.

Without the collector, which would look for garbage among what the imports make, meanwhile and ever after.
"""

import gc

gc.disable()

from brainchop_pipe.engines.server import leave_signals_to_the_command  # noqa: E402

leave_signals_to_the_command()

from brainchop_pipe.engines import pydra_worker  # noqa: E402, F401 - all jobs come from there

gc.freeze()
gc.enable()
