"""What a command can begin with before it has read its own libraries."""

from brainchop_pipe.engines.lanes import start_ahead

__all__ = ["start_ahead"]
