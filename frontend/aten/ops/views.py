"""Shape ops that share memory with their operand: each says how it reads from its base, and how a write to it changes the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cgptc.frontend.aten.emit import Emit, clamp_index
from cgptc.frontend.aten.table import UnsupportedError, aten
from cgptc.ir.dims import Dim, Expr, Shape, bounds, product
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import And, Equal, GreaterEqual, Less, Mod, Select, Sub
from cgptc.ir.ops.constant import Iota
from cgptc.ir.ops.shape import Concat, Pad


def _reshape_back(emit: Emit, base: Value, new: Value, **arguments: Any) -> Value:
    return emit.reshape(new, base.type.shape)


def _transpose_back(emit: Emit, base: Value, new: Value, dims: Sequence[int]) -> Value:
    rank = base.type.rank
    permutation = [emit.axis(axis, rank) for axis in dims]
    return emit.transpose(new, sorted(range(rank), key=permutation.__getitem__))


def _swap_back(emit: Emit, base: Value, new: Value, dim0: int, dim1: int) -> Value:
    return transpose(emit, new, dim0, dim1)


def _t_back(emit: Emit, base: Value, new: Value) -> Value:
    return t(emit, new)


def replace_slice(emit: Emit, base: Value, new: Value, axis: int, start: Dim, stop: Dim, step: int = 1) -> Value:
    """``base`` with the elements from ``start`` to ``stop`` along ``axis`` replaced.

    A contiguous piece is a concatenation; a strided one is chosen position by position.
    """
    size = base.type.shape[axis]
    if step == 1:
        parts = [new]
        if start != 0:
            parts.insert(0, emit.slice(base, axis, 0, start))
        if stop != size:
            parts.append(emit.slice(base, axis, stop, size))
        return parts[0] if len(parts) == 1 else emit(Concat(axis), *parts)
    position = emit(Iota(size))
    begin = emit.number(start, i64)
    inside = emit(And(), emit(GreaterEqual(), position, begin), emit(Less(), position, emit.number(stop, i64)))
    hit = emit(And(), inside, emit(Equal(), emit(Mod(), emit(Sub(), position, begin), emit.number(step, i64)), emit.number(0, i64)))
    spread = _spread(emit, base, new, axis, start, step)
    column = emit.reshape(hit, (size, *[1] * (base.type.rank - axis - 1)))
    return emit(Select(), column, spread, base)


def _spread(emit: Emit, base: Value, new: Value, axis: int, start: Dim, step: int) -> Value:
    """The pieces of ``new`` at ``start``, ``start + step``, … of an axis as long as the base's; zeros elsewhere."""
    if new.type.dtype.kind == "bool":
        raise UnsupportedError("writes to every n-th element of a bool tensor")
    rank = base.type.rank
    count, size = new.type.shape[axis], base.type.shape[axis]
    column = emit.unsqueeze(new, axis + 1)
    zeros = [0] * (rank + 1)
    padded = emit(Pad(tuple(zeros), tuple(step - 1 if index == axis + 1 else 0 for index in range(rank + 1))), column)
    shape = base.type.shape
    flat = emit.reshape(padded, (*shape[:axis], count * step, *shape[axis + 1 :]))
    low = tuple(start if index == axis else 0 for index in range(rank))
    shifted = emit(Pad(low, tuple(step if index == axis else 0 for index in range(rank))), flat)
    return emit.slice(shifted, axis, 0, size)


def _bounds(base: Shape, dim: int, start: Dim | None, end: Dim | None) -> tuple[Dim, Dim]:
    size = base[dim]
    begin = clamp_index(0 if start is None else start, size)
    stop = size if end is None else clamp_index(end, size)
    if isinstance(begin, int) and isinstance(stop, int):
        stop = max(begin, stop)
    return begin, stop


def _write_slice(
    emit: Emit, base: Value, new: Value, dim: int = 0, start: Dim | None = None, end: Dim | None = None, step: int = 1
) -> Value:
    axis = emit.axis(dim, base.type.rank)
    return replace_slice(emit, base, new, axis, *_bounds(base.type.shape, axis, start, end), step)


def _write_select(emit: Emit, base: Value, new: Value, dim: int, index: Dim) -> Value:
    axis = emit.axis(dim, base.type.rank)
    place = clamp_index(index, base.type.shape[axis])
    return replace_slice(emit, base, emit.unsqueeze(new, axis), axis, place, place + 1)


@aten("slice.Tensor", write=_write_slice)
def slice_(emit: Emit, self: Value, dim: int = 0, start: Dim | None = None, end: Dim | None = None, step: int = 1) -> Value:
    axis = emit.axis(dim, self.type.rank)
    return emit.slice(self, axis, *_bounds(self.type.shape, axis, start, end), step)


@aten("select.int", write=_write_select)
def select(emit: Emit, self: Value, dim: int, index: Dim | Value) -> Value:
    axis = emit.axis(dim, self.type.rank)
    if isinstance(index, Value):
        raise UnsupportedError("selects an index that depends on data")
    place = clamp_index(index, self.type.shape[axis])
    return emit.squeeze(emit.slice(self, axis, place, place + 1), axis)


