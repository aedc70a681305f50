"""Convolutions along one axis. A transposed one is a plain one over the input with zeros between its elements."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.ops.pieces import constant_pad
from cgptc.frontend.aten.table import UnsupportedError, aten
from cgptc.ir.graph import Value
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.matmul import Conv1d
from cgptc.ir.ops.shape import Flip
from cgptc.ir.weight_expressions import reshaped, taken, transposed

Sizes = Sequence[int] | int
"""A size of the one axis, as torch gives it."""


@aten("conv1d")
def conv1d(
    emit: Emit,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Value:
    value = input if input.type.rank == 3 else emit.unsqueeze(input, 0)
    result = emit(Conv1d(single(stride), single(padding), single(dilation), groups), value, weight, bias)
    return result if input.type.rank == 3 else emit.squeeze(result, 0)


@aten("conv_transpose1d")
def conv_transpose1d(
    emit: Emit,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Sizes = 1,
    padding: Sizes = 0,
    output_padding: Sizes = 0,
    groups: int = 1,
    dilation: Sizes = 1,
) -> Value:
    """``weight [in, out/groups, k]``: each element of the input adds the kernel times itself, ``stride`` apart."""
    value = input if input.type.rank == 3 else emit.unsqueeze(input, 0)
    apart = _spread(emit, value, single(stride))
    reach = single(dilation) * (weight.type.shape[2] - 1) - single(padding)
    wide = constant_pad(emit, apart, (reach, reach + single(output_padding)))
    result = emit(Conv1d(1, 0, single(dilation), groups), wide, _turned(emit, weight, groups), bias)
    return result if input.type.rank == 3 else emit.squeeze(result, 0)


def _spread(emit: Emit, value: Value, stride: int) -> Value:
    """``value [n, c, l]`` with ``stride - 1`` zeros between its elements."""
    if stride == 1:
        return value
    batch, channels, length = value.type.shape
    columns = constant_pad(emit, emit.unsqueeze(value, 3), (0, stride - 1))
    flat = emit.reshape(columns, (batch, channels, length * stride))
    return emit.slice(flat, 2, 0, length * stride - (stride - 1))


def _turned(emit: Emit, weight: Value, groups: int) -> Value:
    """``[in, out/groups, k]`` as ``[out, in/groups, k]``, each kernel from its end; of a weight another expression."""
    rows, out, k = weight.type.shape
    if not isinstance(rows, int) or not isinstance(out, int) or not isinstance(k, int):
        raise UnsupportedError("has kernels of symbolic sizes")
    apart, whole = (groups, rows // groups, out, k), (groups * out, rows // groups, k)
    if not isinstance(weight.op, Constant):
        split = emit.transpose(emit.reshape(emit(Flip((2,)), weight), apart), (0, 2, 1, 3))
        return emit.reshape(split, whole)
    backwards = taken(weight.op.weight, 2, range(k)[::-1])
    turned = emit.build.weight(reshaped(transposed(reshaped(backwards, apart), (0, 2, 1, 3)), whole))
    turned.name = weight.name
    return turned


@aten("convolution")
def convolution(
    emit: Emit,
    input: Value,
    weight: Value,
    bias: Value | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Value:
    if weight.type.rank != 3:
        raise UnsupportedError("is a convolution of more than one dimension")
    if transposed:
        return conv_transpose1d(emit, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return conv1d(emit, input, weight, bias, stride, padding, dilation, groups)


def single(size: Sizes) -> int:
    """The size of the one axis."""
    if isinstance(size, int):
        return size
    (only,) = size
    return only
