"""How masks and positions read as work on one item: what counts, compares and chooses, and masks that depend on positions alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cgptc.backends.wafer.axis_kinds import BATCH
from cgptc.backends.wafer.plan.held import Count, Features, Held, Ids, Item, Padding, Places, RefusedError, Relation, Table
from cgptc.backends.wafer.plan.lift import Lift, lifts
from cgptc.ir.graph import Node
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import Equal, NotEqual, Select
from cgptc.ir.ops.constant import DimSize, Iota
from cgptc.ir.ops.elementwise import Cast, Not
from cgptc.ir.ops.embedding import Positions
from cgptc.ir.ops.reduction import CumSum
from cgptc.ir.ops.shape import Expand
from cgptc.ir.weights import Dense, Weight

Results = tuple[Item, ...]

MASKED = -1e4
"""A score lowered by at least this much counts as masked: its exponential is 0 in every type beside an unmasked score."""


def related(lift: Lift, op: Attention, mask: Relation) -> Attention:
    """The attention without a mask, causal or with a window as the mask is. RefusedError for any other mask."""
    array = mask.weight.read(lift.graph.store)
    while array.ndim > 2:
        if (array != array[:1]).any():
            raise RefusedError("its mask differs between rows or heads")
        array = array[0]
    if array.dtype != np.bool_:
        if ((array != 0) & ~(array <= MASKED)).any():
            raise RefusedError("its mask adds finite numbers to scores")
        array = array == 0
    if array.all():
        return op
    tokens = len(array)
    query, key = np.arange(tokens)[:, None], np.arange(tokens)
    if array.shape == (tokens, tokens):
        causal = key <= query
        window = int(array[-1].sum())
        if (array == causal).all():
            return replace(op, causal=True)
        if (array == causal & (key > query - window)).all():
            return replace(op, causal=True, window=min(window, op.window or window))
    raise RefusedError("its mask by positions is neither causal nor a window")


@lifts(NotEqual)
def _not_equal(lift: Lift, op: NotEqual, node: Node) -> Results:
    return (_as_mask(lift, node, inverted=False),)


@lifts(Equal)
def _equal(lift: Lift, op: Equal, node: Node) -> Results:
    return (_as_mask(lift, node, inverted=True),)


@lifts(Not)
def _not(lift: Lift, op: Not, node: Node) -> Results:
    item = lift.operand(node, 0)
    if not isinstance(item, Padding) or item.count:
        raise RefusedError("the wafer negates nothing but a padding mask")
    return (replace(item, inverted=not item.inverted),)


@lifts(Select)
def _select(lift: Lift, op: Select, node: Node) -> Results:
    """A padding mask as what is added to scores: nothing, or next to minus infinity."""
    condition = lift.operand(node, 0)
    chosen, other = (_one_number(lift, lift.operand(node, index)) for index in (1, 2))
    if not isinstance(condition, Padding) or condition.count or chosen is None or other is None:
        raise RefusedError("the wafer chooses nothing but what a padding mask adds to scores")
    if chosen == 0 and other <= MASKED:
        return (condition,)
    if other == 0 and chosen <= MASKED:
        return (replace(condition, inverted=not condition.inverted),)
    raise RefusedError(f"a mask of {chosen:g} and {other:g} is none of padding")


def _one_number(lift: Lift, item: Item) -> float | None:
    """What a constant is everywhere."""
    if not isinstance(item, (Held, Table)):
        return None
    try:
        found = np.unique(item.weight.read(lift.graph.store))
    except KeyError:
        return None
    return float(found[0]) if found.size == 1 else None


def _as_mask(lift: Lift, node: Node, *, inverted: bool) -> Padding:
    """What is compared with 0 to be a padding mask."""
    for item, constant in ((lift.operand(node, 0), lift.operand(node, 1)), (lift.operand(node, 1), lift.operand(node, 0))):
        if not isinstance(constant, Held) or not _is_zero(lift, constant.weight):
            continue
        if isinstance(item, Ids) and lift.whole and item.axes[0] == BATCH and len(item.axes) == 2:
            item = Padding(name=item.value)
        if isinstance(item, Padding) and not item.count:
            return replace(item, inverted=item.inverted != inverted)
    raise RefusedError("the wafer compares nothing but the padding mask with 0")


def _is_zero(lift: Lift, weight: Weight) -> bool:
    return isinstance(weight, Dense) and not np.any(weight.array)


@lifts(Cast)
def _cast(lift: Lift, op: Cast, node: Node) -> Results:
    item = lift.operand(node, 0)
    source = node.inputs[0].type.dtype
    if isinstance(item, Count) or (isinstance(item, (Padding, Places, Ids)) and (op.dtype.is_integer or op.dtype.name == "bool")):
        return (item,)
    if isinstance(item, Features) and op.dtype is source:
        return (item,)
    raise RefusedError(f"the wafer computes in one type, and this converts {source} to {op.dtype}")


@lifts(CumSum)
def _cum_sum(lift: Lift, op: CumSum, node: Node) -> Results:
    item = lift.operand(node, 0)
    if not isinstance(item, Padding) or item.count or item.inverted or op.axis != 1 or lift.whole:
        raise RefusedError("the wafer counts nothing but the tokens of the padding mask, where it leaves padding out")
    return (replace(item, count=True),)


@lifts(Positions)
def _positions(lift: Lift, op: Positions, node: Node) -> Results:
    if lift.whole and node.inputs:
        raise RefusedError("the wafer counts nothing but the tokens of the padding mask, where it leaves padding out")
    return (Places(),)


@lifts(Iota)
def _iota(lift: Lift, op: Iota, node: Node) -> Results:
    if op.size not in lift.times or lift.past != 0:
        raise RefusedError("the wafer counts nothing but a row's tokens")
    return (Places(sequence=lift.times[op.size]),)


@lifts(DimSize)
def _dim_size(lift: Lift, op: DimSize, node: Node) -> Results:
    if op.dim not in lift.times:
        raise RefusedError("the wafer counts nothing but a row's tokens")
    return (Count(lift.times[op.dim]),)


@lifts(Expand)
def _expand(lift: Lift, op: Expand, node: Node) -> Results:
    item = lift.operand(node, 0)
    if isinstance(item, Places) and lift.tokens_of(op.shape) == (BATCH, item.sequence):
        return (item,)
    given = node.inputs[0].type.shape
    if isinstance(item, Padding) and given[-1] == op.shape[-1] and all(dim in (1, lift.batch) for dim in given[:-1]):
        return (item,)
    raise RefusedError("the wafer repeats nothing but positions and padding masks")
