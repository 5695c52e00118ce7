from numpy import float32
from numpy.typing import NDArray

def instructions() -> tuple[str, ...]: ...
def convolve(
    instructions: str,
    source: NDArray[float32],
    target: NDArray[float32],
    weights: NDArray[float32],
    bias: NDArray[float32],
    margins: tuple[int, int],
    width: int,
    taps: int,
    dilation: int,
    activation: int,
    planes: tuple[int, int, int],
    /,
) -> None: ...
