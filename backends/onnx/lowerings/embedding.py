"""Tables read by id, and positions."""

from __future__ import annotations

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.lowerings.indexing import as_index
from cgptc.backends.onnx.lowerings.shape import slice_axis
from cgptc.ir.dtypes import i64
from cgptc.ir.ops.embedding import Embedding, Positions


@lowers(Embedding)
def _embedding(emit: Emit, op: Embedding, table: OnnxValue, indices: OnnxValue) -> OnnxValue:
    return emit.Gather(table, as_index(emit, indices), axis=0)


@lowers(Positions)
def _positions(emit: Emit, op: Positions, mask: OnnxValue | None) -> OnnxValue:
    zero, one = emit.scalar(0, i64), emit.scalar(1, i64)
    if mask is None:
        row = emit.Range(emit.shapes.scalar(op.past), emit.shapes.scalar(op.past + op.seq), one)
        return emit.Expand(row, emit.shape((op.batch, 1)))
    counted = emit.Sub(emit.CumSum(emit.cast(mask, i64), one), one)
    return slice_axis(emit, emit.Max(counted, zero), 1, op.past, op.past + op.seq)
