"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.exported import Unknown
from cgptc.frontend.aten.ops.comparisons import truth
from cgptc.frontend.aten.table import Number, UnsupportedError, aten
from cgptc.ir.dims import Dim, product
from cgptc.ir.dtypes import DType, boolean, i32, i64
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Add, Div, Mul, NotEqual, Pow, Select, Sub
from cgptc.ir.ops.elementwise import Abs, Exp, IsInf, Log, Sqrt
from cgptc.ir.ops.ordering import ArgMax, ArgMin
from cgptc.ir.ops.reduction import CumSum, ReduceAll, ReduceAny, ReduceMax, ReduceMean, ReduceMin, ReduceProd, ReduceSum

Axes = Sequence[int] | int | None
"""Axes as torch takes them: one, several, or None and () for all."""


def _accumulated(emit: Emit, value: Value, dtype: DType | Unknown | None) -> Value:
    """Sums and products of integers and bools are i64."""
    default = value.type.dtype if value.type.dtype.is_float else i64
    return emit.cast(value, emit.dtype(dtype, default))


@aten("sum", "sum.dim_IntList")
def sum_(emit: Emit, self: Value, dim: Axes = None, keepdim: bool = False, dtype: DType | Unknown | None = None) -> Value:
    value = _accumulated(emit, self, dtype)
    axes = emit.axes(dim, value.type.rank)
    return emit(ReduceSum(axes, keepdim), value) if axes else value


@aten("mean", "mean.dim")
def mean(emit: Emit, self: Value, dim: Axes = None, keepdim: bool = False, dtype: DType | Unknown | None = None) -> Value:
    value = emit.cast(self, emit.dtype(dtype, self.type.dtype))
    axes = emit.axes(dim, value.type.rank)
    return emit(ReduceMean(axes, keepdim), value) if axes else value


@aten("prod", "prod.dim_int")
def prod(emit: Emit, self: Value, dim: Axes = None, keepdim: bool = False, dtype: DType | Unknown | None = None) -> Value:
    value = _accumulated(emit, self, dtype)
    axes = emit.axes(dim, value.type.rank)
    return emit(ReduceProd(axes, keepdim), value) if axes else value


