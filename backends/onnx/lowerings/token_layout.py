"""Heads as the last axis's parts, ``[batch, seq, heads * width]``, which onnxruntime's attention takes and gives.

The IR has heads on axis 1. Where a value was just turned that way its source is used instead, so that the two transposes around an
attention vanish; what is then unused is dropped with the other dead nodes.
"""

from __future__ import annotations

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowerings.shape import reshape, transpose
from cgptc.ir.types import TensorType

_SWAP = (0, 2, 1, 3)


def to_tokens(emit: Emit, x: OnnxValue) -> OnnxValue:
    """``[batch, heads, seq, width]`` as ``[batch, seq, heads * width]``."""
    type_ = emit.type_of(x)
    batch, heads, seq, width = type_.shape
    rows = transpose(emit, x, _SWAP)
    emit.declare(rows, type_.with_shape((batch, seq, heads, width)))
    return reshape(emit, rows, (batch, seq, heads * width))


def from_tokens(emit: Emit, x: OnnxValue, type_: TensorType) -> OnnxValue:
    """``[batch, seq, heads * width]`` as ``type_``, which is ``[batch, heads, seq, width]``."""
    batch, heads, seq, width = type_.shape
    emit.declare(x, type_.with_shape((batch, seq, heads * width)))
    rows = reshape(emit, x, (batch, seq, heads, width))
    emit.declare(rows, type_.with_shape((batch, seq, heads, width)))
    return transpose(emit, rows, _SWAP)