@aten("narrow", write=lambda emit, base, new, dim, start, length: _write_slice(emit, base, new, dim, start, start + length))
def narrow(emit: Emit, self: Value, dim: int, start: Dim, length: Dim) -> Value:
    """Unlike a slice, it has no shorter form where the axis is shorter."""
    size = self.type.shape[emit.axis(dim, self.type.rank)]
    stop = start + length
    if isinstance(size, Expr) and isinstance(stop, int) and isinstance(start, int) and start >= 0 and bounds(size)[0] < stop:
        raise UnsupportedError(f"takes {length} of an axis of size {size}, which may be less; bound the size from below (--dynamic)")
    return slice_(emit, self, dim, start, start + length)


@aten("view", "_unsafe_view", write=_reshape_back)
def view(emit: Emit, self: Value, size: Sequence[Dim]) -> Value:
    return emit.reshape(self, emit.size(size))


@aten("reshape", may_alias=True, write=_reshape_back)
def reshape(emit: Emit, self: Value, shape: Sequence[Dim]) -> Value:
    return emit.reshape(self, emit.size(shape))


@aten("view_as", write=_reshape_back)
def view_as(emit: Emit, self: Value, other: Value) -> Value:
    return emit.reshape(self, other.type.shape)


@aten("reshape_as", may_alias=True, write=_reshape_back)
def reshape_as(emit: Emit, self: Value, other: Value) -> Value:
    return emit.reshape(self, other.type.shape)


@aten("flatten.using_ints", may_alias=True, write=_reshape_back)
def flatten(emit: Emit, self: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    shape = self.type.shape
    first, last = emit.axis(start_dim, len(shape)), emit.axis(end_dim, len(shape))
    return emit.reshape(self, (*shape[:first], product(shape[first : last + 1]), *shape[last + 1 :]))


@aten("unflatten.int", write=_reshape_back)
def unflatten(emit: Emit, self: Value, dim: int, sizes: Sequence[Dim]) -> Value:
    shape = self.type.shape
    axis = emit.axis(dim, len(shape))
    return emit.reshape(self, (*shape[:axis], *emit.size(sizes), *shape[axis + 1 :]))


@aten("unsqueeze", write=_reshape_back)
def unsqueeze(emit: Emit, self: Value, dim: int) -> Value:
    return emit.unsqueeze(self, emit.axis(dim, self.type.rank + 1))


@aten("squeeze", "squeeze.dim", "squeeze.dims", write=_reshape_back)
def squeeze(emit: Emit, self: Value, dim: int | Sequence[int] | None = None) -> Value:
    """Axes of size 1 go; a symbolic size is never 1 here, as it may be anything."""
    shape = self.type.shape
    if isinstance(dim, Sequence) and not dim:
        return self
    axes = range(len(shape)) if dim is None else emit.axes(dim, len(shape))
    return emit.reshape(self, [size for axis, size in enumerate(shape) if axis not in axes or size != 1])


@aten("transpose.int", "swapdims", write=_swap_back)
def transpose(emit: Emit, self: Value, dim0: int, dim1: int) -> Value:
    rank = self.type.rank
    permutation = list(range(rank))
    if rank:
        first, second = emit.axis(dim0, rank), emit.axis(dim1, rank)
        permutation[first], permutation[second] = second, first
    return emit.transpose(self, permutation)


@aten("swapaxes", write=lambda emit, base, new, axis0, axis1: transpose(emit, new, axis0, axis1))
def swapaxes(emit: Emit, self: Value, axis0: int, axis1: int) -> Value:
    return transpose(emit, self, axis0, axis1)


@aten("permute", write=_transpose_back)
def permute(emit: Emit, self: Value, dims: Sequence[int]) -> Value:
    return emit.transpose(self, [emit.axis(axis, self.type.rank) for axis in dims])


def _move(emit: Emit, value: Value, source: int, destination: int) -> Value:
    rank = value.type.rank
    order = [axis for axis in range(rank) if axis != emit.axis(source, rank)]
    order.insert(emit.axis(destination, rank), emit.axis(source, rank))
    return emit.transpose(value, order)


@aten("movedim.int", write=lambda emit, base, new, source, destination: _move(emit, new, destination, source))
def movedim(emit: Emit, self: Value, source: int, destination: int) -> Value:
    return _move(emit, self, source, destination)


@aten("t", "numpy_T", write=_t_back)
def t(emit: Emit, self: Value) -> Value:
    return emit.transpose(self, range(self.type.rank)[::-1])


@aten("mT", "adjoint", write=lambda emit, base, new: transpose(emit, new, -2, -1))
def matrix_transpose(emit: Emit, self: Value) -> Value:
    return transpose(emit, self, -2, -1)


@aten("expand", write=None, may_alias=True)
def expand(emit: Emit, self: Value, size: Sequence[Dim]) -> Value:
    shape = emit.size(size)
    offset = len(shape) - self.type.rank
    kept = tuple(self.type.shape[axis - offset] if dim == -1 else dim for axis, dim in enumerate(shape))
    return emit.expand(self, kept)


@aten("expand_as", may_alias=True)
def expand_as(emit: Emit, self: Value, other: Value) -> Value:
    return emit.expand(self, other.type.shape)


@aten("broadcast_to", may_alias=True)
def broadcast_to(emit: Emit, self: Value, size: Sequence[Dim]) -> Value:
    return expand(emit, self, size)


@aten("sym_size.int")
def sym_size(emit: Emit, self: Value, dim: int) -> Dim:
    return self.type.shape[emit.axis(dim, self.type.rank)]


@aten("sym_numel")
def sym_numel(emit: Emit, self: Value) -> Dim:
    return self.type.size
