"""Attention and rotary positions in the ONNX standard's forms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.interface_names import STANDARD_ATTENTION
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.lowerings.attention_mask import additive_mask, allowed_keys, near_keys
from cgptc.backends.onnx.lowerings.shape import reshape, slice_axis
from cgptc.backends.onnx.precision import by_number, rounded, widened
from cgptc.ir.dims import Dim, Shape, floordiv
from cgptc.ir.dtypes import bf16, f16, f64
from cgptc.ir.ops.attention import Attention, Rotary
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class Lengths:
    """Sizes of one attention: queries, cached keys, all keys."""

    seq: Dim
    past: Dim
    total: Dim


def lengths(emit: Emit, q: OnnxValue, k: OnnxValue, past_k: OnnxValue | None) -> Lengths:
    """The sizes that the operands' types state."""
    past = emit.type_of(past_k).shape[2] if past_k is not None else 0
    return Lengths(emit.type_of(q).shape[2], past, past + emit.type_of(k).shape[2])


@lowers(Attention)
def attention(
    emit: Emit,
    op: Attention,
    q: OnnxValue,
    k: OnnxValue,
    v: OnnxValue,
    mask: OnnxValue | None,
    past_k: OnnxValue | None,
    past_v: OnnxValue | None,
) -> tuple[OnnxValue, ...]:
    """The standard's Attention, or its definition where opset or element type lack it."""
    if past_k is not None:
        emit.cached_forms.add(STANDARD_ATTENTION)
    if emit.options.opset < 23 or emit.dtype_of(q) == f64:  # onnxruntime's f64 Attention gives NaN for a query that sees nothing
        return _spelled_out(emit, op, q, k, v, mask, past_k, past_v)
    sizes = lengths(emit, q, k, past_k)
    bias = additive_mask(emit, op, mask, sizes.seq, sizes.past, sizes.total)
    if bias is None:
        bias = allowed_keys(emit, op, mask, sizes.seq, sizes.past, sizes.total, causal=False)
    narrow = emit.dtype_of(q) in (f16, bf16)
    attributes = {
        "is_causal": int(op.causal),
        "scale": op.scale,
        "softmax_precision": onnx_ir.DataType.FLOAT.value if narrow else None,
    }
    if past_k is None:
        return emit.node("Attention", (q, k, v, bias), attributes)[0], k, v
    return emit.node("Attention", (q, k, v, bias, past_k, past_v), attributes, result_count=3)


def _spelled_out(
    emit: Emit,
    op: Attention,
    q: OnnxValue,
    k: OnnxValue,
    v: OnnxValue,
    mask: OnnxValue | None,
    past_k: OnnxValue | None,
    past_v: OnnxValue | None,
) -> tuple[OnnxValue, ...]:
    """For opsets without Attention. The query heads of one key head are stacked, so that both products share its keys."""
    sizes = lengths(emit, q, k, past_k)
    batch, heads, seq, width = emit.type_of(q).shape
    key_heads, value_width = emit.type_of(k).shape[1], emit.type_of(v).shape[3]
    present_k = k if past_k is None else emit.Concat(past_k, k, axis=2)
    present_v = v if past_v is None else emit.Concat(past_v, v, axis=2)

    queries = widened(emit, q)
    wide = emit.dtype_of(queries)
    queries = by_number(emit, "Mul", queries, emit.scalar(op.scale, queries), 4)
    rows = floordiv(heads, key_heads) * seq

    def shaped(value: OnnxValue, old: Shape, new: Shape) -> OnnxValue:
        emit.declare(value, TensorType(wide, old))
        return reshape(emit, value, new)

    queries = shaped(queries, (batch, heads, seq, width), (batch, key_heads, rows, width))
    scores = emit.MatMul(queries, emit.Transpose(widened(emit, present_k), perm=[0, 1, 3, 2]))
    scores = shaped(scores, (batch, key_heads, rows, sizes.total), (batch, heads, seq, sizes.total))
    weights = _masked_softmax(emit, op, scores, mask, sizes)
    weights = shaped(weights, (batch, heads, seq, sizes.total), (batch, key_heads, rows, sizes.total))
    result = emit.MatMul(weights, widened(emit, present_v))
    result = shaped(result, (batch, key_heads, rows, value_width), (batch, heads, seq, value_width))
    return rounded(emit, result, q), present_k, present_v


