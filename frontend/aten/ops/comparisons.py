"""Comparisons and logic."""

from __future__ import annotations

from collections.abc import Callable

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import Operand, aten
from cgptc.ir.dtypes import boolean, i32
from cgptc.ir.graph import Value
from cgptc.ir.op import Op
from cgptc.ir.ops.binary import And, Equal, Greater, GreaterEqual, Less, LessEqual, NotEqual, Or, Select, Xor
from cgptc.ir.ops.elementwise import IsInf, IsNan, Not


def _comparison(op: Callable[[], Op], name: str) -> None:
    def importer(emit: Emit, self: Operand, other: Operand) -> Value:
        dtype = emit.promotion(self, other)
        wide = i32 if dtype == boolean else dtype  # bools compare as 0 and 1
        x, y = (emit.cast(emit.operand(operand, dtype), wide) for operand in (self, other))
        return emit(op(), x, y)

    aten(f"{name}.Tensor", f"{name}.Scalar")(importer)


_comparison(Equal, "eq")
_comparison(NotEqual, "ne")
_comparison(Less, "lt")
_comparison(LessEqual, "le")
_comparison(Greater, "gt")
_comparison(GreaterEqual, "ge")


def truth(emit: Emit, value: Value) -> Value:
    """Whether elements are not zero."""
    if value.type.dtype == boolean:
        return value
    return emit(NotEqual(), value, emit.number(0, value.type.dtype))


@aten("logical_not")
def logical_not(emit: Emit, self: Value) -> Value:
    return emit(Not(), truth(emit, self))


@aten("logical_and")
def logical_and(emit: Emit, self: Value, other: Value) -> Value:
    return emit(And(), truth(emit, self), truth(emit, other))


@aten("logical_or")
def logical_or(emit: Emit, self: Value, other: Value) -> Value:
    return emit(Or(), truth(emit, self), truth(emit, other))


@aten("logical_xor")
def logical_xor(emit: Emit, self: Value, other: Value) -> Value:
    return emit(Xor(), truth(emit, self), truth(emit, other))


@aten("isnan")
def isnan(emit: Emit, self: Value) -> Value:
    return emit(IsNan(), emit.floating(self))


@aten("isinf")
def isinf(emit: Emit, self: Value) -> Value:
    return emit(IsInf(), emit.floating(self))


@aten("isfinite")
def isfinite(emit: Emit, self: Value) -> Value:
    value = emit.floating(self)
    return emit(Not(), emit(Or(), emit(IsNan(), value), emit(IsInf(), value)))


@aten("where.self", "where.ScalarOther", "where.ScalarSelf", "where.Scalar")
def where(emit: Emit, condition: Value, self: Operand, other: Operand) -> Value:
    x, y = emit.promoted(self, other)
    return emit(Select(), truth(emit, condition), x, y)


@aten("nan_to_num")
def nan_to_num(emit: Emit, self: Value, nan: float | None = None, posinf: float | None = None, neginf: float | None = None) -> Value:
    """NaN, inf and -inf replaced; by 0 and the type's extremes by default."""
    dtype = self.type.dtype
    if not dtype.is_float:
        return self
    limit = _largest(dtype.name)
    value = emit(Select(), emit(IsNan(), self), emit.number(nan or 0.0, dtype), self)
    infinite = emit(IsInf(), value)
    positive = emit(Greater(), value, emit.number(0.0, dtype))
    replacement = emit(
        Select(),
        positive,
        emit.number(limit if posinf is None else posinf, dtype),
        emit.number(-limit if neginf is None else neginf, dtype),
    )
    return emit(Select(), infinite, replacement, value)


def _largest(name: str) -> float:
    return {"f64": 1.7976931348623157e308, "f32": 3.4028234663852886e38, "f16": 65504.0, "bf16": 3.3895313892515355e38}[name]
