"""What a command imports so that its processes have it from the beginning."""

from brainchop_pipe.engines import pydra_worker  # noqa: F401 - all jobs come from there
from brainchop_pipe.engines.server import fork_server

__all__ = ["fork_server"]
