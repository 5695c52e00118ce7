"""The only user of openvino: networks on processors, most often faster than with onnxruntime."""

import sys
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from brainchop_pipe.inference.runner import Precision

PROVIDER = "OpenVINO"

_TYPES: dict[Precision, str] = {"float32": "f32", "bfloat16": "bf16"}


def is_installed() -> bool:
    """Tell whether the package is there, without importing it."""
    return find_spec("openvino") is not None


class OpenVinoRunner:
    """A network that OpenVINO runs on the processors.

    Parameters
    ----------
    model : bytes
        ONNX file.
    threads : int
    precision : {"float32", "bfloat16"}
        Named, because OpenVINO picks bfloat16 by itself where a processor has it.
    """

    provider = PROVIDER

    def __init__(self, model: bytes, threads: int, precision: Precision) -> None:
        core = load_openvino()
        settings = {
            "INFERENCE_PRECISION_HINT": _TYPES[precision],
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
            # Several processes would all choose the same cores.
            "ENABLE_CPU_PINNING": "NO",
        }
        self._network = core.read_model(model=model)
        self._compiled = core.compile_model(self._network, "CPU", settings)
        self._possible: set[tuple[int, ...]] = set()
        # Not every processor has bfloat16.
        used = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        self.precision: Precision = "bfloat16" if used == _TYPES["bfloat16"] else "float32"

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network."""
        self._check_shape(batch.shape)
        # Of a request of its own each time: its outputs are handed on without a copy.
        found = self._compiled.create_infer_request().infer({0: batch}, share_inputs=True, share_outputs=True)
        # A gigabyte that the next stage needs.
        self._compiled.release_memory()
        return [np.asarray(found[index]) for index in range(len(self._compiled.outputs))]

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        """Refuse a shape that does not go through the network: OpenVINO would read beyond its arrays."""
        if shape not in self._possible:
            self._network.clone().reshape(list(shape))
            self._possible.add(shape)


@cache
def load_openvino() -> Any:
    """Import openvino, without what it brings to send anything, and give its core."""
    # What openvino brings to convert models has an uploader, which it does without when it is not there.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino.Core()