@aten("any", "any.dim", "any.dims")
def any_(emit: Emit, self: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    axes = emit.axes(dim, self.type.rank)
    return emit(ReduceAny(axes, keepdim), truth(emit, self)) if axes else truth(emit, self)


@aten("all", "all.dim", "all.dims")
def all_(emit: Emit, self: Value, dim: Axes = None, keepdim: bool = False) -> Value:
    axes = emit.axes(dim, self.type.rank)
    return emit(ReduceAll(axes, keepdim), truth(emit, self)) if axes else truth(emit, self)


@aten("amax")
def amax(emit: Emit, self: Value, dim: Axes = (), keepdim: bool = False) -> Value:
    axes = emit.axes(dim, self.type.rank)
    op = ReduceAny(axes, keepdim) if self.type.dtype == boolean else ReduceMax(axes, keepdim)
    return emit(op, self) if axes else self


@aten("amin")
def amin(emit: Emit, self: Value, dim: Axes = (), keepdim: bool = False) -> Value:
    axes = emit.axes(dim, self.type.rank)
    op = ReduceAll(axes, keepdim) if self.type.dtype == boolean else ReduceMin(axes, keepdim)
    return emit(op, self) if axes else self


@aten("max")
def max_(emit: Emit, self: Value) -> Value:
    return amax(emit, self)


@aten("min")
def min_(emit: Emit, self: Value) -> Value:
    return amin(emit, self)


@aten("max.dim")
def max_dim(emit: Emit, self: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return amax(emit, self, dim, keepdim), argmax(emit, self, dim, keepdim)


@aten("min.dim")
def min_dim(emit: Emit, self: Value, dim: int, keepdim: bool = False) -> tuple[Value, Value]:
    return amin(emit, self, dim, keepdim), argmin(emit, self, dim, keepdim)


def _arg(emit: Emit, op: type[ArgMax] | type[ArgMin], value: Value, dim: int | None, keepdim: bool) -> Value:
    if value.type.dtype == boolean:
        value = emit.cast(value, i32)
    if dim is None:
        flat = emit(op(0), emit.reshape(value, [value.type.size]))
        return emit.reshape(flat, [1] * value.type.rank) if keepdim else flat
    if not value.type.rank:
        return emit(op(0), emit.reshape(value, [1]))
    return emit(op(emit.axis(dim, value.type.rank), keepdim), value)


@aten("argmax")
def argmax(emit: Emit, self: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _arg(emit, ArgMax, self, dim, keepdim)


@aten("argmin")
def argmin(emit: Emit, self: Value, dim: int | None = None, keepdim: bool = False) -> Value:
    return _arg(emit, ArgMin, self, dim, keepdim)


@aten("cumsum")
def cumsum(emit: Emit, self: Value, dim: int, dtype: DType | Unknown | None = None) -> Value:
    value = _accumulated(emit, self, dtype)
    return emit(CumSum(emit.axis(dim, value.type.rank)), value) if value.type.rank else value


def _count(value: Value, axes: tuple[int, ...]) -> Dim:
    return product(value.type.shape[axis] for axis in axes)


def _deviations(emit: Emit, value: Value, axes: tuple[int, ...], keepdim: bool, correction: Number) -> Value:
    """Sum of squared deviations over ``count - correction``."""
    centred = emit(Sub(), value, emit(ReduceMean(axes, True), value))
    squares = emit(Mul(), centred, centred)
    if correction == 0:
        return emit(ReduceMean(axes, keepdim), squares)
    total = emit(ReduceSum(axes, keepdim), squares)
    if not isinstance(correction, (int, float)) or correction != int(correction):
        raise UnsupportedError(f"uses a correction of {correction}")
    return emit(Div(), total, emit.number(_count(value, axes) - int(correction), value.type.dtype))


@aten("var", "var.dim", "var.correction")
def var(emit: Emit, self: Value, dim: Axes = None, unbiased: bool = True, correction: Number | None = None, keepdim: bool = False) -> Value:
    axes = emit.axes(dim, self.type.rank)
    return _deviations(emit, self, axes, keepdim, int(unbiased) if correction is None else correction)


@aten("std", "std.dim", "std.correction")
def std(emit: Emit, self: Value, dim: Axes = None, unbiased: bool = True, correction: Number | None = None, keepdim: bool = False) -> Value:
    return emit(Sqrt(), var(emit, self, dim, unbiased, correction, keepdim))


@aten("var_mean", "var_mean.dim", "var_mean.correction")
def var_mean(
    emit: Emit, self: Value, dim: Axes = None, unbiased: bool = True, correction: Number | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return var(emit, self, dim, unbiased, correction, keepdim), mean(emit, self, dim, keepdim)


@aten("std_mean", "std_mean.dim", "std_mean.correction")
def std_mean(
    emit: Emit, self: Value, dim: Axes = None, unbiased: bool = True, correction: Number | None = None, keepdim: bool = False
) -> tuple[Value, Value]:
    return std(emit, self, dim, unbiased, correction, keepdim), mean(emit, self, dim, keepdim)


@aten("logsumexp")
def logsumexp(emit: Emit, self: Value, dim: Axes, keepdim: bool = False) -> Value:
    """Shifted by the maximum, which is taken as 0 where it is infinite."""
    value = emit.floating(self)
    axes = emit.axes(dim, value.type.rank)
    if not axes:
        return value
    highest = emit(ReduceMax(axes, True), value)
    shift = emit(Select(), emit(IsInf(), highest), emit.number(0.0, value.type.dtype), highest)
    total = emit(Log(), emit(ReduceSum(axes, True), emit(Exp(), emit(Sub(), value, shift))))
    kept = [dim for axis, dim in enumerate(shift.type.shape) if keepdim or axis not in axes]
    return emit.reshape(emit(Add(), total, shift), kept)


@aten("linalg_vector_norm", "norm.ScalarOpt_dim", "norm.Scalar", "norm.ScalarOpt_dim_dtype")
def vector_norm(
    emit: Emit,
    self: Value,
    ord: Number | None = 2,
    dim: Axes = None,
    keepdim: bool = False,
    dtype: DType | Unknown | None = None,
    p: Number | None = None,
) -> Value:
    value = emit.cast(self, emit.dtype(dtype, self.type.dtype))
    order = ord if p is None else p
    order = 2 if order is None else order
    axes = emit.axes(dim, value.type.rank)
    magnitude = emit(Abs(), value)
    if not axes:
        return magnitude
    if order == 2:
        return emit(Sqrt(), emit(ReduceSum(axes, keepdim), emit(Mul(), value, value)))
    if order == 1:
        return emit(ReduceSum(axes, keepdim), magnitude)
    if order == float("inf"):
        return emit(ReduceMax(axes, keepdim), magnitude)
    if order == float("-inf"):
        return emit(ReduceMin(axes, keepdim), magnitude)
    if order == 0:
        nonzero = emit(NotEqual(), value, emit.number(0.0, value.type.dtype))
        return emit(ReduceSum(axes, keepdim), emit.cast(nonzero, value.type.dtype))
    if not isinstance(order, (int, float)):
        raise UnsupportedError(f"is a norm of order {order}")
    total = emit(ReduceSum(axes, keepdim), emit(Pow(), magnitude, emit.number(order, value.type.dtype)))
    return emit(Pow(), total, emit.number(1.0 / order, value.type.dtype))
