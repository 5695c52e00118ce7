from typing import Any

from numpy.typing import NDArray

def reorder(source: NDArray[Any], target: NDArray[Any], /) -> None: ...
