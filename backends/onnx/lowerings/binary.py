"""Functions of two tensors."""

from __future__ import annotations

import math

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.precision import by_number, rounded, widened
from cgptc.ir.dtypes import boolean, i32, i64
from cgptc.ir.op import Op
from cgptc.ir.ops import binary as ops

_SAME: dict[type[Op], str] = {
    ops.Add: "Add",
    ops.Sub: "Sub",
    ops.Mul: "Mul",
    ops.Div: "Div",
    ops.Maximum: "Max",
    ops.Minimum: "Min",
    ops.Equal: "Equal",
    ops.Less: "Less",
    ops.LessEqual: "LessOrEqual",
    ops.Greater: "Greater",
    ops.GreaterEqual: "GreaterOrEqual",
}
_BITS: dict[type[Op], tuple[str, str]] = {ops.And: ("And", "BitwiseAnd"), ops.Or: ("Or", "BitwiseOr"), ops.Xor: ("Xor", "BitwiseXor")}


@lowers(ops.Mul, ops.Div)
def _scaled(emit: Emit, op: Op, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    operator = _SAME[type(op)]
    single = [value.type.is_static and value.type.size == 1 for value in emit.source.inputs]
    if single[1]:
        return by_number(emit, operator, x, y, emit.type_of_result().rank)
    if single[0] and operator == "Mul":
        return by_number(emit, operator, y, x, emit.type_of_result().rank)
    return emit.node(operator, (x, y))[0]


@lowers(*(cls for cls in _SAME if cls not in (ops.Mul, ops.Div)))
def _same(emit: Emit, op: Op, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    return emit.node(_SAME[type(op)], (x, y))[0]


@lowers(*_BITS)
def _bits(emit: Emit, op: Op, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    logical, bitwise = _BITS[type(op)]
    return emit.node(logical if emit.dtype_of(x) == boolean else bitwise, (x, y))[0]


@lowers(ops.NotEqual)
def _not_equal(emit: Emit, op: ops.NotEqual, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    return emit.Not(emit.Equal(x, y))


@lowers(ops.FloorDiv)
def _floor_div(emit: Emit, op: ops.FloorDiv, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    """Of integers: ``(x - x % y) / y``, which is exact. Of floats: as Python, the quotient less the remainder, snapped to an integer."""
    if emit.dtype_of(x).is_integer:
        return emit.Div(emit.Sub(x, emit.Mod(x, y)), y)
    wide_x, wide_y = widened(emit, x), widened(emit, y)
    zero, one = emit.scalar(0, wide_x), emit.scalar(1, wide_x)
    remainder, opposite = _remainder(emit, wide_x, wide_y)
    quotient = emit.Div(emit.Sub(wide_x, remainder), wide_y)
    quotient = emit.Where(opposite, emit.Sub(quotient, one), quotient)
    floor = emit.Floor(quotient)
    below = emit.Greater(emit.Sub(quotient, floor), emit.scalar(0.5, quotient))
    snapped = emit.Where(below, emit.Add(floor, one), floor)
    return rounded(emit, emit.Where(emit.Equal(wide_y, zero), emit.Div(wide_x, wide_y), snapped), x)


@lowers(ops.Mod)
def _mod(emit: Emit, op: ops.Mod, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    if emit.dtype_of(x).is_integer:
        return emit.Mod(x, y)
    wide = widened(emit, y)
    remainder, opposite = _remainder(emit, widened(emit, x), wide)
    return rounded(emit, emit.Where(opposite, emit.Add(remainder, wide), remainder), x)


def _remainder(emit: Emit, x: OnnxValue, y: OnnxValue) -> tuple[OnnxValue, OnnxValue]:
    """``fmod(x, y)``, which has the sign of ``x``, and whether Python's remainder, which has that of ``y``, is the other one."""
    remainder = emit.Mod(x, y, fmod=1)
    return remainder, emit.Less(emit.Mul(emit.Sign(remainder), emit.Sign(y)), emit.scalar(0, x))


@lowers(ops.Pow)
def _pow(emit: Emit, op: ops.Pow, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    dtype = emit.dtype_of(x)
    if dtype.is_float:
        return emit.Pow(x, y)
    wide = i64 if dtype.bits == 64 else i32
    base, exponent = emit.cast(x, wide), emit.cast(y, wide)
    zero, one, two = (emit.scalar(number, wide) for number in (0, 1, 2))
    power = emit.Pow(base, emit.Max(exponent, zero))
    if dtype.kind == "int":  # a negative power is cut towards 0: 1 of 1, 1 or -1 of -1, else 0
        alternating = emit.Sub(one, emit.Mul(two, emit.Mod(exponent, two)))
        minus = emit.Where(emit.Equal(base, emit.Neg(one)), alternating, zero)
        power = emit.Where(emit.Less(exponent, zero), emit.Where(emit.Equal(base, one), one, minus), power)
    return emit.cast(power, dtype)


@lowers(ops.Atan2)
def _atan2(emit: Emit, op: ops.Atan2, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    """The arc tangent of the smaller magnitude over the larger, turned into its octant; zeros and infinities as numpy has them."""
    ordinate, abscissa = widened(emit, x), widened(emit, y)
    zero = emit.scalar(0, ordinate)
    up, right = emit.Abs(ordinate), emit.Abs(abscissa)
    least, most = emit.Min(up, right), emit.Max(up, right)
    ratio = emit.Div(least, most)
    ratio = emit.Where(emit.Equal(most, zero), zero, ratio)
    ratio = emit.Where(emit.And(emit.IsInf(up), emit.IsInf(right)), emit.scalar(1, ratio), ratio)
    angle = emit.Atan(ratio)
    angle = emit.Where(emit.Greater(up, right), emit.Sub(emit.scalar(math.pi / 2, angle), angle), angle)
    angle = emit.Where(_is_negative(emit, abscissa), emit.Sub(emit.scalar(math.pi, angle), angle), angle)
    return rounded(emit, emit.Where(_is_negative(emit, ordinate), emit.Neg(angle), angle), x)


def _is_negative(emit: Emit, x: OnnxValue) -> OnnxValue:
    """Whether the sign bit is set, of -0 too."""
    zero = emit.scalar(0, x)
    reciprocal = emit.Less(emit.Reciprocal(x), zero)
    return emit.Or(emit.Less(x, zero), emit.And(emit.Equal(x, zero), reciprocal))


@lowers(ops.Select)
def _select(emit: Emit, op: ops.Select, condition: OnnxValue, x: OnnxValue, y: OnnxValue) -> OnnxValue:
    if emit.dtype_of(x) == boolean:  # onnxruntime has no bool kernel for Where
        return emit.Or(emit.And(condition, x), emit.And(emit.Not(condition), y))
    return emit.Where(condition, x, y)
