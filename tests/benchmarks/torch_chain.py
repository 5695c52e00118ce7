"""The same convolutions in PyTorch, for comparison: ``PYTHON torch_chain.py LAYERS EDGES``.

LAYERS is a JSON list of [out, in, kernel, dilation]. Runs by itself in an environment that
has PyTorch, without this package. Prints JSON:
seconds of three runs on random data. Activations are ReLU, whatever the network's.
"""

import json
import os
import sys
import time

import torch


def main() -> None:
    layers, edges = json.loads(sys.argv[1]), [int(edge) for edge in sys.argv[2].split("x")]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    modules: list[torch.nn.Module] = []
    for out, channels, kernel, dilation in layers:
        padding = dilation * (kernel // 2)
        modules += [
            torch.nn.Conv3d(channels, out, kernel, padding=padding, dilation=dilation),
            torch.nn.ReLU(),
        ]
    network = torch.nn.Sequential(*modules[:-1]).eval()
    volume = torch.rand(1, layers[0][1], *edges)
    seconds = []
    with torch.inference_mode():
        for _ in range(3):
            start = time.perf_counter()
            network(volume).argmax(1)
            seconds.append(time.perf_counter() - start)
    sys.stdout.write(json.dumps({"wall_s": seconds}) + "\n")


if __name__ == "__main__":
    main()
