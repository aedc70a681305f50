"""Slices of a row's tokens: a sequence of its own, as the logits of all tokens but the last, and the labels of all but the first."""

from __future__ import annotations

from dataclasses import replace

from cgptc.backends.wafer.axis_kinds import is_time
from cgptc.backends.wafer.plan.held import Features, Ids, RefusedError
from cgptc.backends.wafer.plan.lift import Lift
from cgptc.backends.wafer.plan.works import ShiftWork
from cgptc.ir.graph import Node
from cgptc.ir.ops.shape import Pad, Slice


def cut_tokens(lift: Lift, op: Slice, node: Node, x: Features) -> Features:
    """A row's tokens from one on, up to a place that is counted from the end: what is cut off behind costs nothing."""
    sequence = x.axes[op.axis]
    kind = _part(lift, op, sequence)
    axes = (*x.axes[: op.axis], kind, *x.axes[op.axis + 1 :])
    if not op.start:
        return replace(x, axes=axes)
    assert isinstance(op.start, int)
    name = lift.add(node, ShiftWork(x.columns.size, op.start), [lift.value(x)])
    return lift.all_of(name, x, axes)


def cut_ids(lift: Lift, op: Slice, ids: Ids) -> Ids:
    """The same of indices, which the host leaves out."""
    if not is_time(ids.axes[op.axis]):
        raise RefusedError("it separates rows")
    kind = _part(lift, op, ids.axes[op.axis])
    assert isinstance(op.start, int)
    return replace(ids, axes=(*ids.axes[: op.axis], kind, *ids.axes[op.axis + 1 :]), start=ids.start + op.start)


def _part(lift: Lift, op: Slice, sequence: str) -> str:
    """The kind of the tokens that a slice leaves."""
    size, length = op.stop - op.start, lift.length(sequence)
    if not lift.whole or op.step != 1 or not isinstance(op.start, int) or not isinstance(length - size, int):
        raise RefusedError("of a row's tokens the wafer leaves out some at the start or at the end, where rows are whole")
    return lift.derived(sequence, size)


def padded_ids(lift: Lift, op: Pad, ids: Ids) -> Ids:
    """Indices with more behind each row's last one."""
    changed = [axis for axis, counts in enumerate(zip(op.low, op.high, strict=True)) if counts != (0, 0)]
    axis = changed[0] if len(changed) == 1 else 0
    high = op.high[axis]
    if len(changed) != 1 or not is_time(ids.axes[axis]) or op.low[axis] != 0 or not isinstance(high, int) or not lift.whole:
        raise RefusedError("the wafer pads indices behind a row's last token only, where rows are whole")
    if ids.filler not in (None, int(op.value)):
        raise RefusedError("it pads indices twice")
    kind = lift.derived(ids.axes[axis], lift.length(ids.axes[axis]) + high)
    return replace(ids, axes=(*ids.axes[:axis], kind, *ids.axes[axis + 1 :]), filler=int(op.value))
