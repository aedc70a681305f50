"""How each op that moves or gathers axes reads as work on one item, and those that make one vector of a row's or a loss of a batch's."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np

from cgptc.backends.wafer.axis_kinds import BATCH, FEATURE, ONE, is_time, parts
from cgptc.backends.wafer.kernels.loss import Summary
from cgptc.backends.wafer.kernels.pooling import Mode
from cgptc.backends.wafer.plan.held import Count, Features, Held, Ids, Item, Padding, Places, RefusedError, shaped
from cgptc.backends.wafer.plan.lift import Lift, lifts
from cgptc.backends.wafer.plan.regroup import regroup
from cgptc.backends.wafer.plan.token_slices import cut_ids, cut_tokens, padded_ids
from cgptc.backends.wafer.plan.works import EntropyWork, PoolWork, SoftmaxWork, SquaresWork
from cgptc.ir.dims import Dim
from cgptc.ir.graph import Node
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.loss import CrossEntropy, MseLoss
from cgptc.ir.ops.reduction import LogSoftmax, ReduceMax, ReduceMean, ReduceSum, Softmax
from cgptc.ir.ops.shape import Concat, Pad, Reshape, Slice, Split, Transpose
from cgptc.ir.weight_expressions import reshaped, sliced, transposed

Results = tuple[Item, ...]


@lifts(Reshape)
def _reshape(lift: Lift, op: Reshape, node: Node) -> Results:
    item = lift.operand(node, 0)
    match item:
        case Places():
            if lift.tokens_of(op.shape) == (BATCH, item.sequence) or op.shape == (lift.batch * lift.length(item.sequence),):
                return (item,)
            raise RefusedError("the wafer keeps one index per token")
        case Padding():
            if tuple(dim for dim in op.shape if dim != 1) == tuple(dim for dim in node.inputs[0].type.shape if dim != 1):
                return (item,)
            raise RefusedError("the wafer keeps a padding mask as it is")
        case Ids():
            found = regroup(lift.atoms(item.axes), op.shape)
            if found is None:
                raise RefusedError("the wafer keeps one index per token")
            return (replace(item, axes=found[0]),)
        case Count():
            return (item,)
        case Held(weight) if all(isinstance(dim, int) for dim in op.shape):
            return (Held(reshaped(weight, [int(str(dim)) for dim in op.shape])),)
        case _:
            pass
    x = lift.features(node, 0)
    found = regroup(lift.atoms(x.axes, x.columns.shape), op.shape)
    if found is None:
        raise RefusedError(f"it mixes tokens with features: {node.inputs[0].type} to {list(map(str, op.shape))}")
    axes, sizes = found
    return (Features(x.source, x.columns.reshape(sizes), axes),)


@lifts(Transpose)
def _transpose(lift: Lift, op: Transpose, node: Node) -> Results:
    item = lift.operand(node, 0)
    if isinstance(item, Ids):
        return (replace(item, axes=tuple(item.axes[axis] for axis in op.permutation)),)
    if isinstance(item, Held):
        return (Held(transposed(item.weight, op.permutation)),)
    x = lift.features(node, 0)
    axes = tuple(x.axes[axis] for axis in op.permutation)
    order = [place for axis in op.permutation for place in _feature_places(x, axis)]
    return (Features(x.source, x.columns.transpose(order), axes),)


def _feature_places(x: Features, axis: int) -> range:
    """Which axes of ``columns`` are in an axis of the value."""
    before = parts(x.axes[:axis]).count(FEATURE)
    return range(before, before + parts(x.axes[axis : axis + 1]).count(FEATURE))


@lifts(Split)
def _split(lift: Lift, op: Split, node: Node) -> Results:
    item = lift.operand(node, 0)
    ends = np.cumsum([0, *(int(str(size)) for size in op.sizes if isinstance(size, int))]).tolist()
    if len(ends) <= len(op.sizes):
        raise RefusedError("it separates tokens")
    if isinstance(item, Held):
        return tuple(Held(sliced(item.weight, op.axis, start, stop)) for start, stop in pairwise(ends))
    x = lift.features(node, 0)
    if x.axes[op.axis] != FEATURE:
        raise RefusedError("it separates tokens")
    return tuple(_cut(x, op.axis, start, stop, 1) for start, stop in pairwise(ends))


@lifts(Slice)
def _slice(lift: Lift, op: Slice, node: Node) -> Results:
    item = lift.operand(node, 0)
    if isinstance(item, Held) and isinstance(op.start, int) and isinstance(op.stop, int) and op.step == 1:
        return (Held(sliced(item.weight, op.axis, op.start, op.stop)),)
    if isinstance(item, Ids):
        return (cut_ids(lift, op, item),)
    x = lift.features(node, 0)
    if is_time(x.axes[op.axis]):
        one = op.stop - op.start == 1
        return (_picked(lift, node, x, op.axis, op.start, keep=True) if one else cut_tokens(lift, op, node, x),)
    if x.axes[op.axis] != FEATURE or not isinstance(op.start, int) or not isinstance(op.stop, int):
        raise RefusedError("it separates tokens")
    return (_cut(x, op.axis, op.start, op.stop, op.step),)


def _cut(x: Features, axis: int, start: int, stop: int, step: int) -> Features:
    (place,) = _feature_places(x, axis)
    return replace(x, columns=np.take(x.columns, np.arange(start, stop, step), place))


@lifts(Pad)
def _pad(lift: Lift, op: Pad, node: Node) -> Results:
    item = lift.operand(node, 0)
    if not isinstance(item, Ids):
        raise RefusedError("the wafer pads nothing but indices")
    return (padded_ids(lift, op, item),)


@lifts(Concat)
def _concat(lift: Lift, op: Concat, node: Node) -> Results:
    values = [lift.features(node, index) for index in range(len(node.operands))]
    first = values[0]
    if any(one.axes != first.axes or not one.flat for one in values) or op.axis != len(first.axes) - 1:
        raise RefusedError("the wafer joins features of the same tokens only")
    sources = [
        (one.source, one.columns.reshape(-1)) if isinstance(one.source, str) else (lift.value(one), np.arange(one.columns.size))
        for one in values
    ]
    name = lift.joined(sources, node.location.path or node.op.name, node.stage)
    return (Features(name, np.arange(sum(one.columns.size for one in values)).reshape(*first.columns.shape[:-1], -1), first.axes),)


def taken(lift: Lift, op: Gather, node: Node) -> Results:
    """One token of a row, by a number that is its place, or features by theirs."""
    x, index = lift.features(node, 0), lift.operand(node, 1)
    featured = x.axes[op.axis] == FEATURE
    if not (featured or is_time(x.axes[op.axis])) or not isinstance(index, Held) or (index.weight.shape not in ((), (1,)) and not featured):
        raise RefusedError("of a row's tokens the wafer picks one only")
    try:
        places = np.asarray(index.weight.read(lift.graph.store))
    except KeyError:
        raise RefusedError("it needs a number that the model's file holds, and only shapes are known") from None
    if featured:
        (axis,) = _feature_places(x, op.axis)
        axes = (*x.axes[: op.axis], *[FEATURE] * places.ndim, *x.axes[op.axis + 1 :])
        return (Features(x.source, np.take(x.columns, places, axis), axes),)
    at = int(places.reshape(-1)[0])
    place: Dim = at if at >= 0 else lift.length(x.sequence) + at
    return (_picked(lift, node, x, op.axis, place, keep=index.weight.shape == (1,)),)


def _picked(lift: Lift, node: Node, x: Features, axis: int, at: Dim, *, keep: bool) -> Features:
    """One token of a row: the last, or one that is counted from the first."""
    sequence, width = x.axes[axis], x.columns.size
    axes = _without(x.axes, axis, keep=keep)
    if at == lift.length(sequence) - 1 and not isinstance(at, int):
        if not lift.whole:
            # Every token is one item: the host takes the last one's.
            return replace(x, axes=axes)
        work = PoolWork("last", width, lift.rows(sequence), sequence=lift.base(sequence))
        name = lift.add(node, work, [lift.value(x), lift.mark(sequence)], (), "")
        return Features(name, np.arange(width).reshape(x.columns.shape), axes)
    if not lift.whole or not isinstance(at, int):
        raise RefusedError("of a row's tokens the wafer picks the last, or one by its place where rows are whole")
    if at >= lift.rows(sequence):
        raise RefusedError(f"it takes token {at} of rows of {lift.rows(sequence)}")
    name = lift.add(node, PoolWork("row", width, lift.rows(sequence), at, lift.base(sequence)), [lift.value(x)], (), "")
    return Features(name, np.arange(width).reshape(x.columns.shape), axes)


def _without(axes: tuple[str, ...], axis: int, *, keep: bool) -> tuple[str, ...]:
    return (*axes[:axis], *([ONE] if keep else []), *axes[axis + 1 :])


@lifts(ReduceMean)
def _mean(lift: Lift, op: ReduceMean, node: Node) -> Results:
    return _pooled(lift, op, node)


@lifts(ReduceSum)
def _sum(lift: Lift, op: ReduceSum, node: Node) -> Results:
    return _pooled(lift, op, node)


@lifts(ReduceMax)
def _max(lift: Lift, op: ReduceMax, node: Node) -> Results:
    return _pooled(lift, op, node)


def _pooled(lift: Lift, op: ReduceMean | ReduceSum | ReduceMax, node: Node) -> Results:
    """One vector of all of a row's."""
    x = lift.features(node, 0)
    if len(op.axes) != 1 or not is_time(x.axes[op.axes[0]]) or not lift.whole:
        raise RefusedError("the wafer takes means, sums and maxima over a row's tokens only")
    (axis,) = op.axes
    sequence, width = x.axes[axis], x.columns.size
    mode: Mode = "mean" if isinstance(op, ReduceMean) else "sum" if isinstance(op, ReduceSum) else "max"
    work = PoolWork(mode, width, lift.rows(sequence), sequence=lift.base(sequence))
    name = lift.add(node, work, [lift.value(x), lift.mark(sequence)], (), "")
    return (Features(name, np.arange(width).reshape(x.columns.shape), _without(x.axes, axis, keep=op.keepdims)),)


