#!/bin/sh
# Take from a virtual environment what no run needs: the libraries' own tests, and pip.
set -eu
packages=$(echo "$1"/lib/python3*/site-packages)
for tests in numpy scipy pandas onnx/backend/test nibabel/tests; do
  find "$packages/$tests" -type d -name 'test*' -prune -exec rm -rf {} + 2>/dev/null || true
done
"$1/bin/python3" -m pip uninstall -q -y pip
chmod -R a+rX "$1"
