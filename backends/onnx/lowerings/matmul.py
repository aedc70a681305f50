"""Matrix products and convolution."""

from __future__ import annotations

from collections.abc import Callable

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.lowerings.shape import expand, reshape
from cgptc.backends.onnx.precision import rounded, widened
from cgptc.ir.dims import bounds
from cgptc.ir.dims import product as product_of
from cgptc.ir.dtypes import i32
from cgptc.ir.ops import matmul as ops


@lowers(ops.MatMul)
def _matmul(emit: Emit, op: ops.MatMul, a: OnnxValue, b: OnnxValue) -> OnnxValue:
    shapes = emit.type_of(a).shape, emit.type_of(b).shape
    if bounds(shapes[0][-1])[0] < 1:
        a, b = _with_a_term(emit, a, b)
    leading = emit.type_of_result().shape[:-2]
    if any(bounds(dim)[0] < 1 for dim in leading):  # onnxruntime does not broadcast to nothing
        a, b = (expand(emit, x, shape, (*leading, 1, 1)) for x, shape in zip((a, b), shapes, strict=True))
    dtype = emit.dtype_of(a)
    if dtype.is_integer and dtype.bits < 32:
        return emit.cast(emit.MatMul(emit.cast(a, i32), emit.cast(b, i32)), dtype)
    return emit.MatMul(a, b)


def _with_a_term(emit: Emit, a: OnnxValue, b: OnnxValue) -> tuple[OnnxValue, OnnxValue]:
    """Operands with one term of zero more to sum: onnxruntime leaves memory as it was where there is none."""
    column = [0] * (2 * emit.type_of(a).rank - 1) + [1]
    row = [0] * (2 * emit.type_of(b).rank - 2) + [1, 0]
    return tuple(emit.Pad(x, emit.ints(pads), emit.scalar(0, x)) for x, pads in ((a, column), (b, row)))


@lowers(ops.Linear)
def _linear(emit: Emit, op: ops.Linear, x: OnnxValue, weight: OnnxValue, bias: OnnxValue | None) -> OnnxValue:
    """MatMul and Add: Gemm is no faster (benchmarks/graph_shapes.py). But a weight that is stored the other way round is turned by Gemm:
    a Transpose of it would be folded when the model is loaded, which takes four times as long."""
    stored = emit.transposed_initializer(weight)
    if stored is None:
        return _biased(emit, x, bias, lambda x: emit.MatMul(x, emit.cast(weight, emit.dtype_of(x))))
    type_ = emit.type_of(x)
    rows = reshape(emit, x, (product_of(type_.shape[:-1]), type_.shape[-1]))
    result = type_.with_shape((*type_.shape[:-1], emit.type_of(stored).shape[0]))
    flat = emit.Gemm(rows, stored, bias, transB=1)
    emit.declare(flat, result.with_shape((product_of(result.shape[:-1]), result.shape[-1])))
    return reshape(emit, flat, result.shape)


@lowers(ops.Linear, mode="ort")
def _linear_of_tied_weight(emit: Emit, op: ops.Linear, x: OnnxValue, weight: OnnxValue, bias: OnnxValue | None) -> OnnxValue:
    """As `_linear`, but what turns a weight that is stored the other way round is a product that needs no reshapes."""
    stored = emit.transposed_initializer(weight)
    if stored is None:
        return _linear(emit, op, x, weight, bias)
    return _biased(emit, x, bias, lambda x: emit.contrib("FusedMatMul", x, emit.cast(stored, emit.dtype_of(x)), transB=1))


def _biased(emit: Emit, x: OnnxValue, bias: OnnxValue | None, multiply: Callable[[OnnxValue], OnnxValue]) -> OnnxValue:
    """A product and its bias. On the CPU f16 and bf16 are multiplied in f32, as its kernels would anyway, and rounded once."""
    if bias is None:
        return multiply(x)
    wide = widened(emit, x) if emit.options.ep == "cpu" else x
    product = multiply(wide)
    return rounded(emit, emit.Add(product, emit.cast(bias, emit.dtype_of(product))), x)


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
