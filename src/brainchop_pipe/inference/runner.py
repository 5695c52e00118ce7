"""What a session needs of a library that runs networks."""

from typing import Literal, Protocol

import numpy as np

# What networks compute in. A type shorter than float32 is for those whose cards allow them.
Precision = Literal["float32", "bfloat16"]


class Runner(Protocol):
    """A network that is ready to run with one library."""

    @property
    def provider(self) -> str:
        """What runs it, by the library's own name."""

    @property
    def precision(self) -> Precision:
        """What it computes in."""

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Give all outputs, in the network's order; any exception is a failure of the provider."""
