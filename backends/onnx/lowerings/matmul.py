"""Matrix products and convolution."""

from __future__ import annotations

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.ir.dtypes import i32
from cgptc.ir.ops import matmul as ops


@lowers(ops.MatMul)
def _matmul(emit: Emit, op: ops.MatMul, a: OnnxValue, b: OnnxValue) -> OnnxValue:
    dtype = emit.dtype_of(a)
    if dtype.is_integer and dtype.bits < 32:
        return emit.cast(emit.MatMul(emit.cast(a, i32), emit.cast(b, i32)), dtype)
    return emit.MatMul(a, b)


@lowers(ops.Linear)
def _linear(emit: Emit, op: ops.Linear, x: OnnxValue, weight: OnnxValue, bias: OnnxValue | None) -> OnnxValue:
    """MatMul and Add: onnxruntime packs the weight once and is no faster with Gemm (benchmarks/graph_shapes.py)."""
    product = emit.MatMul(x, weight)
    return product if bias is None else emit.Add(product, bias)


@lowers(ops.Conv1d)
def _conv1d(emit: Emit, op: ops.Conv1d, x: OnnxValue, weight: OnnxValue, bias: OnnxValue | None) -> OnnxValue:
    return emit.Conv(
        x,
        weight,
        bias,
        strides=[op.stride],
        pads=[op.padding, op.padding],
        dilations=[op.dilation],
        group=op.groups,
    )
