"""Functions of one tensor."""

from __future__ import annotations

import math

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.precision import rounded, widened
from cgptc.ir.dtypes import DType, f64, i32, i64
from cgptc.ir.op import Op
from cgptc.ir.ops import elementwise as ops

_SAME: dict[type[Op], str] = {
    ops.Neg: "Neg",
    ops.Abs: "Abs",
    ops.Exp: "Exp",
    ops.Log: "Log",
    ops.Sqrt: "Sqrt",
    ops.Reciprocal: "Reciprocal",
    ops.Sin: "Sin",
    ops.Cos: "Cos",
    ops.Tanh: "Tanh",
    ops.Sigmoid: "Sigmoid",
    ops.Erf: "Erf",
    ops.Floor: "Floor",
    ops.Ceil: "Ceil",
    ops.Round: "Round",
    ops.Not: "Not",
    ops.IsNan: "IsNaN",
    ops.IsInf: "IsInf",
}


@lowers(*_SAME)
def _same(emit: Emit, op: Op, x: OnnxValue) -> OnnxValue:
    return emit.node(_SAME[type(op)], (x,))[0]


@lowers(ops.Sign)
def _sign(emit: Emit, op: ops.Sign, x: OnnxValue) -> OnnxValue:
    """In f32 for the narrow types, whose kernels in onnxruntime turn NaN into 0."""
    return rounded(emit, emit.Sign(widened(emit, x)), x)


@lowers(ops.Tan)
def _tan(emit: Emit, op: ops.Tan, x: OnnxValue) -> OnnxValue:
    if emit.dtype_of(x) == f64:  # onnxruntime has no f64 kernel for Tan
        return emit.Div(emit.Sin(x), emit.Cos(x))
    return emit.Tan(x)


@lowers(ops.Rsqrt)
def _rsqrt(emit: Emit, op: ops.Rsqrt, x: OnnxValue) -> OnnxValue:
    wide = widened(emit, x)
    return rounded(emit, emit.Reciprocal(emit.Sqrt(wide)), x)


@lowers(ops.Log1p)
def _log1p(emit: Emit, op: ops.Log1p, x: OnnxValue) -> OnnxValue:
    return rounded(emit, log1p(emit, widened(emit, x)), x)


@lowers(ops.Expm1)
def _expm1(emit: Emit, op: ops.Expm1, x: OnnxValue) -> OnnxValue:
    """``tanh(x / 2) * (exp(x) + 1)``: no cancellation near 0, and right at both infinities."""
    wide = widened(emit, x)
    half = emit.Tanh(emit.Mul(wide, emit.scalar(0.5, wide)))
    return rounded(emit, emit.Mul(half, emit.Add(emit.Exp(wide), emit.scalar(1, wide))), x)


@lowers(ops.Relu)
def _relu(emit: Emit, op: ops.Relu, x: OnnxValue) -> OnnxValue:
    if emit.dtype_of(x) == i64:  # onnxruntime has no i64 kernel for Relu
        return emit.Max(x, emit.scalar(0, x))
    return emit.Relu(x)


@lowers(ops.Silu)
def _silu(emit: Emit, op: ops.Silu, x: OnnxValue) -> OnnxValue:
    wide = widened(emit, x)
    return rounded(emit, emit.Mul(wide, emit.Sigmoid(wide)), x)


@lowers(ops.Softplus)
def _softplus(emit: Emit, op: ops.Softplus, x: OnnxValue) -> OnnxValue:
    """``max(x, 0) + log1p(exp(-|x|))``: ONNX leaves the accuracy of its own Softplus open."""
    wide = widened(emit, x)
    tail = log1p(emit, emit.Exp(emit.Neg(emit.Abs(wide))))
    return rounded(emit, emit.Add(emit.Relu(wide), tail), x)


@lowers(ops.Gelu)
def _gelu(emit: Emit, op: ops.Gelu, x: OnnxValue) -> OnnxValue:
    if emit.dtype_of(x) != f64:
        return emit.Gelu(x, approximate=op.approximate)
    if op.approximate == "none":
        bracket = emit.Erf(emit.Mul(x, emit.scalar(math.sqrt(0.5), x)))
    else:
        cube = emit.Mul(emit.Mul(x, emit.Mul(x, x)), emit.scalar(0.044715, x))
        bracket = emit.Tanh(emit.Mul(emit.Add(x, cube), emit.scalar(math.sqrt(2 / math.pi), x)))
    return emit.Mul(emit.Mul(x, emit.scalar(0.5, x)), emit.Add(bracket, emit.scalar(1, x)))


@lowers(ops.Cast)
def _cast(emit: Emit, op: ops.Cast, x: OnnxValue) -> OnnxValue:
    if emit.dtype_of(x).is_float and _is_narrow_integer(op.dtype):
        x = emit.cast(x, i32)  # the conversion to a narrow integer is not the same in every runtime
    return emit.cast(x, op.dtype)


def log1p(emit: Emit, x: OnnxValue) -> OnnxValue:
    """``log(1 + x)`` without cancellation (Kahan): ``log(u) * x / (u - 1)`` with ``u = 1 + x`` as rounded, ``x`` where ``u`` is 1."""
    one = emit.scalar(1, x)
    above = emit.Add(x, one)
    distance = emit.Sub(above, one)
    scaled = emit.Mul(emit.Log(above), emit.Div(x, distance))
    infinite = emit.node("IsInf", (x,), {"detect_negative": 0})[0]
    return emit.Where(emit.Or(emit.Equal(distance, emit.scalar(0, x)), infinite), x, scaled)


def _is_narrow_integer(dtype: DType) -> bool:
    return dtype.is_integer and dtype.bits < 32
