"""Where narrow floating-point numbers are computed: f16 and bf16 in f32, rounded once at the end."""

from __future__ import annotations

import numpy as np

from cgptc.ir.dtypes import DType, bf16, f16, f32
from cgptc.ir.op import Array


def computing_dtype(dtype: DType) -> DType:
    """The type in which an operation on ``dtype`` computes."""
    return f32 if dtype in (f16, bf16) else dtype


def widened(array: Array) -> Array:
    """f16 and bf16 as f32; anything else as it is."""
    return array.astype(np.float32) if array.dtype in (f16.numpy, bf16.numpy) else array


def rounded(array: Array, like: Array) -> Array:
    """``array`` in the element type of ``like``; a numpy scalar becomes an array of rank 0."""
    return np.asarray(array).astype(like.dtype, copy=False)