def _masked_softmax(emit: Emit, op: Attention, scores: OnnxValue, mask: OnnxValue | None, sizes: Lengths) -> OnnxValue:
    """Softmax over the keys that a query sees; all zeros where it sees none."""
    bias = additive_mask(emit, op, mask, sizes.seq, sizes.past, sizes.total)
    if bias is None:
        allowed = allowed_keys(emit, op, mask, sizes.seq, sizes.past, sizes.total, op.causal)
        if allowed is None:
            return emit.Softmax(scores, axis=-1)
        lowest = emit.scalar(-3e38, scores)
        weights = emit.Softmax(emit.Where(allowed, scores, lowest), axis=-1)
        return weights if mask is None else emit.Where(allowed, weights, emit.scalar(0, scores))
    scores = emit.Add(scores, emit.cast(bias, emit.dtype_of(scores)))
    if op.causal:
        near = emit.once(("near", sizes), lambda: near_keys(emit, None, sizes.seq, sizes.past, sizes.total, causal=True))
        scores = emit.Where(near, scores, emit.scalar(-np.inf, scores))
    peak = emit.ReduceMax(scores, emit.ints([-1]))
    none_seen = emit.Equal(peak, emit.scalar(-np.inf, scores))
    powers = emit.Exp(emit.Sub(scores, emit.Where(none_seen, emit.scalar(0, scores), peak)))
    total = emit.Where(none_seen, emit.scalar(1, scores), emit.ReduceSum(powers, emit.ints([-1])))
    return emit.Div(powers, total)


@lowers(Rotary)
def rotary(emit: Emit, op: Rotary, x: OnnxValue, cos: OnnxValue, sin: OnnxValue) -> OnnxValue:
    """The standard's RotaryEmbedding, or its definition where opset or element type lack it."""
    batch, _, _, width = emit.type_of(x).shape
    rotated = 2 * emit.type_of(cos).shape[-1]
    if emit.options.opset < 23 or emit.dtype_of(x) == f64:  # RotaryEmbedding takes no f64
        return _rotary_spelled_out(emit, op, x, cos, sin, rotated, width)
    return emit.RotaryEmbedding(
        x,
        *(for_each_row(emit, table, batch) for table in (cos, sin)),
        interleaved=int(op.interleaved),
        rotary_embedding_dim=rotated if rotated != width else None,
    )


def for_each_row(emit: Emit, table: OnnxValue, batch: Dim) -> OnnxValue:
    """A table of one row for all, spread over the batch: RotaryEmbedding does not broadcast it."""
    shape = emit.type_of(table).shape
    if shape[0] == batch:
        return table
    return emit.once(("spread", table, batch), lambda: emit.Expand(table, emit.shape((batch, 1, 1))))


def _rotary_spelled_out(emit: Emit, op: Rotary, x: OnnxValue, cos: OnnxValue, sin: OnnxValue, rotated: Dim, width: Dim) -> OnnxValue:
    half = rotated // 2
    wide = widened(emit, x)
    cosines, sines = (emit.Unsqueeze(emit.cast(table, emit.dtype_of(wide)), emit.ints([1])) for table in (cos, sin))
    if op.interleaved:
        first, second = (slice_axis(emit, wide, 3, start, rotated - 1 + start, 2) for start in (0, 1))
    else:
        first, second = slice_axis(emit, wide, 3, 0, half), slice_axis(emit, wide, 3, half, rotated)
    turned = (
        emit.Sub(emit.Mul(first, cosines), emit.Mul(second, sines)),
        emit.Add(emit.Mul(second, cosines), emit.Mul(first, sines)),
    )
    if op.interleaved:
        pairs = emit.Concat(*(emit.Unsqueeze(part, emit.ints([4])) for part in turned), axis=4)
        result = emit.Reshape(pairs, emit.Concat(emit.ints([0, 0, 0]), emit.shape((rotated,)), axis=0))
    else:
        result = emit.Concat(*turned, axis=3)
    if rotated != width:
        result = emit.Concat(result, slice_axis(emit, wide, 3, rotated, width), axis=3)
    return rounded(emit, result, x)
