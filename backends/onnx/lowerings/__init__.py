"""Lowerings by theme; importing `cgptc.backends.onnx.lowerings.all` registers every one."""