@lifts(Softmax)
def _softmax(lift: Lift, op: Softmax, node: Node) -> Results:
    return _softened(lift, op, node)


@lifts(LogSoftmax)
def _log_softmax(lift: Lift, op: LogSoftmax, node: Node) -> Results:
    return _softened(lift, op, node)


def _softened(lift: Lift, op: Softmax | LogSoftmax, node: Node) -> Results:
    x = lift.flat(node, 0)
    if op.axis not in (-1, len(x.axes) - 1):
        raise RefusedError("the wafer takes a softmax over all features only")
    return (shaped(lift.add(node, SoftmaxWork(x.columns.size, isinstance(op, LogSoftmax)), [lift.value(x)]), x),)


@lifts(CrossEntropy)
def _cross_entropy(lift: Lift, op: CrossEntropy, node: Node) -> Results:
    logits, target = lift.flat(node, 0), lift.operand(node, 1)
    if not isinstance(target, Ids) or not lift.whole or target.axes != logits.axes[:-1]:
        raise RefusedError("its classes must be an input, one for each of the rows of its logits, which are a whole row's")
    if op.reduction == "none":
        raise RefusedError("the wafer sums up a loss")
    summary, sequence = _summary(op.reduction), lift.base(logits.sequence)
    work = EntropyWork(logits.columns.size, lift.rows(sequence), summary, op.ignore_index, op.label_smoothing, sequence)
    name = lift.add(node, work, [lift.value(logits), lift.feed(target, target=op.ignore_index)], (), "")
    return (_number(name),)


@lifts(MseLoss)
def _mse(lift: Lift, op: MseLoss, node: Node) -> Results:
    x, z = lift.features(node, 0), lift.features(node, 1)
    if not lift.whole or x.axes != z.axes or x.columns.shape != z.columns.shape or op.reduction == "none":
        raise RefusedError("the wafer sums up the squared differences of vectors of the same tokens")
    work = SquaresWork(x.columns.size, lift.rows(x.sequence), _summary(op.reduction), lift.base(x.sequence))
    seen = [lift.mark(x.sequence)] if x.sequence else []
    name = lift.add(node, work, [lift.value(x), lift.value(z), *seen], (), "")
    return (_number(name),)


def _summary(reduction: str) -> Summary:
    return "mean" if reduction == "mean" else "sum"


def _number(name: str) -> Features:
    """A number for all items together."""
    return Features(name, np.zeros((), np.int64), ())
