"""The ONNX target: a tensor graph becomes an ONNX model that onnxruntime runs."""
