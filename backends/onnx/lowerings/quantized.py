"""Products with weights of few bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.backends.onnx.emit import CONTRIB, Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.precision import rounded, widened
from cgptc.ir.dtypes import DType, f32, i4, i8, i32, u8
from cgptc.ir.op import Array
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.quantized import SIGNED_LEVELS, UNSIGNED_LEVELS, QuantizedLinear
from cgptc.ir.quantised_weights import block_count, in_blocks
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Reshaped, transposed
from cgptc.ir.weights import Weight, WeightStore, content_key

LEAST_BLOCK = 16
"""The smallest block that MatMulNBits takes; all are powers of two."""

LEVELS = {"exact": 1, "blocks": 4}
"""Its accuracy levels: at 1 it multiplies f32, at 4 integers. At 8 bits and one row level 1 is slower by a factor of a hundred."""


@dataclass(frozen=True)
class Packed(Weight):
    """Integers ``base [n, k]`` as MatMulNBits takes them: u8 [n, blocks, block * bits / 8], each element plus ``2^(bits-1)``, two of 4 bits
    in a byte with the first in the low half; what fills up the last block stands for zero.
    """

    base: Weight
    block: int

    @property
    def bits(self) -> int:
        return 4 if self.base.dtype is i4 else 8

    @property
    def type(self) -> TensorType:
        rows, width = self.base.shape
        return TensorType(u8, (rows, block_count(width, self.block), self.block * self.bits // 8))

    @property
    def key(self) -> str:
        return content_key("packed", self.base.key, str(self.block))

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        blocks = in_blocks(self.base.rows(store, start, stop).astype(np.int8), self.block)
        unsigned = (blocks + np.int8(-(2 ** (self.bits - 1)))).view(np.uint8)  # adding -128 or 128 is the same modulo 256
        if self.bits == 8:
            return unsigned
        unsigned &= 0x0F
        return np.asarray(unsigned[..., 0::2] | (unsigned[..., 1::2] << 4))


@lowers(QuantizedLinear)
def _standard(emit: Emit, op: QuantizedLinear, x: OnnxValue, weight: OnnxValue, scales: OnnxValue, bias: OnnxValue | None) -> OnnxValue:
    wide = widened(emit, x)
    if op.activations == "tensor" and emit.dtype_of(wide) == f32:
        levels, scale, zero = _dynamic(emit, wide)
        product = emit.cast(emit.node("MatMulInteger", (levels, _turned(emit, weight), zero), dtypes=(i32,))[0], f32)
        result = emit.Mul(product, emit.Mul(scale, _flat(emit, scales)))
    else:
        if op.activations == "blocks":
            wide = _as_integers(emit, op.block, wide)
        elif op.activations == "tensor":
            wide = _as_bytes(emit, wide)
        result = emit.MatMul(wide, _dequantised(emit, op.block, weight, scales, emit.dtype_of(wide)))
    if bias is not None:
        result = emit.Add(result, emit.cast(bias, emit.dtype_of(result)))
    return rounded(emit, result, x)


@lowers(QuantizedLinear, mode="ort")
def _fused(emit: Emit, op: QuantizedLinear, x: OnnxValue, weight: OnnxValue, scales: OnnxValue, bias: OnnxValue | None) -> OnnxValue:
    """MatMulIntegerToFloat for activations per tensor, MatMulNBits for those in blocks, where it takes them."""
    wide = widened(emit, x)
    integers = _constant(emit, 1)
    wide_bias = emit.cast(bias, f32) if bias is not None and emit.dtype_of(wide) == f32 else None
    if op.activations == "tensor" and emit.dtype_of(wide) == f32:
        levels, scale, zero = _dynamic(emit, wide)
        inputs = (levels, _turned(emit, weight), scale, _flat(emit, scales), zero, None, wide_bias)
        return rounded(emit, emit.node("MatMulIntegerToFloat", inputs, domain=CONTRIB, dtypes=(f32,))[0], x)
    fits = op.block >= LEAST_BLOCK and op.block & (op.block - 1) == 0 and emit.dtype_of(wide) == f32
    fits = fits and integers is not None and (op.activations == "blocks" or integers.dtype is i4)
    if fits and integers is not None:
        packed = Packed(integers, op.block)
        rows, width = integers.shape
        operands = (wide, emit.initializers.weight(packed), _flat(emit, scales), None, None, wide_bias)
        attributes = {"K": width, "N": rows, "bits": packed.bits, "block_size": op.block, "accuracy_level": LEVELS[op.activations]}
        return rounded(emit, emit.node("MatMulNBits", operands, attributes, domain=CONTRIB, dtypes=(f32,))[0], x)
    return _standard(emit, op, x, weight, scales, bias)


def _dynamic(emit: Emit, x: OnnxValue) -> tuple[OnnxValue, ...]:
    """Integers, scale and zero point of a whole tensor; once for all products with it."""
    return emit.once_all(("quantised", x), lambda: emit.node("DynamicQuantizeLinear", (x,), dtypes=(u8, f32, u8)))


def _constant(emit: Emit, operand: int) -> Weight | None:
    """The weight that an operand of the node at hand is, None where it is computed."""
    value = emit.source.operands[operand]
    return value.op.weight if value is not None and isinstance(value.op, Constant) else None


def _turned(emit: Emit, weight: OnnxValue, operand: int = 1) -> OnnxValue:
    """``[n, k]`` as ``[k, n]``; stored so where it is constant."""
    known = _constant(emit, operand)
    return emit.initializers.weight(transposed(known, (1, 0))) if known is not None else emit.Transpose(weight, perm=(1, 0))


def _flat(emit: Emit, scales: OnnxValue) -> OnnxValue:
    """``[n, blocks]`` as a vector."""
    known = _constant(emit, 2)
    if known is not None:
        return emit.initializers.weight(Reshaped(known, (known.shape[0] * known.shape[1],)))
    return emit.Reshape(scales, emit.ints([-1]))


def _dequantised(emit: Emit, block: int, weight: OnnxValue, scales: OnnxValue, dtype: DType) -> OnnxValue:
    """The matrix ``[k, n]``. Not by DequantizeLinear: onnxruntime 1.31 turns it and its product into MatMulNBits, which rounds what it
    multiplies to integers unless a session says otherwise.
    """
    width = emit.type_of(weight).static_shape[1]
    levels = emit.cast(emit.cast(_turned(emit, weight), i8), dtype)
    places = (np.arange(width) // block if block else np.zeros(width, np.int64)).tolist()
    return emit.Mul(levels, emit.cast(emit.Gather(_turned(emit, scales, 2), emit.ints(places), axis=0), dtype))


def _as_integers(emit: Emit, block: int, x: OnnxValue) -> OnnxValue:
    """``x`` rounded to its integers, at their scales: the numbers that the product meets."""
    type_ = emit.type_of(emit.source_of(x, "Cast") or x)
    width = type_.shape[-1]
    assert isinstance(width, int)
    count, size = block_count(width, block), block or width
    if not width:
        return x
    leading = type_.shape[:-1]
    if missing := count * size - width:
        x = emit.Pad(x, emit.ints([*[0] * (2 * len(leading) + 1), missing]), emit.scalar(0, x))
    blocks = emit.Reshape(x, emit.shape((*leading, count, size)))
    scales = emit.Div(emit.ReduceMax(emit.Abs(blocks), emit.ints([len(leading) + 1]), keepdims=1), emit.scalar(SIGNED_LEVELS, x))
    zero = emit.Equal(scales, emit.scalar(0, x))
    inverse = emit.Where(zero, emit.scalar(0, x), emit.Div(emit.scalar(1, x), scales))
    whole = emit.Mul(emit.Round(emit.Mul(blocks, inverse)), scales)
    whole = emit.Reshape(whole, emit.shape((*leading, count * size)))
    return emit.Slice(whole, emit.ints([0]), emit.ints([width]), emit.ints([len(leading)])) if missing else whole


def _as_bytes(emit: Emit, x: OnnxValue) -> OnnxValue:
    """``x`` rounded to its integers at one scale, as DynamicQuantizeLinear would, which takes f32 alone."""
    zero, one, most = (emit.scalar(number, x) for number in (0, 1, UNSIGNED_LEVELS))
    with_zero = emit.Concat(emit.Reshape(x, emit.ints([-1])), emit.Reshape(zero, emit.ints([1])), axis=0)
    low, high = emit.ReduceMin(with_zero, keepdims=0), emit.ReduceMax(with_zero, keepdims=0)
    step = emit.Div(emit.Sub(high, low), most)
    scale = emit.Where(emit.Equal(step, zero), one, step)
    place = emit.Round(emit.Min(emit.Max(emit.Div(emit.Neg(low), scale), zero), most))
    levels = emit.Max(emit.Min(emit.Round(emit.Div(x, scale)), emit.Sub(most, place)), emit.Neg(place))
    return emit.Mul(levels, scale)
