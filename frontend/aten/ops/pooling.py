"""Pooling along the last axis."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import UnsupportedError, aten
from cgptc.ir.dims import Dim, Expr
from cgptc.ir.graph import Value
from cgptc.ir.ops.reduction import ReduceMean
from cgptc.ir.ops.shape import Concat


@aten("adaptive_avg_pool1d")
def adaptive_avg_pool1d(emit: Emit, self: Value, output_size: Sequence[Dim] | Dim) -> Value:
    """Means of ``count`` parts; part ``i`` goes from ``floor(i * l / count)`` to ``ceil((i + 1) * l / count)``."""
    (count,) = (output_size,) if isinstance(output_size, (int, Expr)) else output_size
    axis = self.type.rank - 1
    length = self.type.shape[axis]
    part = length // count
    if part * count == length:
        parts = emit.reshape(self, (*self.type.shape[:-1], count, part))
        return emit(ReduceMean((axis + 1,)), parts)
    if not isinstance(length, int) or not isinstance(count, int):
        raise UnsupportedError(f"cuts a size {length} into {count} parts of sizes that are not fixed")
    means = [
        emit(ReduceMean((axis,), keepdims=True), emit.slice(self, axis, index * length // count, -(-(index + 1) * length // count)))
        for index in range(count)
    ]
    return emit(Concat(axis), *means)
