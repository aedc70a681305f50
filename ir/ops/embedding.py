"""From tokens to vectors and positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim
from cgptc.ir.dtypes import boolean, i64
from cgptc.ir.graph import Value
from cgptc.ir.op import Array, Axis, Op, Role
from cgptc.ir.ops.binary import Add, Maximum, Sub
from cgptc.ir.ops.constant import DimSize, Iota
from cgptc.ir.ops.elementwise import Cast
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.operands import INTEGER, require_dtype, require_kind, require_rank, require_shape
from cgptc.ir.ops.reduction import CumSum
from cgptc.ir.ops.shape import Expand, Slice
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class Embedding(Op, name="embedding"):
    """Row ``indices[...]`` of ``table [v, d]``; indices are from 0 to v - 1."""

    def infer(self, table: TensorType, indices: TensorType) -> TensorType:
        require_rank("table", table, 2)
        require_kind("indices", indices, INTEGER)
        return table.with_shape((*indices.shape, table.shape[1]))

    def evaluate(self, table: Array, indices: Array) -> Array:
        return np.asarray(np.take(table, indices, axis=0))

    def decompose(self, build: Builder, table: Value, indices: Value) -> Value:
        return build(Gather(0), table, indices)

    def axis_roles(self, table: TensorType, indices: TensorType) -> tuple[Axis, ...]:
        return (
            *(Axis(Role.PARALLEL, (None, axis), (axis,)) for axis in range(indices.rank)),
            Axis(Role.PARALLEL, (1, None), (indices.rank,)),
        )


@dataclass(frozen=True)
class Positions(Op, name="positions"):
    """The position of each new token, i64 [batch, seq], counting from 0 and continuing after ``past`` tokens.

    With ``mask`` (bool [batch, past + seq], true for real tokens) padding is not counted: ``clip(cumsum(mask, 1) - 1, 0)[:, past:]``.
    """

    batch: Dim
    seq: Dim
    past: Dim = 0

    def infer(self, mask: TensorType | None = None) -> TensorType:
        if mask is not None:
            require_dtype("mask", mask, boolean)
            require_shape("mask", mask, (self.batch, self.past + self.seq))
        return TensorType(i64, (self.batch, self.seq))

    def evaluate(self, mask: Array | None = None) -> Array:
        batch, seq, past = self.batch, self.seq, self.past
        assert isinstance(batch, int)
        assert isinstance(seq, int)
        assert isinstance(past, int)
        if mask is None:
            return np.broadcast_to(past + np.arange(seq, dtype=np.int64), (batch, seq))
        return np.maximum(np.cumsum(mask, axis=1, dtype=np.int64) - 1, 0)[:, past:]

    def decompose(self, build: Builder, mask: Value | None = None) -> Value:
        if mask is None:
            return build(Expand((self.batch, self.seq)), build(Add(), build(Iota(self.seq)), build(DimSize(self.past))))
        count = build(CumSum(1), build(Cast(i64), mask))
        place = build(Maximum(), build(Sub(), count, build.constant(1, i64)), build.constant(0, i64))
        return build(Slice(1, self.past, self.past + self.seq), place)

    def axis_roles(self, mask: TensorType | None = None) -> tuple[Axis, ...]:
        return Axis(Role.PARALLEL, (None if mask is None else 0,), (0,)), Axis(Role.MIXED, (None,), (1,))
