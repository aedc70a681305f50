"""Arithmetic, element by element, with PyTorch's promotion."""

from __future__ import annotations

import math
from collections.abc import Callable

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import Number, Operand, UnsupportedError, aten
from cgptc.ir.dtypes import boolean, i32
from cgptc.ir.graph import Value
from cgptc.ir.op import Op
from cgptc.ir.ops.binary import Add, And, Atan2, Div, FloorDiv, Less, Maximum, Minimum, Mod, Mul, NotEqual, Or, Pow, Select, Sub, Xor
from cgptc.ir.ops.elementwise import (
    Abs,
    Ceil,
    Cos,
    Erf,
    Exp,
    Expm1,
    Floor,
    IsInf,
    IsNan,
    Log,
    Log1p,
    Neg,
    Not,
    Reciprocal,
    Round,
    Rsqrt,
    Sigmoid,
    Sign,
    Sin,
    Sqrt,
    Tan,
    Tanh,
)


def _scaled(emit: Emit, value: Value, alpha: Number) -> Value:
    return value if alpha == 1 else emit(Mul(), value, emit.number(alpha, value.type.dtype))


@aten("add.Tensor", "add.Scalar")
def add(emit: Emit, self: Operand, other: Operand, alpha: Number = 1) -> Value:
    dtype = emit.promotion(self, other)
    if dtype.is_integer and isinstance(self, Value) and type(other) is int and other == 0:
        return emit.cast(self, dtype)  # an offset of 0, as code written for a cache adds it to positions
    x, y = emit.operand(self, dtype), emit.operand(other, dtype)
    if dtype == boolean:
        return emit(Or(), x, y)
    return emit(Add(), x, _scaled(emit, y, alpha))


@aten("sub.Tensor", "sub.Scalar")
def sub(emit: Emit, self: Operand, other: Operand, alpha: Number = 1) -> Value:
    x, y = emit.promoted(self, other)
    return emit(Sub(), x, _scaled(emit, y, alpha))


@aten("rsub.Scalar", "rsub.Tensor")
def rsub(emit: Emit, self: Operand, other: Operand, alpha: Number = 1) -> Value:
    x, y = emit.promoted(self, other)
    return emit(Sub(), y, _scaled(emit, x, alpha))


@aten("mul.Tensor", "mul.Scalar")
def mul(emit: Emit, self: Operand, other: Operand) -> Value:
    x, y = emit.promoted(self, other)
    return emit(And() if x.type.dtype == boolean else Mul(), x, y)


@aten("div.Tensor", "div.Scalar", "true_divide.Tensor", "true_divide.Scalar")
def div(emit: Emit, self: Operand, other: Operand) -> Value:
    return emit(Div(), *emit.promoted(self, other, floating=True))


@aten("div.Tensor_mode", "div.Scalar_mode")
def div_mode(emit: Emit, self: Operand, other: Operand, rounding_mode: str | None = None) -> Value:
    if rounding_mode is None:
        return div(emit, self, other)
    x, y = emit.promoted(self, other)
    if rounding_mode == "floor":
        return emit(FloorDiv(), x, y)
    if x.type.dtype.is_float:
        return trunc(emit, emit(Div(), x, y))
    quotient = emit(FloorDiv(), emit(Abs(), x), emit(Abs(), y))
    return emit(Mul(), quotient, emit(Mul(), emit(Sign(), x), emit(Sign(), y)))


@aten("floor_divide", "floor_divide.Scalar")
def floor_divide(emit: Emit, self: Operand, other: Operand) -> Value:
    return emit(FloorDiv(), *emit.promoted(self, other))


@aten("remainder.Tensor", "remainder.Scalar", "remainder.Scalar_Tensor")
def remainder(emit: Emit, self: Operand, other: Operand) -> Value:
    return emit(Mod(), *emit.promoted(self, other))


@aten("fmod.Tensor", "fmod.Scalar")
def fmod(emit: Emit, self: Operand, other: Operand) -> Value:
    """The remainder with the sign of the dividend."""
    x, y = emit.promoted(self, other)
    return emit(Mul(), emit(Sign(), x), emit(Mod(), emit(Abs(), x), emit(Abs(), y)))


