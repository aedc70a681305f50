"""Cutting tensors apart and putting them together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.ops.views import replace_slice
from cgptc.frontend.aten.table import Number, UnsupportedError, aten
from cgptc.ir.dims import Dim, Expr, Shape, bounds, mod
from cgptc.ir.dtypes import boolean, i32
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import NotEqual, Sub
from cgptc.ir.ops.broadcast import broadcast_shapes
from cgptc.ir.ops.shape import Concat, Flip, Pad, Split


def _even(size: Dim, part: Dim) -> tuple[Dim, ...]:
    """Sizes of consecutive parts; the last may be smaller."""
    if isinstance(size, Expr) or isinstance(part, Expr):
        if size == part:
            return (size,)
        count = _exact(size, part)
        if count is None:
            raise UnsupportedError(f"splits a size {size} into parts of {part}: their number is not fixed")
        return (part,) * count
    if part <= 0:
        return (size,)
    return (*[part] * (size // part), *([size % part] if size % part or not size else []))


def _exact(size: Dim, part: Dim) -> int | None:
    quotient = size // part
    return quotient if isinstance(quotient, int) and quotient * part == size else None


def _parts(emit: Emit, value: Value, axis: int, sizes: Sequence[Dim]) -> tuple[Value, ...]:
    return (value,) if len(sizes) == 1 else emit.all(Split(axis, tuple(sizes)), value)


def _write_part(emit: Emit, base: Value, new: Value, axis: int, sizes: Sequence[Dim], index: int) -> Value:
    start = list(accumulate((0, *sizes)))[index]
    return replace_slice(emit, base, new, axis, start, start + sizes[index])


def _write_split(emit: Emit, base: Value, new: Value, split_size: Dim, dim: int = 0, *, index: int) -> Value:
    axis = emit.axis(dim, base.type.rank)
    return _write_part(emit, base, new, axis, _even(base.type.shape[axis], split_size), index)


@aten("split.Tensor", write=_write_split)
def split(emit: Emit, self: Value, split_size: Dim, dim: int = 0) -> tuple[Value, ...]:
    axis = emit.axis(dim, self.type.rank)
    return _parts(emit, self, axis, _even(self.type.shape[axis], split_size))


def _write_split_sizes(emit: Emit, base: Value, new: Value, split_sizes: Sequence[Dim], dim: int = 0, *, index: int) -> Value:
    return _write_part(emit, base, new, emit.axis(dim, base.type.rank), split_sizes, index)


@aten("split_with_sizes", write=_write_split_sizes)
def split_with_sizes(emit: Emit, self: Value, split_sizes: Sequence[Dim], dim: int = 0) -> tuple[Value, ...]:
    return _parts(emit, self, emit.axis(dim, self.type.rank), emit.size(split_sizes))


@aten(
    "split.sizes",
    write=lambda emit, base, new, split_size, dim=0, *, index: _write_split_sizes(emit, base, new, split_size, dim, index=index),
)
def split_sizes_(emit: Emit, self: Value, split_size: Sequence[Dim], dim: int = 0) -> tuple[Value, ...]:
    return split_with_sizes(emit, self, split_size, dim)


def _chunk_sizes(size: Dim, chunks: int) -> tuple[Dim, ...]:
    if isinstance(size, Expr):
        part = size // chunks
        if part * chunks == size:
            return (part,) * chunks
        enough = (chunks - 1) ** 2 + 1  # from there on no chunk is empty: torch then gives all of them
        if bounds(size)[0] < enough:
            what = f"cuts a size {size} into {chunks} chunks, of which there are fewer for some sizes"
            raise UnsupportedError(f"{what}; bound the size from below by {enough} (--dynamic)")
        part = (size + (chunks - 1)) // chunks
        return (*[part] * (chunks - 1), size - (chunks - 1) * part)
    return _even(size, -(-size // chunks) if size else 0)


def _write_chunk(emit: Emit, base: Value, new: Value, chunks: int, dim: int = 0, *, index: int) -> Value:
    axis = emit.axis(dim, base.type.rank)
    return _write_part(emit, base, new, axis, _chunk_sizes(base.type.shape[axis], chunks), index)


@aten("chunk", write=_write_chunk)
def chunk(emit: Emit, self: Value, chunks: int, dim: int = 0) -> tuple[Value, ...]:
    axis = emit.axis(dim, self.type.rank)
    return _parts(emit, self, axis, _chunk_sizes(self.type.shape[axis], chunks))


def _write_unbind(emit: Emit, base: Value, new: Value, dim: int = 0, *, index: int) -> Value:
    axis = emit.axis(dim, base.type.rank)
    return replace_slice(emit, base, emit.unsqueeze(new, axis), axis, index, index + 1)


@aten("unbind.int", write=_write_unbind)
def unbind(emit: Emit, self: Value, dim: int = 0) -> tuple[Value, ...]:
    axis = emit.axis(dim, self.type.rank)
    size = self.type.shape[axis]
    if isinstance(size, Expr):
        raise UnsupportedError(f"unbinds an axis of symbolic size {size}")
    return tuple(emit.squeeze(part, axis) for part in _parts(emit, self, axis, [1] * size))


@aten("cat", "concat", "concatenate")
def cat(emit: Emit, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Empty tensors of rank 1 are left out, as torch does."""
    kept = [value for value in tensors if value.type.shape != (0,)] or [tensors[0]]
    values = emit.promoted(*kept)
    return values[0] if len(values) == 1 else emit(Concat(emit.axis(dim, values[0].type.rank)), *values)


