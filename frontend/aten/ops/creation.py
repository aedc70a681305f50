"""Tensors from nothing but sizes and numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.exported import Unknown
from cgptc.frontend.aten.promotion import number_type
from cgptc.frontend.aten.table import Number, Operand, UnsupportedError, aten
from cgptc.ir.dims import Dim, Expr, floordiv, maximum
from cgptc.ir.dtypes import DType, i64
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Add, Equal, Mul
from cgptc.ir.ops.constant import Iota

Type = DType | Unknown | None


def _filled(emit: Emit, size: Sequence[Dim], value: Operand, dtype: DType) -> Value:
    return emit.expand(emit.operand(value, dtype), emit.size(size))


@aten("full")
def full(emit: Emit, size: Sequence[Dim], fill_value: Number, dtype: Type = None) -> Value:
    return _filled(emit, size, fill_value, emit.dtype(dtype, number_type(fill_value, emit.default_float)))


@aten("zeros")
def zeros(emit: Emit, size: Sequence[Dim], dtype: Type = None) -> Value:
    return _filled(emit, size, 0, emit.dtype(dtype, emit.default_float))


@aten("empty.memory_format", "empty_permuted", "empty_strided")
def empty(emit: Emit, size: Sequence[Dim], dtype: Type = None, **layout: object) -> Value:
    """Uninitialised memory, which a model that is well defined writes before it reads; zeros here."""
    return _filled(emit, size, 0, emit.dtype(dtype, emit.default_float))


@aten("ones")
def ones(emit: Emit, size: Sequence[Dim], dtype: Type = None) -> Value:
    return _filled(emit, size, 1, emit.dtype(dtype, emit.default_float))


@aten("full_like")
def full_like(emit: Emit, self: Value, fill_value: Number, dtype: Type = None) -> Value:
    return _filled(emit, self.type.shape, fill_value, emit.dtype(dtype, self.type.dtype))


@aten("zeros_like", "empty_like")
def zeros_like(emit: Emit, self: Value, dtype: Type = None) -> Value:
    return _filled(emit, self.type.shape, 0, emit.dtype(dtype, self.type.dtype))


@aten("ones_like")
def ones_like(emit: Emit, self: Value, dtype: Type = None) -> Value:
    return _filled(emit, self.type.shape, 1, emit.dtype(dtype, self.type.dtype))


@aten("new_full")
def new_full(emit: Emit, self: Value, size: Sequence[Dim], fill_value: Number, dtype: Type = None) -> Value:
    return _filled(emit, size, fill_value, emit.dtype(dtype, self.type.dtype))


@aten("new_zeros", "new_empty")
def new_zeros(emit: Emit, self: Value, size: Sequence[Dim], dtype: Type = None) -> Value:
    return _filled(emit, size, 0, emit.dtype(dtype, self.type.dtype))


@aten("new_ones")
def new_ones(emit: Emit, self: Value, size: Sequence[Dim], dtype: Type = None) -> Value:
    return _filled(emit, size, 1, emit.dtype(dtype, self.type.dtype))


@aten("fill.Scalar", "fill.Tensor")
def fill(emit: Emit, self: Value, value: Operand) -> Value:
    return _filled(emit, self.type.shape, value, self.type.dtype)


@aten("zero")
def zero(emit: Emit, self: Value) -> Value:
    return _filled(emit, self.type.shape, 0, self.type.dtype)


@aten("copy")
def copy(emit: Emit, self: Value, src: Value) -> Value:
    return emit.expand(emit.cast(src, self.type.dtype), self.type.shape)


@aten("scalar_tensor")
def scalar_tensor(emit: Emit, s: Number, dtype: Type = None) -> Value:
    return emit.number(s, emit.dtype(dtype, emit.default_float))


@aten("arange")
def arange(emit: Emit, end: Number, dtype: Type = None) -> Value:
    return arange_step(emit, 0, end, 1, dtype)


@aten("arange.start")
def arange_start(emit: Emit, start: Number, end: Number, dtype: Type = None) -> Value:
    return arange_step(emit, start, end, 1, dtype)


@aten("arange.start_step")
def arange_step(emit: Emit, start: Number, end: Number, step: Number = 1, dtype: Type = None) -> Value:
    """``start + step * iota``; fractional bounds give a fixed number of elements."""
    fractional = any(isinstance(bound, float) for bound in (start, end, step))
    target = emit.dtype(dtype, emit.default_float if fractional else i64)
    value = emit.cast(emit(Iota(_fractional_count(start, end, step) if fractional else _count(start, end, step))), target)
    if step != 1:
        value = emit(Mul(), value, emit.number(step, target))
    return value if start == 0 else emit(Add(), value, emit.number(start, target))


def _count(start: Number, end: Number, step: Number) -> Dim:
    """``ceil((end - start) / step)``, at least 0."""
    assert not isinstance(start, float)
    assert not isinstance(end, float)
    if isinstance(step, Expr):  # torch: offsets of equal bags, arange(0, count * step, step)
        return _exact_quotient(end - start, step)
    assert not isinstance(step, float)
    distance = end - start if step > 0 else start - end
    return maximum(0, floordiv(distance + (abs(step) - 1), abs(step)))


def _exact_quotient(distance: Dim, step: Expr) -> Dim:
    quotient = floordiv(distance, step)
    if quotient * step != distance:
        raise UnsupportedError(f"counts in steps of a symbolic size {step}")
    return quotient


def _fractional_count(start: Number, end: Number, step: Number) -> int:
    if isinstance(start, Expr) or isinstance(end, Expr) or isinstance(step, Expr):
        raise UnsupportedError("counts to a symbolic size in fractions")
    return max(0, math.ceil((end - start) / step))


@aten("linspace")
def linspace(emit: Emit, start: Number, end: Number, steps: Dim, dtype: Type = None) -> Value:
    target = emit.dtype(dtype, emit.default_float)
    if isinstance(start, Expr) or isinstance(end, Expr) or isinstance(steps, Expr):
        raise UnsupportedError("spaces symbolic sizes")
    value = emit.cast(emit(Iota(steps)), target)
    scaled = emit(Mul(), value, emit.number((end - start) / max(steps - 1, 1), target))
    return emit(Add(), scaled, emit.number(start, target))


@aten("eye", "eye.m")
def eye(emit: Emit, n: Dim, m: Dim | None = None, dtype: Type = None) -> Value:
    row, column = emit(Iota(n)), emit(Iota(n if m is None else m))
    return emit.cast(emit(Equal(), emit.unsqueeze(row, 1), column), emit.dtype(dtype, emit.default_float))


@aten("one_hot")
def one_hot(emit: Emit, self: Value, num_classes: int = -1) -> Value:
    if num_classes < 0:
        raise UnsupportedError("counts its classes in the data")
    column = emit.unsqueeze(emit.cast(self, i64), self.type.rank)
    return emit.cast(emit(Equal(), column, emit(Iota(num_classes))), i64)
