"""The only user of onnxruntime: networks on any device that one of its providers knows."""

import json
import logging
import os
import sys
from functools import cache
from typing import Any

import numpy as np

from brainchop_pipe.inference.runner import Precision

logger = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"

# float32 means float32: these providers would take a shorter type by themselves. The search for
# an algorithm of the first is fixed, so that it is not tuned anew for each head.
_OPTIONS: dict[str, dict[str, str]] = {
    "CUDAExecutionProvider": {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    OPENVINO: {
        "device_type": "CPU",
        "load_config": json.dumps({"CPU": {"INFERENCE_PRECISION_HINT": "f32"}}),
    },
}

# onnxruntime's number of the arena's strategy kSameAsRequested.
_AS_REQUESTED = 1


class OnnxRuntimeRunner:
    """A network that one of onnxruntime's providers runs.

    Parameters
    ----------
    model : bytes
        ONNX file. As bytes it cannot pull in other files.
    provider : str
        Which one is asked for; `provider` of the runner is the one that was given.
    threads : int
        For the CPU provider.
    strict : bool
        Refuse a model of which single nodes would run on the processors.
    """

    precision: Precision = "float32"

    def __init__(self, model: bytes, provider: str, threads: int, *, strict: bool) -> None:
        ort = load_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A plan of the memory of an earlier run costs a gigabyte from the second run of a shape on.
        options.enable_mem_pattern = False
        if provider == CPU:
            _share_allocator()
            options.add_session_config_entry("session.use_env_allocators", "1")
        if strict:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        wanted = [(provider, _OPTIONS.get(provider, {}))]
        self._session = ort.InferenceSession(model, options, providers=wanted)

    @property
    def provider(self) -> str:
        """The execution provider that runs it, by its name in onnxruntime."""
        return str(self._session.get_providers()[0])

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        """Run the network."""
        options = load_onnxruntime().RunOptions()
        if self.provider == CPU:
            # Gives the gigabytes of the arena back before the next stage needs them.
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        name = self._session.get_inputs()[0].name
        return [np.asarray(output) for output in self._session.run(None, {name: batch}, options)]


def available_providers() -> tuple[str, ...]:
    """Name the providers that the installed onnxruntime contains; they may still fail to run."""
    return tuple(load_onnxruntime().get_available_providers())


@cache
def load_onnxruntime() -> Any:
    """Import onnxruntime with its uploader off; Linux wheels from 1.29 on have one that is on."""
    if "onnxruntime" in sys.modules and os.environ.get("ORT_DISABLE_TELEMETRY") != "1":
        logger.warning(
            "onnxruntime was imported before brainchop_pipe could set ORT_DISABLE_TELEMETRY=1; "
            "set it in the environment to keep its telemetry off"
        )
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    return onnxruntime


@cache
def _share_allocator() -> None:
    """Have the CPU's memory grow by what is asked for, not by powers of two.

    Of 104 classes on 173 x 256 x 256 voxels that makes 2.1 GB of 3.2.
    """
    ort = load_onnxruntime()
    place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    settings = {"max_mem": 0, "arena_extend_strategy": _AS_REQUESTED}
    defaults = {"initial_chunk_size_bytes": -1, "max_dead_bytes_per_chunk": -1}
    ort.create_and_register_allocator(place, ort.OrtArenaCfg(settings | defaults))
