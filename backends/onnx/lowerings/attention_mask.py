"""Which keys a query sees, as ONNX operands; each is built once however many layers use it."""

from __future__ import annotations

import numpy as np

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.ir.dims import Dim
from cgptc.ir.dtypes import boolean, i64
from cgptc.ir.ops.attention import Attention


def allowed_keys(emit: Emit, op: Attention, mask: OnnxValue | None, seq: Dim, past: Dim, total: Dim, causal: bool) -> OnnxValue | None:
    """bool [batch|1, 1, seq, total]: what padding and window let through, with ``causal`` also what is not in the future.

    None where nothing is masked. The last two axes are never broadcast: onnxruntime's Attention refuses that.
    """
    padding = mask if mask is not None and emit.dtype_of(mask) == boolean else None
    if padding is None and op.window is None and not causal:
        return None
    return emit.once(
        ("allowed", padding, op.window, causal, seq, past, total), lambda: _allowed(emit, op, padding, seq, past, total, causal)
    )


def _allowed(emit: Emit, op: Attention, padding: OnnxValue | None, seq: Dim, past: Dim, total: Dim, causal: bool) -> OnnxValue:
    near = near_keys(emit, op.window, seq, past, total, causal)
    if padding is None:
        assert near is not None
        return near
    columns = emit.Unsqueeze(padding, emit.ints([1, 2]))
    return emit.Expand(columns, emit.shape((1, 1, seq, 1))) if near is None else emit.And(columns, near)


def near_keys(emit: Emit, window: int | None, seq: Dim, past: Dim, total: Dim, causal: bool) -> OnnxValue | None:
    """bool [1, 1, seq, total]: key j lies within the window of query past + i and, with ``causal``, not after it; None for no bound."""
    if window is None and not causal:
        return None
    one = emit.scalar(1, i64)
    rows = emit.Range(emit.shapes.scalar(past), emit.shapes.scalar(past + seq), one)
    columns = emit.Range(emit.scalar(0, i64), emit.shapes.scalar(total), one)
    ages = emit.Sub(emit.Unsqueeze(rows, emit.ints([0, 1, 3])), emit.Unsqueeze(columns, emit.ints([0, 1, 2])))
    bounds = []
    if causal:
        bounds.append(emit.GreaterOrEqual(ages, emit.scalar(0, ages)))
    if window is not None:
        bounds.append(emit.Less(ages, emit.scalar(window, ages)))
    return bounds[0] if len(bounds) == 1 else emit.And(*bounds)


def additive_mask(emit: Emit, op: Attention, mask: OnnxValue | None, seq: Dim, past: Dim, total: Dim) -> OnnxValue | None:
    """An explicit float mask, with -inf outside the window; None where the mask is none or bool."""
    if mask is None or emit.dtype_of(mask) == boolean:
        return None
    if op.window is None:
        return mask
    return emit.once(("additive", mask, op.window, seq, past, total), lambda: _windowed(emit, op.window, mask, seq, past, total))


def _windowed(emit: Emit, window: int | None, mask: OnnxValue, seq: Dim, past: Dim, total: Dim) -> OnnxValue:
    near = near_keys(emit, window, seq, past, total, causal=False)
    return emit.Where(near, mask, emit.scalar(-np.inf, mask))
