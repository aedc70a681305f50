"""Cached attention as onnxruntime's GroupQueryAttention, and rotary positions in its layout.

It is the one form whose past and present may lie in one buffer: a decoded token then costs no copy of the cache, 0.6 of the time of the
standard's Attention at 1024 tokens (benchmarks/graph_shapes.py, group attention-decode). It takes a growing past as well.
"""

from __future__ import annotations

import numpy as np

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.interface_names import GROUPED_QUERY
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.lowerings.attention import attention, for_each_row, lengths, rotary
from cgptc.backends.onnx.lowerings.token_layout import from_tokens, to_tokens
from cgptc.ir.dims import Dim
from cgptc.ir.dtypes import boolean, f32, i32, i64
from cgptc.ir.ops.attention import Attention, Rotary

_LOWEST = float(np.finfo(np.float32).min)
WIDTH_MULTIPLE = 8
"""GroupQueryAttention takes heads whose width is a multiple of this."""


@lowers(Attention, mode="ort")
def _attention(
    emit: Emit,
    op: Attention,
    q: OnnxValue,
    k: OnnxValue,
    v: OnnxValue,
    mask: OnnxValue | None,
    past_k: OnnxValue | None,
    past_v: OnnxValue | None,
) -> tuple[OnnxValue, ...]:
    explicit = mask is not None and emit.dtype_of(mask) != boolean
    if past_k is None or explicit or not op.causal or not _has_kernel(emit, q, v):
        return attention(emit, op, q, k, v, mask, past_k, past_v)
    emit.cached_forms.add(GROUPED_QUERY)
    sizes = lengths(emit, q, k, past_k)
    total = emit.once(("total i32", sizes.total), lambda: emit.cast(emit.shapes.scalar(sizes.total), i32))
    y, present_k, present_v = emit.contrib_all(
        GROUPED_QUERY,
        (
            *(to_tokens(emit, x) for x in (q, k, v)),
            past_k,
            past_v,
            _last_keys(emit, total, sizes.total, emit.type_of(q).shape[0]),
            total,
            *(None, None, None),
            _bias(emit, mask, sizes.seq, sizes.total),
        ),
        3,
        num_heads=emit.type_of(q).shape[1],
        kv_num_heads=emit.type_of(k).shape[1],
        scale=op.scale,
        local_window_size=op.window,
    )
    return from_tokens(emit, y, emit.type_of(q)), present_k, present_v


@lowers(Rotary, mode="ort")
def _rotary(emit: Emit, op: Rotary, x: OnnxValue, cos: OnnxValue, sin: OnnxValue) -> OnnxValue:
    """On tokens, as the attention behind it takes them, so that nothing is turned in between."""
    type_ = emit.type_of(x)
    batch, heads, _, width = type_.shape
    if emit.options.opset < 23 or emit.dtype_of(x) != f32 or not isinstance(heads, int):
        return rotary(emit, op, x, cos, sin)
    rotated = 2 * emit.type_of(cos).shape[-1]
    turned = emit.RotaryEmbedding(
        to_tokens(emit, x),
        *(for_each_row(emit, table, batch) for table in (cos, sin)),
        interleaved=int(op.interleaved),
        num_heads=heads,
        rotary_embedding_dim=rotated if rotated != width else None,
    )
    return from_tokens(emit, turned, type_)


def _has_kernel(emit: Emit, q: OnnxValue, v: OnnxValue) -> bool:
    """f32 on the CPU: the f16 kernel gives NaN for a query that sees nothing, and CUDA's takes no bias."""
    width = emit.type_of(q).shape[3]
    fits = isinstance(width, int) and width % WIDTH_MULTIPLE == 0 and width == emit.type_of(v).shape[3]
    return fits and emit.dtype_of(q) == f32 and emit.options.ep == "cpu"


def _last_keys(emit: Emit, total: OnnxValue, size: Dim, batch: Dim) -> OnnxValue:
    """``total - 1`` for each row, padded or not: padding on the left is hidden by the bias."""
    last = lambda: emit.Expand(emit.Sub(total, emit.scalar(1, total)), emit.shape((batch,)))  # noqa: E731
    return emit.once(("last keys", size, batch), last)


def _bias(emit: Emit, mask: OnnxValue | None, seq: Dim, total: Dim) -> OnnxValue | None:
    """f32 [batch, 1, seq, total]: -inf for padding."""
    if mask is None:
        return None
    return emit.once(("padding bias", mask, seq, total), lambda: _padding_bias(emit, mask, seq, total))


def _padding_bias(emit: Emit, mask: OnnxValue, seq: Dim, total: Dim) -> OnnxValue:
    """A query that sees nothing gets 0, but NaN where its only key is also the only one there is: such a row has no token at all."""
    only_one = emit.Equal(emit.shapes.scalar(total), emit.scalar(1, i64))
    hidden = emit.Where(only_one, emit.scalar(_LOWEST, f32), emit.scalar(-np.inf, f32))
    bias = emit.Where(mask, emit.scalar(0, f32), hidden)
    return emit.Expand(emit.Unsqueeze(bias, emit.ints([1, 2])), emit.shape((1, 1, seq, 1)))
