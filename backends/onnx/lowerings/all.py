"""Registers every lowering."""

from cgptc.backends.onnx.lowerings import (
    attention,
    binary,
    constant,
    elementwise,
    embedding,
    grouped_query,
    indexing,
    matmul,
    norm,
    ordering,
    quantized,
    reduction,
    shape,
)

__all__ = [
    "attention",
    "binary",
    "constant",
    "elementwise",
    "embedding",
    "grouped_query",
    "indexing",
    "matmul",
    "norm",
    "ordering",
    "quantized",
    "reduction",
    "shape",
]
