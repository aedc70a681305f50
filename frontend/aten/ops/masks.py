"""Masking and triangles."""

from __future__ import annotations

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import Operand, aten
from cgptc.ir.dims import Dim
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Value
from cgptc.ir.op import Op
from cgptc.ir.ops.binary import Add, GreaterEqual, LessEqual, Select
from cgptc.ir.ops.constant import Iota


@aten("masked_fill.Scalar", "masked_fill.Tensor")
def masked_fill(emit: Emit, self: Value, mask: Value, value: Operand) -> Value:
    return emit(Select(), mask, emit.operand(value, self.type.dtype), self)


def _triangle(emit: Emit, value: Value, keep: Op, diagonal: Dim) -> Value:
    """Elements where ``column - diagonal <keep> row``, zeros elsewhere."""
    rows, columns = value.type.shape[-2:]
    row = emit.unsqueeze(emit(Iota(rows)), 1)
    if diagonal != 0:
        row = emit(Add(), row, emit.number(diagonal, i64))
    inside = emit(keep, emit(Iota(columns)), row)
    return emit(Select(), inside, value, emit.number(0, value.type.dtype))


@aten("tril")
def tril(emit: Emit, self: Value, diagonal: Dim = 0) -> Value:
    return _triangle(emit, self, LessEqual(), diagonal)


@aten("triu")
def triu(emit: Emit, self: Value, diagonal: Dim = 0) -> Value:
    return _triangle(emit, self, GreaterEqual(), diagonal)
