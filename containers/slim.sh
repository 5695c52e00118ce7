#!/bin/sh
# Take from a virtual environment what no run needs: the libraries' own tests, OpenVINO's devices
# and file formats that are not used, its telemetry, and pip.
set -eu
packages=$(echo "$1"/lib/python3*/site-packages)
rm -rf "$packages/onnx/backend/test"
for library in numpy scipy pandas nibabel; do
  find "$packages/$library" -type d -name tests -prune -exec rm -rf {} +
done
for unused in intel_gpu_plugin intel_npu_plugin \
  tensorflow_frontend tensorflow_lite_frontend pytorch_frontend paddle_frontend gguf_frontend jax_frontend; do
  rm -f "$packages/openvino/libs/libopenvino_$unused.so"*
done
rm -f "$packages/openvino/libs/cache.json"
"$1/bin/python3" -m pip uninstall -q -y openvino-telemetry pip
chmod -R a+rX "$1"
