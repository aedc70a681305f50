"""Pooling along the last axis: windows are slices, one for each place in the kernel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.ops.convolutions import Sizes, single
from cgptc.frontend.aten.ops.pieces import constant_pad
from cgptc.frontend.aten.table import UnsupportedError, aten
from cgptc.ir.dims import Dim, Expr, bounds
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Add, Div, Maximum
from cgptc.ir.ops.reduction import ReduceMean
from cgptc.ir.ops.shape import Concat


def _windows(emit: Emit, value: Value, kernel: Sizes, stride: Sizes, padding: Sizes, dilation: Sizes, fill: float) -> list[Value]:
    """``value [..., l]`` padded with ``fill``, seen through the kernel's places: as many tensors, each with an element for each window."""
    size, pad, apart = single(kernel), single(padding), single(dilation)
    step = single(stride) if stride else size
    axis = value.type.rank - 1
    wide = constant_pad(emit, value, (pad, pad), fill)
    room = wide.type.shape[axis] - apart * (size - 1) - 1
    if bounds(room)[0] < 0:
        raise UnsupportedError(f"takes windows of a size {value.type.shape[axis]}, which may be too short; bound it from below (--dynamic)")
    last = room // step * step
    return [emit.slice(wide, axis, place * apart, place * apart + last + 1, step) for place in range(size)]


@aten("max_pool1d")
def max_pool1d(
    emit: Emit, self: Value, kernel_size: Sizes, stride: Sizes = (), padding: Sizes = 0, dilation: Sizes = 1, ceil_mode: bool = False
) -> Value:
    if ceil_mode:
        raise UnsupportedError("has windows that reach beyond the end (ceil_mode)")
    windows = _windows(emit, self, kernel_size, stride, padding, dilation, float("-inf"))
    return reduce(lambda left, right: emit(Maximum(), left, right), windows)


@aten("max_pool1d_with_indices")
def max_pool1d_with_indices(
    emit: Emit, self: Value, kernel_size: Sizes, stride: Sizes = (), padding: Sizes = 0, dilation: Sizes = 1, ceil_mode: bool = False
) -> tuple[Value, None]:
    """Without the indices."""
    return max_pool1d(emit, self, kernel_size, stride, padding, dilation, ceil_mode), None


@aten("avg_pool1d")
def avg_pool1d(
    emit: Emit,
    self: Value,
    kernel_size: Sizes,
    stride: Sizes = (),
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Value:
    if ceil_mode:
        raise UnsupportedError("has windows that reach beyond the end (ceil_mode)")

    def total(value: Value) -> Value:
        return reduce(lambda left, right: emit(Add(), left, right), _windows(emit, value, kernel_size, stride, padding, 1, 0.0))

    if count_include_pad or not single(padding):
        return emit(Div(), total(self), emit.number(float(single(kernel_size)), self.type.dtype))
    ones = emit.expand(emit.number(1.0, self.type.dtype), self.type.shape[-1:])
    return emit(Div(), total(self), total(ones))


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