@aten("pow.Tensor_Scalar", "pow.Tensor_Tensor", "pow.Scalar")
def pow_(emit: Emit, self: Operand, exponent: Operand) -> Value:
    """Small integer powers become products: exact, and what a matcher of ``x**2`` and ``x**3`` meets."""
    x, y = emit.promoted(self, exponent)
    if isinstance(self, Value) and not isinstance(exponent, Value):
        if exponent == 1:
            return x
        if exponent == 2:
            return emit(Mul(), x, x)
        if exponent == 0.5 and x.type.dtype.is_float:
            return emit(Sqrt(), x)
        if exponent == -0.5 and x.type.dtype.is_float:
            return emit(Rsqrt(), x)
        if exponent == -1 and x.type.dtype.is_float:
            return emit(Reciprocal(), x)
    return emit(Pow(), x, y)


@aten("square")
def square(emit: Emit, self: Value) -> Value:
    return emit(Mul(), self, self)


@aten("maximum", "max.other")
def maximum(emit: Emit, self: Value, other: Value) -> Value:
    x, y = emit.promoted(self, other)
    return emit(Or() if x.type.dtype == boolean else Maximum(), x, y)


@aten("minimum", "min.other")
def minimum(emit: Emit, self: Value, other: Value) -> Value:
    x, y = emit.promoted(self, other)
    return emit(And() if x.type.dtype == boolean else Minimum(), x, y)


def _number_of(emit: Emit, op: Op, self: Value, other: Value) -> Value:
    """The extreme of two, or the one that is a number where the other is NaN."""
    x, y = emit.promoted(self, other)
    result = emit(op, x, y)
    if not x.type.dtype.is_float:
        return result
    return emit(Select(), emit(IsNan(), x), y, emit(Select(), emit(IsNan(), y), x, result))


@aten("fmax")
def fmax(emit: Emit, self: Value, other: Value) -> Value:
    return _number_of(emit, Maximum(), self, other)


@aten("fmin")
def fmin(emit: Emit, self: Value, other: Value) -> Value:
    return _number_of(emit, Minimum(), self, other)


@aten("clamp", "clamp.Tensor", "clip", "clip.Tensor")
def clamp(emit: Emit, self: Value, min: Operand | None = None, max: Operand | None = None) -> Value:
    present = [bound for bound in (min, max) if bound is not None]
    dtype = emit.promotion(self, *present)
    value = emit.cast(self, dtype)
    if min is not None:
        value = emit(Maximum(), value, emit.operand(min, dtype))
    if max is not None:
        value = emit(Minimum(), value, emit.operand(max, dtype))
    return value


@aten("clamp_min", "clamp_min.Tensor")
def clamp_min(emit: Emit, self: Value, min: Operand) -> Value:
    return clamp(emit, self, min=min)


@aten("clamp_max", "clamp_max.Tensor")
def clamp_max(emit: Emit, self: Value, max: Operand) -> Value:
    return clamp(emit, self, max=max)


@aten("addcmul")
def addcmul(emit: Emit, self: Value, tensor1: Value, tensor2: Value, value: Number = 1) -> Value:
    x, a, b = emit.promoted(self, tensor1, tensor2)
    return emit(Add(), x, _scaled(emit, emit(Mul(), a, b), value))


@aten("addcdiv")
def addcdiv(emit: Emit, self: Value, tensor1: Value, tensor2: Value, value: Number = 1) -> Value:
    x, a, b = emit.promoted(self, tensor1, tensor2, floating=True)
    return emit(Add(), x, _scaled(emit, emit(Div(), a, b), value))


@aten("lerp.Scalar", "lerp.Tensor")
def lerp(emit: Emit, self: Value, end: Value, weight: Operand) -> Value:
    dtype = emit.promotion(self, end)
    x, y = emit.cast(self, dtype), emit.cast(end, dtype)
    return emit(Add(), x, emit(Mul(), emit.operand(weight, dtype), emit(Sub(), y, x)))


