"""cgptc compiles GPT-family PyTorch models to ONNX or to a wafer-scale spatial program."""

__version__ = "0.1.0"
