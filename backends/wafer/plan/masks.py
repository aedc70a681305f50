"""How masks and positions read as work on one item: what counts, compares and chooses, and masks that depend on positions alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.axis_kinds import BATCH
from cgptc.backends.wafer.plan.held import Count, Features, Held, Ids, Item, Padding, Places, RefusedError, Relation, Table
from cgptc.backends.wafer.plan.lift import Lift, lifts
from cgptc.ir.dtypes import f64
from cgptc.ir.graph import Node
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import And, Equal, NotEqual, Select
from cgptc.ir.ops.constant import DimSize, Iota
from cgptc.ir.ops.elementwise import Cast, Not
from cgptc.ir.ops.embedding import Positions
from cgptc.ir.ops.reduction import CumSum
from cgptc.ir.ops.shape import Expand
from cgptc.ir.predicates import MASKED
from cgptc.ir.weights import Dense, Weight

Results = tuple[Item, ...]

Understood = tuple[Attention, Weight | None, Padding | None]


def related(lift: Lift, op: Attention, mask: Relation | Table, operands: tuple[Features, Features]) -> Understood:
    """The attention causal or with a window as a mask by positions says, what else the mask adds to its scores, and padding beside it.

    What is added is a weight ``[1 or heads, queries, keys]`` of all positions. RefusedError where it differs between rows.
    """
    q, k = operands
    heads, tokens = len(q.columns), lift.tokens(q.sequence)
    padding = mask.padding if isinstance(mask, Relation) else None
    array = mask.weight.read(lift.graph.store)
    array = array.reshape((1,) * (4 - array.ndim) + array.shape)
    sizes = (1, heads, tokens, tokens)
    fits = all(size in (1, wanted) for size, wanted in zip(array.shape, sizes, strict=True))
    if k.sequence != q.sequence or mask.sequence != q.sequence or not fits or (isinstance(mask, Table) and mask.offset):
        raise RefusedError(f"its mask of {list(array.shape)} is not one of {tokens} tokens seeing one another")
    array = np.broadcast_to(array[0], (array.shape[1], tokens, tokens))
    array = array[:1] if (array == array[:1]).all() else array
    seen = array if array.dtype == np.bool_ else array > MASKED
    if op.causal:  # what is said of later keys is of no matter
        seen = seen & np.tril(np.ones((tokens, tokens), np.bool_))
    if len(array) == 1 and (array.dtype == np.bool_ or not array[seen].any()):
        found = _banded(op, seen[0])
        if found is not None:
            return found, None, padding
    numbers = np.where(seen, 0.0 if array.dtype == np.bool_ else array, -np.inf)
    if array.dtype != np.bool_ and not seen.any(axis=-1).all():
        # A query that sees nothing attends to all keys alike where what hides them is a number.
        numbers = np.asarray(array, np.float64)
    return op, Dense(f64, numbers.shape, np.ascontiguousarray(numbers).tobytes()), padding


def _banded(op: Attention, seen: NDArray[np.bool_]) -> Attention | None:
    """The attention as a mask ``[queries, keys]`` says that is full, causal or a window; None for any other."""
    if seen.all():
        return op
    query, key = np.arange(len(seen))[:, None], np.arange(len(seen))
    causal = key <= query
    window = int(seen[-1].sum())
    if (seen == causal).all():
        return replace(op, causal=True)
    if (seen == causal & (key > query - window)).all():
        return replace(op, causal=True, window=min(window, op.window or window))
    return None


def both(left: Item, right: Item) -> Relation | None:
    """A mask by positions and one of padding together; None where they are not these."""
    for one, other in ((left, right), (right, left)):
        if isinstance(other, Padding) and not other.count:
            if isinstance(one, Relation) and one.padding is None:
                return replace(one, padding=other)
            if isinstance(one, Table) and not one.offset:
                return Relation(one.weight, one.sequence, other)
    return None


@lifts(And)
def _and(lift: Lift, op: And, node: Node) -> Results:
    combined = both(lift.operand(node, 0), lift.operand(node, 1))
    if combined is None:
        raise RefusedError("the wafer combines a mask of padding with nothing but a mask by positions")
    return (combined,)


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
    for kept, low, inverts in ((lift.operand(node, 1), lift.operand(node, 2), False), (lift.operand(node, 2), lift.operand(node, 1), True)):
        combined = _hidden_besides(lift, condition, kept, low, inverts=inverts)
        if combined is not None:
            return (combined,)
    chosen, other = (_one_number(lift, lift.operand(node, index)) for index in (1, 2))
    if isinstance(condition, Relation) and chosen == 0 and other is not None and other <= MASKED:
        return (condition,)
    if not isinstance(condition, Padding) or condition.count or chosen is None or other is None:
        raise RefusedError("the wafer chooses nothing but what a padding mask adds to scores")
    if chosen == 0 and other <= MASKED:
        return (condition,)
    if other == 0 and chosen <= MASKED:
        return (replace(condition, inverted=not condition.inverted),)
    raise RefusedError(f"a mask of {chosen:g} and {other:g} is none of padding")


def _hidden_besides(lift: Lift, condition: Item, kept: Item, low: Item, *, inverts: bool) -> Relation | None:
    """A mask by positions and one of padding, of which one chooses the other or what hides a key; None where they are not these."""
    number = _one_number(lift, low) if isinstance(condition, (Padding, Relation)) else None
    if number is None or number > MASKED:
        return None
    if isinstance(condition, Padding) and isinstance(kept, (Relation, Table)) and _one_number(lift, kept) is None:
        return both(kept, replace(condition, inverted=condition.inverted != inverts))
    return both(condition, kept) if isinstance(condition, Relation) and not inverts else None


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
        if isinstance(item, Ids) and lift.whole and item.axes[0] == BATCH and len(item.axes) == 2 and not item.start:
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
    if op.size not in lift.times or lift.past != 0 or lift.times[op.size] in lift.bases:
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
    if isinstance(item, Relation) and all(
        one == other or one in (1, lift.batch) for one, other in zip(given, op.shape[-len(given) :], strict=True)
    ):
        return (item,)
    if isinstance(item, Padding) and given[-1] == op.shape[-1] and all(dim in (1, lift.batch) for dim in given[:-1]):
        return (item,)
    raise RefusedError("the wafer repeats nothing but positions and padding masks")
