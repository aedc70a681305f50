"""What T2 needs to know of an operation: how many terms meet in an element, how large they are, how exact a function is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cgptc.ir.dtypes import DType, bf16, f16, f32, from_numpy
from cgptc.ir.op import Array, Op
from cgptc.ir.ops import attention, binary, elementwise, matmul, norm, reduction
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.testing.tolerances import assert_t2

_EXACT = (
    *(elementwise.Neg, elementwise.Abs, elementwise.Floor, elementwise.Ceil, elementwise.Round, elementwise.Sign, elementwise.Relu),
    *(elementwise.Cast, binary.Maximum, binary.Minimum, binary.Select, reduction.ReduceMax, reduction.ReduceMin),
)


def accumulator_of(dtype: DType) -> DType:
    """The narrow types are computed in f32."""
    return f32 if dtype in (f16, bf16) else dtype


def check_op(op: Op, operands: Sequence[Array | None], expected: Array, actual: Array, where: str) -> None:
    """Raise AssertionError unless ``actual`` is within T2 of ``expected``, the float64 evaluation."""
    wide = [array.astype(np.float64) if array is not None and array.dtype.kind not in "iub" else array for array in operands]
    with np.errstate(all="ignore"):
        magnitude, terms = _sum_of(op, wide, expected)
    ulps = 0.0 if isinstance(op, _EXACT) else 4.0
    assert_t2(
        expected, actual, magnitude=magnitude, terms=terms, accumulator=accumulator_of(from_numpy(actual.dtype)), function=ulps, where=where
    )


def _sum_of(op: Op, operands: Sequence[Array | None], expected: Array) -> tuple[Array | float, int]:
    """Σ|a·b| for each element, and the number of terms."""
    x = operands[0]
    assert x is not None
    match op:
        case binary.Add() | binary.Sub():
            y = operands[1]
            assert y is not None
            return np.abs(x) + np.abs(y), 1
        case binary.Mod() | binary.FloorDiv():  # a remainder carries the rounding of its dividend
            return np.abs(x) + np.abs(expected), 1
        case elementwise.Sin() | elementwise.Cos() | elementwise.Sigmoid() | elementwise.Tanh() | elementwise.Erf():
            return 1.0, 1  # their kernels promise an absolute error
        case elementwise.Tan():
            return 1 + np.square(expected), 2
        case elementwise.Gelu() | elementwise.Silu() | elementwise.Softplus():  # a factor or term near 1 cancels where x is negative
            return np.abs(x) + 1, 2
        case elementwise.Expm1() | binary.Atan2():
            return np.abs(expected), 4
        case reduction.ReduceSum() | reduction.ReduceMean():
            return _folded(op, np.abs(x)), _count(x, op.axes)
        case reduction.ReduceProd():
            return np.abs(expected), _count(x, op.axes)
        case reduction.CumSum():
            return np.cumsum(np.abs(x), axis=op.axis), x.shape[op.axis]
        case reduction.Softmax():
            return np.abs(expected) * (1 + _spread(x, op.axis)), x.shape[op.axis] + 2
        case reduction.LogSoftmax():
            return np.abs(expected) + _spread(x, op.axis) + 1, x.shape[op.axis] + 2
        case matmul.MatMul():
            y = operands[1]
            assert y is not None
            return np.matmul(np.abs(x), np.abs(y)), x.shape[-1]
        case matmul.Linear() | matmul.Conv1d():
            magnitudes = [np.abs(array) if array is not None else None for array in operands]
            weight = operands[1]
            assert weight is not None
            terms = x.shape[-1] if isinstance(op, matmul.Linear) else weight.shape[1] * weight.shape[2]
            return np.asarray(op.evaluate(*magnitudes)), terms + 1
        case QuantizedLinear():
            magnitudes = [np.abs(array.astype(np.float64)) if array is not None else None for array in operands]
            return np.asarray(QuantizedLinear(op.block).evaluate(*magnitudes)), x.shape[-1] + 3
        case norm.LayerNorm() | norm.RmsNorm():
            return _norm_magnitude(op, x, operands[1:]), 2 * x.shape[-1] + 2
        case attention.Rotary():
            return np.abs(x).max(axis=-1, keepdims=True) * 4 + 0 * x, 2
        case attention.Attention():
            return _attention_magnitude(op, operands), x.shape[3] + 8
        case _:
            return np.abs(expected), 2


def _folded(op: reduction.ReduceSum | reduction.ReduceMean, x: Array) -> Array:
    return np.asarray(op.evaluate(x))


def _count(x: Array, axes: Sequence[int]) -> int:
    return int(np.prod([x.shape[axis] for axis in axes], dtype=np.int64)) + 1


def _spread(x: Array, axis: int) -> Array:
    return np.asarray(np.max(x, axis=axis, keepdims=True) - np.min(x, axis=axis, keepdims=True))


def _norm_magnitude(op: norm.LayerNorm | norm.RmsNorm, x: Array, rest: Sequence[Array | None]) -> Array:
    """The mean is a sum of terms as large as ``x``; its error is divided by the deviation."""
    weight = rest[0] if rest and rest[0] is not None else np.ones(x.shape[-1])
    bias = rest[1] if len(rest) > 1 and rest[1] is not None else np.zeros(x.shape[-1])
    deviation = np.sqrt(
        (np.var(x, axis=-1, keepdims=True) if isinstance(op, norm.LayerNorm) else np.mean(x * x, -1, keepdims=True)) + op.eps
    )
    largest = np.abs(x).max(axis=-1, keepdims=True)
    condition = 1 + largest / deviation  # a small deviation is itself known badly
    return np.asarray(largest / deviation * condition * np.abs(weight) + np.abs(bias))


def _attention_magnitude(op: attention.Attention, operands: Sequence[Array | None]) -> Array:
    """Weights carry the absolute error of their scores, so each element is as uncertain as scores and values are large."""
    q, k, v = operands[:3]
    assert q is not None
    assert k is not None
    assert v is not None
    keys = [array for array in (k, *operands[4:5]) if array is not None and array.size]
    values = [array for array in (v, *operands[5:6]) if array is not None and array.size]
    largest_key = max(np.abs(array).max() for array in keys)
    largest_value = max(np.abs(array).max() for array in values)
    mask = operands[3] if len(operands) > 3 else None
    offset = float(np.max(np.abs(mask[np.isfinite(mask)]), initial=0.0)) if mask is not None and mask.dtype == np.float64 else 0.0
    scores = op.scale * np.abs(q).sum(axis=-1, keepdims=True) * largest_key + offset
    return np.asarray((1 + scores) * largest_value) + np.zeros((*q.shape[:3], v.shape[3]))
