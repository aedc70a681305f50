"""How many tokens a cached model has seen: from the mask, never from the shape of a past tensor.

A past tensor may be a buffer that is longer than what it holds, and a mask may have one fixed width with zeros behind the tokens. What
counts is the last real column of the mask: with tokens on the right of their padding that is ``past + seq``, also where every row is
padded, which a sum of a row would get wrong.
"""

from __future__ import annotations

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.interface_names import MASK, PAST_PREFIX
from cgptc.ir.dims import symbols
from cgptc.ir.dtypes import boolean, i64
from cgptc.ir.graph import Graph, Value


def padding_mask(graph: Graph) -> Value | None:
    """The input that masks past and new tokens; None where the model has no past or no such mask."""
    if not any(value.name.startswith(PAST_PREFIX) for value in graph.inputs):
        return None
    for value in graph.inputs:
        if value.name == MASK and value.type.rank == 2 and len(symbols(value.type.shape[1:])) == 2:
            return value
    return None


def up_to_last_token(emit: Emit, mask: OnnxValue) -> OnnxValue:
    """``mask`` cut behind the last column that is real in any row; whole where none is, for a length of 0 means nothing to attention."""
    one, axis = emit.scalar(1, i64), emit.ints([1])
    columns = emit.Shape(mask, start=1, end=2)
    places = emit.Range(one, emit.Add(emit.Reshape(columns, emit.ints([])), one), one)
    real = emit.cast(emit.cast(mask, boolean), i64)
    last = emit.Reshape(emit.ReduceMax(emit.Mul(real, places), emit.ints([0, 1]), keepdims=0), axis)
    length = emit.Where(emit.Equal(last, emit.ints([0])), columns, last)
    return emit.Slice(mask, emit.ints([0]), length, axis, axis)
