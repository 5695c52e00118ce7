from numpy import float32, float64
from numpy.typing import NDArray

def instructions() -> tuple[tuple[str, int], ...]: ...
def convolve(
    instructions: str,
    source: NDArray[float32],
    target: NDArray[float32],
    weights: NDArray[float32],
    bias: NDArray[float32],
    sums: NDArray[float64] | None,
    width: int,
    taps: int,
    dilation: int,
    activation: int,
    pairs: tuple[int, int, int],
    /,
) -> None: ...
def scale(
    instructions: str,
    volume: NDArray[float32],
    scale: NDArray[float32],
    shift: NDArray[float32],
    width: int,
    activation: int,
    planes: tuple[int, int],
    /,
) -> None: ...
def repeat(
    instructions: str,
    source: NDArray[float32],
    target: NDArray[float32],
    width: int,
    activation: int,
    planes: tuple[int, int],
    /,
) -> None: ...
