"""What a server of processes imports once for all of them, besides what engines need."""

import gc

# What steps import when they are called: numpy's percentiles, and filters of the default model.
import numpy.ma  # noqa: F401
import scipy.ndimage  # noqa: F401
from brainchop_pipe.workflows import draw_pictures  # noqa: F401 - a job that comes after the networks

from brainchop_pipe.core import interpolate  # noqa: F401 - conforming imports it when it is called

# The collector looks at none of it again: neither in the processes, which would copy the pages
# that they share, nor at the server's end, for a fifth of a second.
gc.freeze()
