"""Finding and sorting elements along an axis."""

from __future__ import annotations

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.ir.dtypes import i64
from cgptc.ir.ops import ordering as ops


@lowers(ops.ArgMax, ops.ArgMin)
def _arg(emit: Emit, op: ops.ArgMax | ops.ArgMin, x: OnnxValue) -> OnnxValue:
    name = "ArgMax" if isinstance(op, ops.ArgMax) else "ArgMin"
    return emit.node(name, (x,), {"axis": op.axis, "keepdims": int(op.keepdims)})[0]


@lowers(ops.TopK)
def _top_k(emit: Emit, op: ops.TopK, x: OnnxValue) -> tuple[OnnxValue, ...]:
    return _ranked(emit, x, emit.shape((op.k,)), op.axis, op.largest)


@lowers(ops.Sort)
def _sort(emit: Emit, op: ops.Sort, x: OnnxValue) -> tuple[OnnxValue, ...]:
    """The top of all: TopK gives the lower index first among equals, which is what stable means."""
    return _ranked(emit, x, emit.shape((emit.type_of(x).shape[op.axis],)), op.axis, op.descending)


def _ranked(emit: Emit, x: OnnxValue, count: OnnxValue, axis: int, largest: bool) -> tuple[OnnxValue, ...]:
    attributes = {"axis": axis, "largest": int(largest), "sorted": 1}
    return emit.node("TopK", (x, count), attributes, dtypes=(emit.dtype_of(x), i64))
