"""Words that decompositions share."""

from __future__ import annotations

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Shape
from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Value
from cgptc.ir.ops.elementwise import Cast
from cgptc.ir.ops.precision import computing_dtype
from cgptc.ir.ops.shape import Reshape


def cast(build: Builder, x: Value, dtype: DType) -> Value:
    """``x`` in ``dtype``; itself where it has it."""
    return x if x.type.dtype == dtype else build(Cast(dtype), x)


def reshape(build: Builder, x: Value, shape: Shape) -> Value:
    """``x`` under another shape; itself where it has it."""
    return x if x.type.shape == shape else build(Reshape(shape), x)


def widen(build: Builder, x: Value) -> Value:
    """``x`` in the type in which it is computed: f16 and bf16 in f32."""
    return cast(build, x, computing_dtype(x.type.dtype))
