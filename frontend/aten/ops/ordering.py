"""Sorting and the largest elements."""

from __future__ import annotations

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import UnsupportedError, aten
from cgptc.ir.dims import Dim, Expr
from cgptc.ir.dtypes import i32, i64
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Less, LessEqual, Select
from cgptc.ir.ops.elementwise import IsNan, Not
from cgptc.ir.ops.ordering import ArgMax, Sort, TopK
from cgptc.ir.ops.reduction import ReduceAny, ReduceSum


@aten("topk")
def topk(emit: Emit, self: Value, k: Dim, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Value, ...]:
    axis = emit.axis(dim, self.type.rank)
    if isinstance(k, Expr):
        return tuple(emit.slice(each, axis, 0, k) for each in emit.all(Sort(axis, largest), self))
    return emit.all(TopK(k, axis, largest), self)


@aten("sort", "sort.stable")
def sort(emit: Emit, self: Value, dim: int = -1, descending: bool = False, stable: bool | None = None) -> tuple[Value, ...]:
    return emit.all(Sort(emit.axis(dim, self.type.rank), descending), self)


@aten("argsort", "argsort.stable")
def argsort(emit: Emit, self: Value, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Value:
    return emit.all(Sort(emit.axis(dim, self.type.rank), descending), self)[1]


@aten("kthvalue")
def kthvalue(emit: Emit, self: Value, k: Dim, dim: int = -1, keepdim: bool = False) -> tuple[Value, ...]:
    """The k-th smallest, from 1, and where it was."""
    axis = emit.axis(dim, self.type.rank)
    chosen = [emit.slice(each, axis, k - 1, k) for each in emit.all(Sort(axis, False), self)]
    return tuple(each if keepdim else emit.squeeze(each, axis) for each in chosen)


@aten("median.dim")
def median(emit: Emit, self: Value, dim: int, keepdim: bool = False) -> tuple[Value, ...]:
    """The lower of the two in the middle; of numbers among which one is not a number, that one."""
    axis = emit.axis(dim, self.type.rank)
    middle = kthvalue(emit, self, (self.type.shape[axis] + 1) // 2, dim, keepdim)
    if not self.type.dtype.is_float:
        return middle
    nowhere = emit(IsNan(), self)
    anywhere = emit(ReduceAny((axis,), keepdim), nowhere)
    at = emit(ArgMax(axis, keepdim), emit.cast(nowhere, i64))
    nan = emit.number(float("nan"), self.type.dtype)
    return emit(Select(), anywhere, nan, middle[0]), emit(Select(), anywhere, at, middle[1])


@aten("bucketize.Tensor")
def bucketize(emit: Emit, self: Value, boundaries: Value, out_int32: bool = False, right: bool = False) -> Value:
    """How many boundaries lie below each element; at a boundary, ``right`` counts it too. All lie below what is no number."""
    value, limits = emit.promoted(emit.unsqueeze(self, self.type.rank), boundaries)
    below = emit(Not(), emit(Less() if right else LessEqual(), value, limits))
    return emit.cast(emit(ReduceSum((self.type.rank,)), emit.cast(below, i64)), i32 if out_int32 else i64)


@aten("searchsorted.Tensor")
def searchsorted(
    emit: Emit,
    sorted_sequence: Value,
    self: Value,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Value | None = None,
) -> Value:
    if sorted_sequence.type.rank != 1 or sorter is not None:
        raise UnsupportedError("searches in several rows, or in what is not sorted")
    return bucketize(emit, self, sorted_sequence, out_int32, right or side == "right")
