"""Products with weights of few bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import require
from cgptc.ir.dtypes import f32, f64, i4, i8, i32
from cgptc.ir.graph import Value
from cgptc.ir.op import Array, Axis, Cost, Op, Role, moved_bytes
from cgptc.ir.ops.binary import Add, Div, Equal, Maximum, Minimum, Mul, Select, Sub
from cgptc.ir.ops.elementwise import Abs, Cast, Round
from cgptc.ir.ops.matmul import Linear, MatMul, product_of
from cgptc.ir.ops.operands import FLOAT, require_choice, require_dtype, require_kind, require_rank, require_shape, require_size
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.ops.reduction import ReduceMax, ReduceMin, ReduceSum
from cgptc.ir.ops.shape import Pad, Reshape, Slice, Transpose
from cgptc.ir.ops.spelling import cast, widen
from cgptc.ir.quantised_weights import block_count, in_blocks
from cgptc.ir.types import TensorType

ACTIVATIONS = ("exact", "blocks", "tensor")
UNSIGNED_LEVELS, SIGNED_LEVELS = 255, 127


@dataclass(frozen=True)
class QuantizedLinear(Op, name="quantized_linear"):
    """``x [.., k] @ (weight [n, k] * scales [n, blocks])ᵀ + bias [n]``: one scale for ``block`` neighbours of a row, 0 for the whole row.

    ``activations`` says what meets the integers of ``weight`` (i8 or i4):

    * "exact": ``x`` itself;
    * "blocks": integers of ``x``, each row cut into the same blocks, at scale ``max|x| / 127``: what onnxruntime's MatMulNBits does at
      accuracy level 4;
    * "tensor": integers of ``x`` at one scale and zero point for the whole tensor, ONNX's DynamicQuantizeLinear (rows then depend on each
      other); with block 0 only.

    Integers are multiplied and summed exactly; what is left is in at least f32, rounded once.
    """

    block: int = 0
    activations: str = "exact"

    def infer(self, x: TensorType, weight: TensorType, scales: TensorType, bias: TensorType | None = None) -> TensorType:
        require_choice("activations", self.activations, ACTIVATIONS)
        require(self.block >= 0, f"'block' must not be negative, got {self.block}")
        require(self.activations != "tensor" or not self.block, f"'block' must be 0 where activations are per tensor, got {self.block}")
        require_kind("x", x, FLOAT)
        require_rank("x", x, 1, -1)
        require(weight.dtype in (i4, i8), f"'weight' must have elements of type i4 or i8, got {weight}")
        require_rank("weight", weight, 2)
        require(weight.is_static, f"'weight' must have a static shape, got {weight}")
        rows, width = weight.static_shape
        require_size(f"axis 1 of 'weight' {weight}, which meets the last of 'x' {x},", width, x.shape[-1])
        require(scales.dtype in (f32, f64), f"'scales' must have elements of type f32, got {scales}")
        require_shape("scales", scales, (rows, block_count(width, self.block)))
        if bias is not None:
            require_dtype("bias", bias, x.dtype)
            require_shape("bias", bias, (rows,))
        return x.with_shape((*x.shape[:-1], rows))

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, weight: Array, scales: Array, bias: Array | None = None) -> Array:
        wide = widened(x)
        levels, scales = weight.astype(wide.dtype), scales.astype(wide.dtype)
        if self.activations == "exact":
            blocks = in_blocks(levels, self.block) * scales[..., None]
            matrix = blocks.reshape(len(levels), blocks.shape[1] * blocks.shape[2])[:, : x.shape[-1]]
            result = product_of(wide, matrix.T)
        elif self.activations == "tensor":
            integers, scale = _per_tensor(wide)
            result = _integer_product(integers, levels, wide) * (scale * scales[:, 0])
        else:
            rows, row_scales = _per_block(in_blocks(wide, self.block))
            columns = in_blocks(levels, self.block)
            result = np.zeros((*x.shape[:-1], len(levels)), wide.dtype)
            for place in range(columns.shape[1]):
                part = _integer_product(rows[..., place, :], columns[:, place], wide)
                result += part * row_scales[..., place, :] * scales[:, place]
        return rounded(result if bias is None else result + widened(bias), x)

    def decompose(self, build: Builder, x: Value, weight: Value, scales: Value, bias: Value | None = None) -> Value:
        flat = x.type.rank == 1
        if flat:
            x = build(Reshape((1, *x.type.shape)), x)
        result = self._decompose_rows(build, x, weight, scales, bias)
        return build(Reshape(result.type.shape[1:]), result) if flat else result

    def _decompose_rows(self, build: Builder, x: Value, weight: Value, scales: Value, bias: Value | None) -> Value:
        wide = widen(build, x)
        scales = cast(build, scales, wide.type.dtype)
        if self.activations == "exact":
            return _times_dequantised(build, self.block, x, weight, scales, bias)
        multiply = _times_per_tensor if self.activations == "tensor" else _times_per_block
        result = multiply(build, self.block, wide, weight, scales)
        if bias is not None:
            result = build(Add(), result, widen(build, bias))
        return cast(build, result, x.type.dtype)

    def cost(self, x: TensorType, weight: TensorType, scales: TensorType, bias: TensorType | None = None) -> Cost:
        result = self.infer(x, weight, scales, bias)
        flops = 2 * result.size * x.shape[-1] + (result.size if bias is not None else 0)
        return Cost(flops, moved_bytes(x, weight, scales, bias, result))

    def axis_roles(self, x: TensorType, weight: TensorType, scales: TensorType, bias: TensorType | None = None) -> tuple[Axis, ...]:
        last = x.rank - 1
        rows = () if self.activations == "tensor" else tuple(Axis(Role.PARALLEL, (axis, None, None, None), (axis,)) for axis in range(last))
        return (*rows, Axis(Role.PARALLEL, (None, 0, 0, 0 if bias is not None else None), (last,)))


def _integer_product(a: Array, b: Array, like: Array) -> Array:
    """``a [.., k] @ b [n, k]ᵀ`` of integers: float64 holds every sum exactly up to 2**53."""
    return product_of(a.astype(np.float64), b.astype(np.float64).T).astype(like.dtype)


def _per_tensor(x: Array) -> tuple[Array, Array]:
    """DynamicQuantizeLinear (ONNX operator page): integers less their zero point, and the scale."""
    low, high = np.min(x, initial=0), np.max(x, initial=0)
    scale = (high - low) / x.dtype.type(UNSIGNED_LEVELS)
    scale = np.asarray(np.where(scale == 0, x.dtype.type(1), scale))
    zero = np.rint(np.clip(-low / scale, 0, UNSIGNED_LEVELS))
    return np.clip(np.rint(x / scale), -zero, UNSIGNED_LEVELS - zero), scale


def _per_block(x: Array) -> tuple[Array, Array]:
    """Integers of ``x [.., blocks, block]``, and the scales [.., blocks, 1]."""
    scales = np.max(np.abs(x), axis=-1, keepdims=True, initial=0) / x.dtype.type(SIGNED_LEVELS)
    inverse = np.where(scales == 0, x.dtype.type(0), x.dtype.type(1) / scales)
    return np.rint(x * inverse), scales


def _blocks_of(build: Builder, x: Value, block: int) -> Value:
    """``[.., k]`` as ``[.., blocks, block]``, as `in_blocks` has it."""
    *leading, width = x.type.shape
    assert isinstance(width, int)
    count, size = block_count(width, block), block or width
    missing = count * size - width
    if missing:
        x = build(Pad((*(0 for _ in leading), 0), (*(0 for _ in leading), missing)), x)
    return build(Reshape((*leading, count, size)), x)


def _times_dequantised(build: Builder, block: int, x: Value, weight: Value, scales: Value, bias: Value | None) -> Value:
    rows, width = weight.type.static_shape
    blocks = _blocks_of(build, build(Cast(scales.type.dtype), weight), block)
    matrix = build(Mul(), blocks, build(Reshape((*scales.type.shape, 1)), scales))
    padded = block_count(width, block) * (block or width)
    matrix = build(Reshape((rows, padded)), matrix)
    if padded != width:
        matrix = build(Slice(1, 0, width), matrix)
    turned = build(Transpose((1, 0)), matrix)
    if turned.type.dtype == x.type.dtype:
        return build(Linear(), x, turned, bias)
    # The weights are not rounded to a narrow type: the product is taken in the wide one.
    wide_bias = widen(build, bias) if bias is not None else None
    return build(Cast(x.type.dtype), build(Linear(), widen(build, x), turned, wide_bias))


def _times_per_tensor(build: Builder, block: int, x: Value, weight: Value, scales: Value) -> Value:
    dtype, axes = x.type.dtype, tuple(range(x.type.rank))
    zero, most = build.constant(0, dtype), build.constant(UNSIGNED_LEVELS, dtype)
    low, high = build(Minimum(), build(ReduceMin(axes), x), zero), build(Maximum(), build(ReduceMax(axes), x), zero)
    scale = build(Div(), build(Sub(), high, low), most)
    scale = build(Select(), build(Equal(), scale, zero), build.constant(1, dtype), scale)
    place = build(Div(), build(Sub(), zero, low), scale)
    place = build(Round(), build(Minimum(), build(Maximum(), place, zero), most))
    levels = build(Round(), build(Div(), x, scale))
    levels = build(Maximum(), build(Minimum(), levels, build(Sub(), most, place)), build(Sub(), zero, place))
    turned = build(Transpose((1, 0)), build(Cast(i32), weight))
    product = build(Cast(dtype), build(MatMul(), build(Cast(i32), levels), turned))
    return build(Mul(), product, build(Mul(), scale, build(Reshape((weight.type.shape[0],)), scales)))


def _times_per_block(build: Builder, block: int, x: Value, weight: Value, scales: Value) -> Value:
    dtype, zero = x.type.dtype, build.constant(0, x.type.dtype)
    blocks = _blocks_of(build, x, block)
    *leading, count, size = blocks.type.shape
    last = len(leading) + 1
    row_scales = build(Div(), build(ReduceMax((last,), keepdims=True), build(Abs(), blocks)), build.constant(SIGNED_LEVELS, dtype))
    inverse = build(Select(), build(Equal(), row_scales, zero), zero, build(Div(), build.constant(1, dtype), row_scales))
    levels = build(Cast(i32), build(Round(), build(Mul(), blocks, inverse)))
    columns = build(Transpose((1, 2, 0)), _blocks_of(build, build(Cast(i32), weight), block))
    product = build(MatMul(), build(Reshape((*leading, count, 1, size)), levels), columns)
    rows = weight.type.shape[0]
    parts = build(Mul(), build(Cast(dtype), build(Reshape((*leading, count, rows)), product)), row_scales)
    return build(ReduceSum((last - 1,)), build(Mul(), parts, build(Transpose((1, 0)), scales)))