@aten("atan2")
def atan2(emit: Emit, self: Value, other: Value) -> Value:
    return emit(Atan2(), *emit.promoted(self, other, floating=True))


@aten("hypot")
def hypot(emit: Emit, self: Value, other: Value) -> Value:
    """``sqrt(x² + y²)`` by the larger side, so that no square overflows or vanishes."""
    x, y = (emit(Abs(), value) for value in emit.promoted(self, other))
    long, short = emit(Maximum(), x, y), emit(Minimum(), x, y)
    one, zero = emit.number(1.0, x.type.dtype), emit.number(0.0, x.type.dtype)
    is_plain = emit(And(), emit(NotEqual(), long, zero), emit(Not(), emit(IsInf(), long)))
    ratio = emit(Select(), is_plain, emit(Div(), short, emit(Select(), is_plain, long, one)), zero)
    infinite = emit(Or(), emit(IsInf(), x), emit(IsInf(), y))
    length = emit(Mul(), long, emit(Sqrt(), emit(Add(), one, emit(Mul(), ratio, ratio))))
    return emit(Select(), infinite, emit.number(math.inf, x.type.dtype), length)


@aten("signbit")
def signbit(emit: Emit, self: Value) -> Value:
    """Whether a number is negative, -0 included, which 1/x tells. NaN counts as positive, whatever its sign."""
    zero = emit.number(0, self.type.dtype)
    if self.type.dtype == boolean:
        return emit(Less(), emit.cast(self, i32), emit.number(0, i32))
    negative = emit(Less(), self, zero)
    return emit(Or(), negative, emit(Less(), emit(Reciprocal(), self), zero)) if self.type.dtype.is_float else negative


@aten("copysign.Tensor", "copysign.Scalar")
def copysign(emit: Emit, self: Value, other: Operand) -> Value:
    x, y = emit.promoted(self, other, floating=True)
    size = emit(Abs(), x)
    return emit(Select(), signbit(emit, y), emit(Neg(), size), size)


@aten("round.decimals")
def round_decimals(emit: Emit, self: Value, decimals: int) -> Value:
    """To a multiple of a power of ten, by multiplying, rounding and dividing as torch does."""
    power = emit.number(10.0 ** abs(decimals), self.type.dtype)
    there, back = (Mul(), Div()) if decimals >= 0 else (Div(), Mul())
    return emit(back, emit(Round(), emit(there, self, power)), power)


def _unary(op: Callable[[], Op], *names: str, floating: bool = True) -> None:
    """An op of one tensor; ``floating``: integers become the default float first, as torch does for transcendental functions."""

    def importer(emit: Emit, self: Value) -> Value:
        value = emit.floating(self) if floating else self
        return emit(op(), value)

    aten(*names)(importer)


for _op, _name in (
    (Exp, "exp"),
    (Log, "log"),
    (Log1p, "log1p"),
    (Expm1, "expm1"),
    (Sqrt, "sqrt"),
    (Rsqrt, "rsqrt"),
    (Reciprocal, "reciprocal"),
    (Sin, "sin"),
    (Cos, "cos"),
    (Tan, "tan"),
    (Tanh, "tanh"),
    (Sigmoid, "sigmoid"),
    (Erf, "erf"),
):
    _unary(_op, _name)
_unary(Erf, "special_erf")
_unary(Sigmoid, "special_expit")
_unary(Neg, "neg", "negative", floating=False)
_unary(Abs, "abs", "absolute", floating=False)
_unary(Sign, "sign", "sgn", floating=False)


def _rounding(op: Callable[[], Op], name: str) -> None:
    """Integers are whole already."""

    def importer(emit: Emit, self: Value) -> Value:
        return emit(op(), self) if self.type.dtype.is_float else self

    aten(name)(importer)


_rounding(Floor, "floor")
_rounding(Ceil, "ceil")
_rounding(Round, "round")


@aten("trunc", "fix")
def trunc(emit: Emit, self: Value) -> Value:
    if not self.type.dtype.is_float:
        return self
    negative = emit(Less(), self, emit.number(0.0, self.type.dtype))
    return emit(Select(), negative, emit(Ceil(), self), emit(Floor(), self))


