"""Scaled dot-product attention, kept whole."""

from __future__ import annotations

import math

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.ops.comparisons import truth
from cgptc.frontend.aten.table import RefusedError, UnsupportedError, aten
from cgptc.ir.dims import Dim, Expr, product
from cgptc.ir.dtypes import boolean
from cgptc.ir.graph import Value
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import LessEqual, Select
from cgptc.ir.ops.broadcast import broadcast_shapes
from cgptc.ir.ops.constant import Iota


@aten("scaled_dot_product_attention")
def scaled_dot_product_attention(
    emit: Emit,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """``attn_mask`` is bool (true: seen) or additive, and broadcasts to [batch, heads, length, total].

    Torch's ``is_causal`` lets query i see keys up to i whatever the lengths; ours counts from the end of the keys, so it is a flag
    where both lengths are equal and an explicit mask elsewhere. Axes before the heads are folded into the batch.
    """
    if dropout_p > 0:
        raise RefusedError("drops attention weights at random; call the module's eval() before capture")
    width = query.type.shape[-1]
    if scale is None:
        if isinstance(width, Expr):
            raise UnsupportedError("has heads of symbolic width")
        scale = 1.0 / math.sqrt(width)
    lead = _lead(query, key, value)
    q, k, v = (_fold(emit, operand, lead) for operand in (query, key, value))
    length, total = q.type.shape[2], k.type.shape[2]
    flag = is_causal and length == total
    mask = attn_mask
    if is_causal and not flag:
        mask = emit(LessEqual(), emit(Iota(total)), emit.unsqueeze(emit(Iota(length)), 1))
    additive = None if mask is None else _additive(emit, mask, q, (*lead, *q.type.shape[1:3], total))
    y = emit.all(Attention(scale, flag), q, k, v, additive)[0]
    return emit.reshape(y, (*query.type.shape[:-1], value.type.shape[-1]))


def _lead(query: Value, key: Value, value: Value) -> tuple[Dim, ...]:
    """The broadcast axes before the heads; those of a rank-3 operand [heads or batch, length, width] are none."""
    lead: tuple[Dim, ...] = ()
    for operand in (query, key, value):
        lead = broadcast_shapes(lead, operand.type.shape[:-3])
    return lead


def _fold(emit: Emit, operand: Value, lead: tuple[Dim, ...]) -> Value:
    """To rank 4: [batch, heads, length, width]."""
    if operand.type.rank < 3:
        return _fold(emit, emit.reshape(operand, (1, *operand.type.shape)), lead)
    wide = emit.expand(operand, (*lead, *operand.type.shape[-3:]))
    return emit.reshape(wide, (product(lead), *operand.type.shape[-3:]))


def _additive(emit: Emit, mask: Value, q: Value, full: tuple[Dim, ...]) -> Value:
    """A mask as additive [batch or 1, heads or 1, length, total] in the queries' type."""
    dtype = q.type.dtype
    if mask.type.dtype == boolean:
        mask = emit(Select(), mask, emit.number(0.0, dtype), emit.number(-math.inf, dtype))
    mask = emit.cast(mask, dtype)
    shape = (*[1] * (len(full) - mask.type.rank), *mask.type.shape)
    mask = emit.reshape(mask, shape)
    lead, heads = shape[:-3], shape[-3] if len(shape) >= 3 else 1
    if len(full) != 4:  # several batch axes, or none: those of the mask fold as the operands' do
        if any(size != 1 for size in lead):
            mask = emit.expand(mask, (*full[:-3], heads, *mask.type.shape[-2:]))
        lead = (product(mask.type.shape[:-3]),)
    return emit.expand(emit.reshape(mask, (*lead, heads, *mask.type.shape[-2:])), (*lead, heads, *full[-2:]))


@aten("cgptc::attention")
def whole_attention(emit: Emit, q: Value, k: Value, v: Value, mask: Value | None, scale: float, causal: bool, window: int | None) -> Value:
    """What `cgptc.frontend.hf_attention` puts in place of a model's own attention."""
    padding = None if mask is None else truth(emit, mask)
    return emit.all(Attention(scale, causal, window), q, k, v, padding)[0]
