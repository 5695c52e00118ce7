#!/bin/sh
# Pin what the images install, with hashes: run after a change of dependencies. Needs uv.
set -eu
cd "$(dirname "$0")"
pin() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header "$@" >/dev/null; }
pin ../pyproject.toml --extra openvino -o requirements.lock
# The GPU's build has the place of the plain one.
echo 'onnxruntime ; python_version < "3"' >without-cpu.tmp
echo 'onnxruntime-gpu' >gpu.tmp
trap 'rm -f without-cpu.tmp gpu.tmp' EXIT
pin ../pyproject.toml gpu.tmp --override without-cpu.tmp --no-annotate -o requirements-cuda.lock
