"""What the processes of a command will need, so that they get it from the command's own process."""

from brainchop_pipe.core import interpolate  # noqa: F401 - conforming imports it when it is called
from brainchop_pipe.engines import pydra_worker  # noqa: F401 - all jobs come from there
from brainchop_pipe.engines.lanes import fork_server

__all__ = ["fork_server"]
