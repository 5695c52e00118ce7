#!/bin/sh
# What both kinds of images are made of, into containers/build: the wheel, and all models.
# Run it in an environment with the package and pip; PYTHON names another Python.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
rm -rf containers/build
mkdir -p containers/build/models
"$python" -m pip wheel --quiet --no-deps --wheel-dir containers/build/wheel .
# Compiled here: on Linux, for the same processors as the image, with gcc or clang.
for compiled in native/_convolution core/_order; do
  "$python" -m zipfile -l containers/build/wheel/*.whl | grep -q "$compiled" ||
    { echo "the wheel has no compiled code; install gcc or clang" >&2; exit 1; }
done
BRAINCHOP_MODEL_DIR=containers/build/models "$python" -m brainchop_pipe.cli.main models pull
# The published files that were converted are not needed any more.
rm -rf containers/build/models/downloads
