"""Folds along axes, and softmax."""

from __future__ import annotations

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.ir.dtypes import i32, i64
from cgptc.ir.op import Op
from cgptc.ir.ops import reduction as ops

_FOLDS: dict[type[Op], str] = {
    ops.ReduceSum: "ReduceSum",
    ops.ReduceMean: "ReduceMean",
    ops.ReduceMax: "ReduceMax",
    ops.ReduceMin: "ReduceMin",
    ops.ReduceProd: "ReduceProd",
    ops.ReduceAny: "ReduceMax",  # of bool, since opset 20
    ops.ReduceAll: "ReduceMin",
}


@lowers(*_FOLDS)
def _fold(emit: Emit, op: ops.Reduction, x: OnnxValue) -> OnnxValue:
    if not op.axes:  # to ONNX no axes would mean all of them
        return x
    dtype = emit.dtype_of(x)
    # In i64 and cut back, which wraps; onnxruntime lacks the kernels of narrow integers and saturates a product that overflows.
    narrow = dtype.is_integer and dtype.bits < 64 and isinstance(op, (ops.ReduceSum, ops.ReduceProd))
    folded = emit.node(_FOLDS[type(op)], (emit.cast(x, i64) if narrow else x, emit.ints(op.axes)), {"keepdims": int(op.keepdims)})[0]
    return emit.cast(folded, dtype)


@lowers(ops.CumSum)
def _cum_sum(emit: Emit, op: ops.CumSum, x: OnnxValue) -> OnnxValue:
    dtype = emit.dtype_of(x)
    wide = emit.cast(x, i32) if dtype.is_integer and dtype.bits < 32 else x
    return emit.cast(emit.CumSum(wide, emit.scalar(op.axis, i64)), dtype)


@lowers(ops.Softmax)
def _softmax(emit: Emit, op: ops.Softmax, x: OnnxValue) -> OnnxValue:
    return emit.Softmax(x, axis=op.axis)


@lowers(ops.LogSoftmax)
def _log_softmax(emit: Emit, op: ops.LogSoftmax, x: OnnxValue) -> OnnxValue:
    return emit.LogSoftmax(x, axis=op.axis)
