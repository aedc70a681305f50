"""Values that need no operand."""

from __future__ import annotations

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.ir.dtypes import i64
from cgptc.ir.ops.constant import Constant, DimSize, Iota
from cgptc.ir.weight_expressions import Transposed


@lowers(Constant)
def _constant(emit: Emit, op: Constant) -> OnnxValue:
    weight = op.weight
    if isinstance(weight, Transposed) and emit.initializers.is_used(weight.base):
        # A tied head: the table is stored once, and turned where it is used.
        base = emit.initializers.weight(weight.base)
        emit.declare(base, weight.base.type)
        return emit.Transpose(base, perm=weight.permutation)
    return emit.initializers.weight(weight)


@lowers(Iota)
def _iota(emit: Emit, op: Iota) -> OnnxValue:
    zero, one = emit.scalar(0, i64), emit.scalar(1, i64)
    return emit.cast(emit.Range(zero, emit.shapes.scalar(op.size), one), op.dtype)


@lowers(DimSize)
def _dim_size(emit: Emit, op: DimSize) -> OnnxValue:
    return emit.cast(emit.shapes.scalar(op.dim), op.dtype)
