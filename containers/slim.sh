#!/bin/sh
# Take from a virtual environment what no run needs: the libraries' own tests, and pip.
set -eu
packages=$(echo "$1"/lib/python3*/site-packages)
rm -rf "$packages/onnx/backend/test"
for library in numpy scipy pandas nibabel; do
  find "$packages/$library" -type d -name tests -prune -exec rm -rf {} +
done
"$1/bin/python3" -m pip uninstall -q -y pip
chmod -R a+rX "$1"
