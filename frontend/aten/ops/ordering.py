"""Sorting and the largest elements."""

from __future__ import annotations

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import UnsupportedError, aten
from cgptc.ir.dims import Dim, Expr
from cgptc.ir.graph import Value
from cgptc.ir.ops.ordering import Sort, TopK


@aten("topk")
def topk(emit: Emit, self: Value, k: Dim, dim: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Value, ...]:
    if isinstance(k, Expr):
        raise UnsupportedError(f"takes the {k} largest, a symbolic number")
    return emit.all(TopK(k, emit.axis(dim, self.type.rank), largest), self)


@aten("sort", "sort.stable")
def sort(emit: Emit, self: Value, dim: int = -1, descending: bool = False, stable: bool | None = None) -> tuple[Value, ...]:
    return emit.all(Sort(emit.axis(dim, self.type.rank), descending), self)


@aten("argsort", "argsort.stable")
def argsort(emit: Emit, self: Value, dim: int = -1, descending: bool = False, stable: bool | None = None) -> Value:
    return emit.all(Sort(emit.axis(dim, self.type.rank), descending), self)[1]
