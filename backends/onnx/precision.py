"""Narrow floating-point numbers in forms of several nodes: computed in f32, rounded once, as the IR defines them."""

from __future__ import annotations

import numpy as np

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.ir.dtypes import bf16, f16, f32, f64


def widened(emit: Emit, value: OnnxValue) -> OnnxValue:
    """f16 and bf16 as f32, anything else as it is."""
    return emit.cast(value, f32) if emit.dtype_of(value) in (f16, bf16) else value


def rounded(emit: Emit, value: OnnxValue, like: OnnxValue) -> OnnxValue:
    """``value`` in the element type of ``like``."""
    return emit.cast(value, emit.dtype_of(like))


def fits_attribute(emit: Emit, number: float, like: OnnxValue) -> bool:
    """Whether an ONNX attribute, which is an f32, holds a number precisely enough for ``like``."""
    return emit.dtype_of(like) != f64 or float(np.float32(number)) == number


def by_number(emit: Emit, operator: str, x: OnnxValue, number: OnnxValue, rank: int) -> OnnxValue:
    """``x`` times or over ("Mul", "Div") the only element of ``number``; the result has that rank, which is at least either's.

    onnxruntime 1.31 folds both into a product of matrices beside them, with the number as an f32, which costs f64 its precision. With an
    axis more than the result it leaves them alone.
    """
    if emit.dtype_of(x) != f64:
        return emit.node(operator, (x, number))[0]
    result = emit.node(operator, (x, emit.Reshape(number, emit.ints([1] * (rank + 1)))))[0]
    return emit.Squeeze(result, emit.ints([0]))
