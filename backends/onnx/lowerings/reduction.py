"""Folds along axes, and softmax."""

from __future__ import annotations

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.precision import rounded, widened
from cgptc.ir.dims import bounds, product
from cgptc.ir.dtypes import i32, i64
from cgptc.ir.op import Op
from cgptc.ir.ops import reduction as ops

_FOLDS: dict[type[Op], str] = {
    ops.ReduceSum: "ReduceSum",
    ops.ReduceMean: "ReduceMean",
    ops.ReduceMax: "ReduceMax",
    ops.ReduceMin: "ReduceMin",
    ops.ReduceProd: "ReduceProd",
}


@lowers(*_FOLDS)
def _fold(emit: Emit, op: ops.Reduction, x: OnnxValue) -> OnnxValue:
    if not op.axes:  # to ONNX no axes would mean all of them
        return x
    dtype = emit.dtype_of(x)
    if isinstance(op, ops.ReduceMean) and _may_be_empty(emit, op, x):
        return _mean_of_nothing(emit, op, x)
    # In i64 and cut back, which wraps; onnxruntime lacks the kernels of narrow integers and saturates a product that overflows.
    narrow = dtype.is_integer and dtype.bits < 64 and isinstance(op, (ops.ReduceSum, ops.ReduceProd))
    return emit.cast(_reduced(emit, _FOLDS[type(op)], op, emit.cast(x, i64) if narrow else x), dtype)


def _mean_of_nothing(emit: Emit, op: ops.ReduceMean, x: OnnxValue) -> OnnxValue:
    """The sum over the count, which is NaN where there is nothing: onnxruntime's ReduceMean says 0."""
    wide = widened(emit, x)
    count = product(emit.type_of(x).shape[axis] for axis in op.axes)
    total = _reduced(emit, "ReduceSum", op, wide)
    return rounded(emit, emit.Div(total, emit.cast(emit.shapes.scalar(count), emit.dtype_of(wide))), x)


@lowers(ops.ReduceAny)
def _any(emit: Emit, op: ops.ReduceAny, x: OnnxValue) -> OnnxValue:
    if not op.axes:
        return x
    if not _may_be_empty(emit, op, x):
        return _reduced(emit, "ReduceMax", op, x)  # of bool, since opset 20
    return emit.Greater(_reduced(emit, "ReduceSum", op, emit.cast(x, i32)), emit.scalar(0, i32))


@lowers(ops.ReduceAll)
def _all(emit: Emit, op: ops.ReduceAll, x: OnnxValue) -> OnnxValue:
    if not op.axes:
        return x
    if not _may_be_empty(emit, op, x):
        return _reduced(emit, "ReduceMin", op, x)
    return emit.Equal(_reduced(emit, "ReduceSum", op, emit.cast(emit.Not(x), i32)), emit.scalar(0, i32))


def _reduced(emit: Emit, op_type: str, op: ops.Reduction, x: OnnxValue) -> OnnxValue:
    return emit.node(op_type, (x, emit.ints(op.axes)), {"keepdims": int(op.keepdims)})[0]


def _may_be_empty(emit: Emit, op: ops.Reduction, x: OnnxValue) -> bool:
    """Whether there may be nothing to fold: onnxruntime refuses that of bool, and differs on a mean."""
    return any(bounds(emit.type_of(x).shape[axis])[0] < 1 for axis in op.axes)


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