@aten("stack")
def stack(emit: Emit, tensors: Sequence[Value], dim: int = 0) -> Value:
    values = emit.promoted(*tensors)
    axis = emit.axis(dim, values[0].type.rank + 1)
    columns = [emit.unsqueeze(value, axis) for value in values]
    return columns[0] if len(columns) == 1 else emit(Concat(axis), *columns)


@aten("hstack")
def hstack(emit: Emit, tensors: Sequence[Value]) -> Value:
    return cat(emit, tensors, 0 if tensors[0].type.rank <= 1 else 1)


@aten("repeat", "tile")
def repeat(emit: Emit, self: Value, repeats: Sequence[Dim] = (), dims: Sequence[Dim] = ()) -> Value:
    counts = emit.size(repeats or dims)
    lead = len(counts) - self.type.rank
    if lead < 0:  # only `tile` allows fewer counts than axes
        counts = (*[1] * -lead, *counts)
        lead = 0
    value = emit.reshape(self, (*[1] * lead, *self.type.shape))
    shape = value.type.shape
    # Each axis is preceded by one that is stretched: [a, b] becomes [m, a, n, b], then [m*a, n*b].
    apart = emit.reshape(value, [size for dim in shape for size in (1, dim)])
    wide = emit.expand(apart, [size for count, dim in zip(counts, shape, strict=True) for size in (count, dim)])
    return emit.reshape(wide, [count * dim for count, dim in zip(counts, shape, strict=True)])


