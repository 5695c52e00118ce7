"""The command, writing down what networks take: ``python -m tests.benchmarks.counted FILE ARGUMENTS``.

Its processes are forks of it, and count as it does.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from brainchop_pipe.cli.main import main
from brainchop_pipe.inference.network import Network


def count_networks(add: Callable[[float], object]) -> None:
    """Have each run of a network add its processor seconds, of the process that it is in."""
    run = Network.run

    def counted(network: Network, channels: object) -> object:
        start = time.process_time()
        try:
            return run(network, channels)
        finally:
            add(time.process_time() - start)

    Network.run = counted


def counted_main(file: Path, arguments: list[str]) -> int:
    """Run the command, and add a line of seconds to a file for each run of a network."""

    def add(seconds: float) -> None:
        with file.open("a") as lines:
            lines.write(f"{seconds}\n")

    count_networks(add)
    return main(arguments, owns_process=True)


if __name__ == "__main__":
    sys.exit(counted_main(Path(sys.argv[1]), sys.argv[2:]))
