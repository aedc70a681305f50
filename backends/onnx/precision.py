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