@aten("repeat_interleave.self_int")
def repeat_interleave(emit: Emit, self: Value, repeats: Dim, dim: int | None = None, output_size: Dim | None = None) -> Value:
    value = self if dim is not None else emit.reshape(self, [self.type.size])
    axis = emit.axis(dim or 0, value.type.rank)
    shape = value.type.shape
    wide = emit.expand(emit.unsqueeze(value, axis + 1), (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
    return emit.reshape(wide, (*shape[:axis], shape[axis] * repeats, *shape[axis + 1 :]))


@aten("roll")
def roll(emit: Emit, self: Value, shifts: Sequence[Dim] | Dim, dims: Sequence[int] | int = ()) -> Value:
    amounts = (shifts,) if isinstance(shifts, (int, Expr)) else tuple(shifts)
    axes = (dims,) if isinstance(dims, int) else tuple(dims)
    value = self if axes else emit.reshape(self, [self.type.size])
    for amount, dim in zip(amounts, axes or (0,), strict=True):
        axis = emit.axis(dim, value.type.rank)
        size = value.type.shape[axis]
        kept = _first_after_roll(size, amount)
        if kept != 0:
            value = emit(Concat(axis), emit.slice(value, axis, kept, size), emit.slice(value, axis, 0, kept))
    return emit.reshape(value, self.type.shape)


def _first_after_roll(size: Dim, amount: Dim) -> Dim:
    """The index that comes first after rolling by ``amount``. One step in a symbolic size that is never 0 needs no remainder."""
    if size == 0 or amount == 0:
        return 0
    if isinstance(size, Expr) and amount in (1, -1):
        return size - 1 if amount == 1 else mod(1, size)
    return mod(0 - amount, size)


@aten("flip")
def flip(emit: Emit, self: Value, dims: Sequence[int]) -> Value:
    return emit(Flip(emit.axes(dims, self.type.rank)), self) if dims and self.type.rank else self


@aten("constant_pad_nd")
def constant_pad(emit: Emit, self: Value, pad: Sequence[Dim], value: Number = 0) -> Value:
    """``pad`` counts from the last axis: (low, high) pairs. A negative count crops."""
    rank = self.type.rank
    result = self
    low: list[Dim] = [0] * rank
    high: list[Dim] = [0] * rank
    for index in range(len(pad) // 2):
        axis = rank - 1 - index
        before, after = pad[2 * index], pad[2 * index + 1]
        cut_low = -before if isinstance(before, int) and before < 0 else 0
        cut_high = -after if isinstance(after, int) and after < 0 else 0
        if cut_low or cut_high:
            size = result.type.shape[axis]
            result = emit.slice(result, axis, cut_low, size - cut_high)
        low[axis] = before if not cut_low else 0
        high[axis] = after if not cut_high else 0
    if all(count == 0 for count in (*low, *high)):
        return result
    if result.type.dtype.kind == "bool":
        padded = emit(Pad(tuple(low), tuple(high), float(bool(value))), emit.cast(result, i32))
        return emit.cast(padded, boolean)
    assert not isinstance(value, Expr)
    return emit(Pad(tuple(low), tuple(high), float(value)), result)


@aten("pad")
def pad_(emit: Emit, self: Value, pad: Sequence[Dim], mode: str = "constant", value: float | None = None) -> Value:
    if mode != "constant":
        raise UnsupportedError(f"pads with mode '{mode}'")
    return constant_pad(emit, self, pad, value or 0)


@aten("unfold")
def unfold(emit: Emit, self: Value, dimension: int, size: int, step: int) -> Value:
    """Windows of ``size`` every ``step`` along an axis, as a new last axis."""
    if not self.type.rank:
        return emit.slice(emit.reshape(self, [1]), 0, 0, size)
    axis = emit.axis(dimension, self.type.rank)
    length = self.type.shape[axis]
    if bounds(length)[0] < size:
        raise UnsupportedError(f"takes windows of {size} of a size {length}, which may be less; bound the size from below (--dynamic)")
    count = (length - size) // step + 1
    last = self.type.rank
    columns = [emit.unsqueeze(emit.slice(self, axis, k, k + (count - 1) * step + 1, step), last) for k in range(size)]
    return emit(Concat(last), *columns)


@aten("tensor_split.sections")
def tensor_split(emit: Emit, self: Value, sections: int, dim: int = 0) -> tuple[Value, ...]:
    axis = emit.axis(dim, self.type.rank)
    size = self.type.shape[axis]
    sizes = [(size + (sections - 1 - index)) // sections for index in range(sections - 1)]  # the first are one longer
    return _parts(emit, self, axis, [*sizes, size - sum(sizes)])


@aten("meshgrid", "meshgrid.indexing")
def meshgrid(emit: Emit, tensors: Sequence[Value], indexing: str = "ij") -> tuple[Value, ...]:
    if indexing == "xy" and len(tensors) > 1:
        down, across, *rest = meshgrid(emit, (tensors[1], tensors[0], *tensors[2:]))
        return (across, down, *rest)
    sizes = [value.type.size for value in tensors]
    result = []
    for position, value in enumerate(tensors):
        shape: list[Dim] = [1] * len(sizes)
        shape[position] = sizes[position]
        result.append(emit.expand(emit.reshape(value, shape), sizes))
    return tuple(result)


@aten("diff")
def diff(emit: Emit, self: Value, n: int = 1, dim: int = -1, prepend: Value | None = None, append: Value | None = None) -> Value:
    """Differences of neighbours, n times; of bools, whether neighbours differ."""
    axis = emit.axis(dim, self.type.rank)
    value = cat(emit, [part for part in (prepend, self, append) if part is not None], axis)
    for _ in range(n):
        size = value.type.shape[axis]
        later, earlier = emit.slice(value, axis, 1, size), emit.slice(value, axis, 0, size - 1)
        value = emit(NotEqual() if value.type.dtype == boolean else Sub(), later, earlier)
    return value


@aten("broadcast_tensors")
def broadcast_tensors(emit: Emit, tensors: Sequence[Value]) -> tuple[Value, ...]:
    shape: Shape = ()
    for value in tensors:
        shape = broadcast_shapes(shape, value.type.shape)
    return tuple(emit.expand(value, shape) for value in tensors)
