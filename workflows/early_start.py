"""What a command can begin with before it has read its own libraries."""

from brainchop_pipe.engines import lanes


def start_ahead() -> None:
    """Have the server of processes begin with its imports, which take a second."""
    lanes.start_ahead("brainchop_pipe.workflows.preloaded")
