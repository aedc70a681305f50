"""Writing elements by index; all give a new tensor."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.ops.gathering import index_positions
from cgptc.frontend.aten.ops.views import (  # the same pieces, written instead of read
    _write_select,
    _write_slice,
    replace_slice,
    select,
    slice_,
)
from cgptc.frontend.aten.table import Number, Operand, UnsupportedError, aten
from cgptc.ir.dims import Dim
from cgptc.ir.dtypes import boolean, i64
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Select
from cgptc.ir.ops.broadcast import broadcast_shapes
from cgptc.ir.ops.indexing import ScatterElements, ScatterNd
from cgptc.ir.ops.shape import Concat


def _scatter(emit: Emit, base: Value, dim: int, index: Value, source: Value, reduction: str) -> Value:
    """Torch allows an index that is shorter than the base along other axes: only that corner is written."""
    axis = emit.axis(dim, base.type.rank)
    value = emit.cast(source, base.type.dtype)
    if not base.type.rank:
        return emit.reshape(_scatter(emit, emit.reshape(base, [1]), 0, emit.reshape(index, [1]), emit.reshape(value, [1]), reduction), [])
    for place, size in enumerate(index.type.shape):
        value = emit.slice(value, place, 0, size)
    bases: list[tuple[Value, int, Dim]] = []
    corner = base
    for place, size in enumerate(index.type.shape):
        if place != axis and size != corner.type.shape[place]:
            bases.append((corner, place, size))
            corner = emit.slice(corner, place, 0, size)
    result = emit(ScatterElements(axis, reduction), corner, index, value)
    for whole, place, size in reversed(bases):
        result = replace_slice(emit, whole, result, place, 0, size)
    return result


@aten("scatter.src")
def scatter(emit: Emit, self: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter(emit, self, dim, index, src, "none")


@aten("scatter.value")
def scatter_value(emit: Emit, self: Value, dim: int, index: Value, value: Number) -> Value:
    filled = emit.expand(emit.number(value, self.type.dtype), index.type.shape)
    return _scatter(emit, self, dim, index, filled, "none")


@aten("scatter_add")
def scatter_add(emit: Emit, self: Value, dim: int, index: Value, src: Value) -> Value:
    return _scatter(emit, self, dim, index, src, "add")


@aten("scatter.reduce")
def scatter_reduce(emit: Emit, self: Value, dim: int, index: Value, src: Value, reduce: str) -> Value:
    if reduce != "add":
        raise UnsupportedError(f"scatters with reduction '{reduce}'")
    return _scatter(emit, self, dim, index, src, "add")


@aten("scatter_reduce.two")
def scatter_reduce_two(emit: Emit, self: Value, dim: int, index: Value, src: Value, reduce: str, include_self: bool = True) -> Value:
    if reduce != "sum" or not include_self:
        raise UnsupportedError(f"scatters with reduction '{reduce}' and include_self={include_self}")
    return _scatter(emit, self, dim, index, src, "add")


@aten("index_put", "_index_put_impl", "_unsafe_index_put")
def index_put(
    emit: Emit, self: Value, indices: Sequence[Value | None], values: Value, accumulate: bool = False, unsafe: bool = False
) -> Value:
    """``self[indices] = values``. One bool mask is a selection; integer indices write along paths through the indexed axes."""
    value = emit.cast(values, self.type.dtype)
    present = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(present) == 1 and present[0][1].type.dtype == boolean and not accumulate:
        return _masked_put(emit, self, present[0][0], present[0][1], value)
    shape = self.type.shape
    places = [(axis, index) for axis, index in enumerate(index_positions(emit, indices)) if index is not None]
    axes = [axis for axis, _ in places]
    rest = [axis for axis in range(len(shape)) if axis not in axes]
    common: tuple[Dim, ...] = ()
    for _, index in places:
        common = broadcast_shapes(common, index.type.shape)
    # Torch shapes the values as the read gives them: index axes in place if they are neighbours, else in front.
    kept = [shape[axis] for axis in rest]
    lead = axes[0] if axes == list(range(axes[0], axes[0] + len(axes))) else 0
    value = emit.expand(value, (*kept[:lead], *common, *kept[lead:]))
    count = len(common)
    value = emit.transpose(value, [*range(lead, lead + count), *range(lead), *range(lead + count, len(kept) + count)])
    order = [*axes, *rest]
    columns = [emit.unsqueeze(emit.expand(emit.cast(index, i64), common), count) for _, index in places]
    paths = columns[0] if len(columns) == 1 else emit(Concat(count), *columns)
    result = emit(ScatterNd("add" if accumulate else "none"), emit.transpose(self, order), paths, value)
    return emit.transpose(result, sorted(range(len(shape)), key=order.__getitem__))


def _masked_put(emit: Emit, base: Value, axis: int, mask: Value, value: Value) -> Value:
    """``base[..., mask] = value`` for a value that does not depend on which element it lands in."""
    behind = base.type.rank - axis - mask.type.rank
    if value.type.rank > behind:
        if value.type.shape[: value.type.rank - behind] != (1,) * (value.type.rank - behind):
            raise UnsupportedError("writes as many values as a mask has true elements")
        value = emit.reshape(value, value.type.shape[value.type.rank - behind :])
    column = emit.reshape(mask, (*mask.type.shape, *[1] * behind))
    return emit(Select(), column, value, base)


@aten("index_add")
def index_add(emit: Emit, self: Value, dim: int, index: Value, source: Value, alpha: Number = 1) -> Value:
    from cgptc.ir.ops.binary import Mul

    value = source if alpha == 1 else emit(Mul(), source, emit.number(alpha, source.type.dtype))
    axis = emit.axis(dim, self.type.rank)
    return index_put(emit, self, (*[None] * axis, index), value, accumulate=True)


@aten("index_copy")
def index_copy(emit: Emit, self: Value, dim: int, index: Value, source: Value) -> Value:
    axis = emit.axis(dim, self.type.rank)
    return index_put(emit, self, (*[None] * axis, index), source)


@aten("index_fill.int_Scalar", "index_fill.int_Tensor")
def index_fill(emit: Emit, self: Value, dim: int, index: Value, value: Operand) -> Value:
    axis = emit.axis(dim, self.type.rank)
    return index_put(emit, self, (*[None] * axis, index), emit.operand(value, self.type.dtype))


@aten("slice_scatter")
def slice_scatter(
    emit: Emit, self: Value, src: Value, dim: int = 0, start: Dim | None = None, end: Dim | None = None, step: int = 1
) -> Value:
    piece = slice_(emit, self, dim, start, end, step).type.shape
    return _write_slice(emit, self, emit.expand(emit.cast(src, self.type.dtype), piece), dim, start, end, step)


@aten("select_scatter")
def select_scatter(emit: Emit, self: Value, src: Value, dim: int, index: Dim) -> Value:
    piece = select(emit, self, dim, index).type.shape
    return _write_select(emit, self, emit.expand(emit.cast(src, self.type.dtype), piece), dim, index)
