"""Reading and writing by index."""

from __future__ import annotations

from cgptc.backends.onnx.cost import TURNED_SHARE
from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.precision import rounded, widened
from cgptc.ir.dims import Dim
from cgptc.ir.dtypes import i32, i64
from cgptc.ir.ops import indexing as ops


def as_index(emit: Emit, indices: OnnxValue) -> OnnxValue:
    """Indices in a type that ONNX takes: i32 and i64 as they are."""
    return indices if emit.dtype_of(indices) in (i32, i64) else emit.cast(indices, i64)


@lowers(ops.Gather)
def _gather(emit: Emit, op: ops.Gather, x: OnnxValue, indices: OnnxValue) -> OnnxValue:
    """Along the last axis onnxruntime copies element by element, up to 20 times as slowly as it turns the axes and copies rows."""
    type_, chosen = emit.type_of(x), as_index(emit, indices)
    places = emit.type_of(indices).shape
    if op.axis == 0 or op.axis != type_.rank - 1 or len(places) != 1 or not type_.dtype.is_float or not _most(places[0], type_.shape[-1]):
        return emit.Gather(x, chosen, axis=op.axis)
    turn = [*range(op.axis - 1), op.axis, op.axis - 1]
    return emit.Transpose(emit.Gather(emit.Transpose(x, perm=turn), chosen, axis=op.axis - 1), perm=turn)


def _most(taken: Dim, width: Dim) -> bool:
    """Whether known sizes make up a share of a row that is worth its turns."""
    return isinstance(taken, int) and isinstance(width, int) and taken >= TURNED_SHARE * width


@lowers(ops.GatherElements)
def _gather_elements(emit: Emit, op: ops.GatherElements, x: OnnxValue, indices: OnnxValue) -> OnnxValue:
    return emit.GatherElements(x, as_index(emit, indices), axis=op.axis)


@lowers(ops.GatherNd)
def _gather_nd(emit: Emit, op: ops.GatherNd, x: OnnxValue, indices: OnnxValue) -> OnnxValue:
    return emit.GatherND(x, emit.cast(indices, i64), batch_dims=op.batch_dims)


@lowers(ops.ScatterElements)
def _scatter_elements(emit: Emit, op: ops.ScatterElements, x: OnnxValue, indices: OnnxValue, updates: OnnxValue) -> OnnxValue:
    y = emit.ScatterElements(*_summable(emit, op, x, as_index(emit, indices), updates), axis=op.axis, reduction=op.reduction)
    return rounded(emit, y, x)


@lowers(ops.ScatterNd)
def _scatter_nd(emit: Emit, op: ops.ScatterNd, x: OnnxValue, indices: OnnxValue, updates: OnnxValue) -> OnnxValue:
    y = emit.ScatterND(*_summable(emit, op, x, emit.cast(indices, i64), updates), reduction=op.reduction)
    return rounded(emit, y, x)


def _summable(
    emit: Emit, op: ops.ScatterElements | ops.ScatterNd, x: OnnxValue, indices: OnnxValue, updates: OnnxValue
) -> tuple[OnnxValue, OnnxValue, OnnxValue]:
    """Operands of a scatter: onnxruntime does not add f16 and bf16."""
    return (x, indices, updates) if op.reduction == "none" else (widened(emit, x), indices, widened(emit, updates))
