"""What a server of processes imports once for all of them, besides what engines need.

No more than the first step takes, since it waits for this.
"""

import gc

from brainchop_pipe.core import interpolate  # noqa: F401 - conforming imports it when it is called

# The collector looks at none of it again: neither in the processes, which would copy the pages
# that they share, nor at the server's end, for a fifth of a second.
gc.freeze()
