"""The ONNX target: a tensor graph becomes an ONNX model that onnxruntime runs."""

import os

# From 1.29 on, onnxruntime counts its use, keeps a database and an identifier in the home folder, and sends them, unless this is set before
# it is imported. Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