@aten("log2")
def log2(emit: Emit, self: Value) -> Value:
    value = emit(Log(), emit.floating(self))
    return emit(Div(), value, emit.number(math.log(2.0), value.type.dtype))


@aten("log10")
def log10(emit: Emit, self: Value) -> Value:
    value = emit(Log(), emit.floating(self))
    return emit(Div(), value, emit.number(math.log(10.0), value.type.dtype))


@aten("atan")
def atan(emit: Emit, self: Value) -> Value:
    value = emit.floating(self)
    return emit(Atan2(), value, emit.number(1.0, value.type.dtype))


def _cathetus(emit: Emit, value: Value) -> Value:
    """``sqrt((1 - x) (1 + x))``, the other side of a right triangle with hypotenuse 1."""
    one = emit.number(1.0, value.type.dtype)
    return emit(Sqrt(), emit(Mul(), emit(Sub(), one, value), emit(Add(), one, value)))


@aten("asin")
def asin(emit: Emit, self: Value) -> Value:
    value = emit.floating(self)
    return emit(Atan2(), value, _cathetus(emit, value))


@aten("acos")
def acos(emit: Emit, self: Value) -> Value:
    value = emit.floating(self)
    return emit(Atan2(), _cathetus(emit, value), value)


@aten("atanh")
def atanh(emit: Emit, self: Value) -> Value:
    """``(log1p(x) - log1p(-x)) / 2``."""
    value = emit.floating(self)
    difference = emit(Sub(), emit(Log1p(), value), emit(Log1p(), emit(Neg(), value)))
    return emit(Mul(), difference, emit.number(0.5, value.type.dtype))


@aten("exp2", "special_exp2")
def exp2(emit: Emit, self: Value) -> Value:
    value = emit.floating(self)
    return emit(Pow(), emit.number(2.0, value.type.dtype), value)


@aten("bitwise_not")
def bitwise_not(emit: Emit, self: Value) -> Value:
    """On integers ``~x`` is ``-x - 1``."""
    if self.type.dtype == boolean:
        return emit(Not(), self)
    return emit(Sub(), emit(Neg(), self), emit.number(1, self.type.dtype))


@aten("bitwise_and.Tensor", "bitwise_and.Scalar", "__and__.Tensor", "__and__.Scalar")
def bitwise_and(emit: Emit, self: Operand, other: Operand) -> Value:
    return emit(And(), *emit.promoted(self, other))


@aten("bitwise_or.Tensor", "bitwise_or.Scalar", "__or__.Tensor", "__or__.Scalar")
def bitwise_or(emit: Emit, self: Operand, other: Operand) -> Value:
    return emit(Or(), *emit.promoted(self, other))


@aten("bitwise_xor.Tensor", "bitwise_xor.Scalar", "__xor__.Tensor", "__xor__.Scalar")
def bitwise_xor(emit: Emit, self: Operand, other: Operand) -> Value:
    return emit(Xor(), *emit.promoted(self, other))


def _shifted(emit: Emit, self: Operand, other: Operand, op: Callable[[], Op]) -> Value:
    """A shift is a product with, or a floored quotient by, a power of two."""
    if not isinstance(other, int):
        raise UnsupportedError("shifts by a number that is no constant")
    value = emit.operand(self)
    bits = value.type.dtype.bits
    if not 0 <= other < bits - 1:
        raise UnsupportedError(f"shifts integers of {bits} bits by {other}")
    return emit(op(), value, emit.number(1 << other, value.type.dtype))


@aten("bitwise_left_shift.Tensor_Scalar", "__lshift__.Scalar")
def left_shift(emit: Emit, self: Operand, other: Operand) -> Value:
    return _shifted(emit, self, other, Mul)


@aten("bitwise_right_shift.Tensor_Scalar", "__rshift__.Scalar")
def right_shift(emit: Emit, self: Operand, other: Operand) -> Value:
    return _shifted(emit, self, other, FloorDiv)
