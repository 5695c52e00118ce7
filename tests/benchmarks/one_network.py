"""One network, alone in its process: ``python -m tests.benchmarks.one_network MODEL DEVICE PRECISION EDGES``.

Prints JSON: what ran, seconds by the clock and of the processors for each of three runs
on random data of EDGES voxels (such as 176x224x208), and the peak memory. The network
gives labels, or probabilities for those that make tissue maps and masks.
"""

import json
import sys
import time

import numpy as np

from brainchop_pipe.inference.network import Network
from brainchop_pipe.record import peak_memory_mb
from brainchop_pipe.settings import available_cpus
from brainchop_pipe.steps import load_model

_RUNS = 3


def main() -> None:
    name, device, precision, edges = sys.argv[1:]
    ready = load_model(name)
    channels = np.random.default_rng(0).random((1, *map(int, edges.split("x")))).astype(np.float32)
    network = Network(
        ready.content, ready.card, device, available_cpus(), precision, with_probabilities=False
    )
    wall, cpu = [], []
    for _ in range(_RUNS):
        start, processors = time.perf_counter(), time.process_time()
        network.run(channels)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - processors)
    execution = network.execution
    found = {"provider": execution.provider, "precision": execution.precision}
    sys.stdout.write(json.dumps(found | {"wall_s": wall, "cpu_s": cpu, "memory_mb": peak_memory_mb()}) + "\n")


if __name__ == "__main__":
    main()
