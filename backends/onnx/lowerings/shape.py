"""Operations that move or rename elements and compute nothing."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.ir.dims import Dim, Shape, bounds
from cgptc.ir.ops import shape as ops


@lowers(ops.Reshape)
def _reshape(emit: Emit, op: ops.Reshape, x: OnnxValue) -> OnnxValue:
    return reshape(emit, x, op.shape)


def reshape(emit: Emit, x: OnnxValue, new: Shape) -> OnnxValue:
    """``x`` in another shape: with a constant shape operand wherever ONNX's 0 (as before) and -1 (the rest) can say it.

    A reshape of a reshape starts from the first one's source.
    """
    before = emit.source_of(x, "Reshape")
    x = x if before is None else before
    old = emit.type_of(x).shape
    if old == new:
        return x
    codes = [_code(old, axis, dim) for axis, dim in enumerate(new)]
    unknown = [axis for axis, code in enumerate(codes) if code is None]
    never_empty = all(bounds(dim)[0] > 0 for axis, dim in enumerate(new) if axis not in unknown)
    if not unknown or (len(unknown) == 1 and never_empty):
        return emit.Reshape(x, emit.ints([-1 if code is None else code for code in codes]))
    return emit.Reshape(x, emit.shape(new), allowzero=1)


def _code(old: Shape, axis: int, dim: Dim) -> int | None:
    if isinstance(dim, int) and dim != 0:
        return dim
    return 0 if axis < len(old) and old[axis] == dim else None


@lowers(ops.Transpose)
def _transpose(emit: Emit, op: ops.Transpose, x: OnnxValue) -> OnnxValue:
    return transpose(emit, x, op.permutation)


def transpose(emit: Emit, x: OnnxValue, permutation: Sequence[int]) -> OnnxValue:
    """Axis ``i`` of the result is axis ``permutation[i]`` of ``x``; what a transpose before it did is undone."""
    before = emit.source_of(x, "Transpose")
    if before is not None:
        first = x.producer().attributes["perm"].as_ints()
        x, permutation = before, [first[axis] for axis in permutation]
    if list(permutation) == list(range(len(permutation))):
        return x
    return emit.Transpose(x, perm=permutation)


@lowers(ops.Expand)
def _expand(emit: Emit, op: ops.Expand, x: OnnxValue) -> OnnxValue:
    return expand(emit, x, emit.type_of(x).shape, op.shape)


def expand(emit: Emit, x: OnnxValue, old: Shape, new: Shape) -> OnnxValue:
    """``x``, whose shape is ``old``, broadcast with ``new`` of at least its rank; what ``x`` has and ``new`` says 1 of stays.

    An axis of 1 that becomes 0 is cut off: between other nodes onnxruntime 1.31 takes an Expand to a constant 0 for one to 1, and drops it.
    """
    added = len(new) - len(old)
    emptied = [axis for axis, (had, dim) in enumerate(zip(old, new[added:], strict=True)) if (had, dim) == (1, 0)]
    if emptied:
        zeros = emit.ints([0] * len(emptied))
        x = emit.Slice(x, zeros, zeros, emit.ints(emptied))
    # ONNX broadcasts both ways, so what x has already may be written 1.
    kept = tuple(0 if axis in emptied else had for axis, had in enumerate(old))
    target = (*new[:added], *(1 if dim == had else dim for had, dim in zip(kept, new[added:], strict=True)))
    return x if not added and all(dim == 1 for dim in target) else emit.Expand(x, emit.shape(target))


@lowers(ops.Concat)
def _concat(emit: Emit, op: ops.Concat, *xs: OnnxValue) -> OnnxValue:
    return xs[0] if len(xs) == 1 else emit.Concat(*xs, axis=op.axis)


@lowers(ops.Slice)
def _slice(emit: Emit, op: ops.Slice, x: OnnxValue) -> OnnxValue:
    return slice_axis(emit, x, op.axis, op.start, op.stop, op.step)


def slice_axis(emit: Emit, x: OnnxValue, axis: int, start: Dim, stop: Dim, step: int = 1) -> OnnxValue:
    """``x[start:stop:step]`` along an axis."""
    return emit.Slice(x, emit.shape((start,)), emit.shape((stop,)), emit.ints([axis]), emit.ints([step]))


@lowers(ops.Pad)
def _pad(emit: Emit, op: ops.Pad, x: OnnxValue) -> OnnxValue:
    if not any(op.low) and not any(op.high):  # onnxruntime refuses to pad what has no axis
        return x
    return emit.Pad(x, emit.shape((*op.low, *op.high)), emit.scalar(op.value, x))


@lowers(ops.Flip)
def _flip(emit: Emit, op: ops.Flip, x: OnnxValue) -> OnnxValue:
    count = len(op.axes)
    if not count:
        return x
    backwards = emit.ints([-1] * count)
    return emit.Slice(x, backwards, emit.ints([-(2**31)] * count), emit.ints(op.axes), backwards)


@lowers(ops.Split)
def _split(emit: Emit, op: ops.Split, x: OnnxValue) -> tuple[OnnxValue, ...]:
    if len(op.sizes) == 1:
        return (x,)
    return emit.node("Split", (x, emit.shape(op.sizes)), {"axis": op.axis}, dtypes=(emit.dtype_of(x),) * len(op.sizes))
