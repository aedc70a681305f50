"""What an additive mask surely hides, where it also holds a bias that no analysis knows.

A linear bias on the distance (ALiBi), learned buckets of it, or any other finite numbers stay what they are; where the minus infinities
stand can still be read off the additions and selections that put them there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from cgptc.ir.graph import Value
from cgptc.ir.masks import NODE_LIMIT, VIEWS, describe_all, over_result
from cgptc.ir.ops.binary import (
    Add,
    And,
    Equal,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    Maximum,
    Minimum,
    Mul,
    NotEqual,
    Or,
    Select,
    Sub,
)
from cgptc.ir.ops.constant import Constant, DimSize, Iota
from cgptc.ir.ops.elementwise import Abs, Cast, Neg, Not
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.reduction import CumSum
from cgptc.ir.ops.shape import Concat, Expand, Flip, Pad, Reshape, Slice, Transpose
from cgptc.ir.predicates import (
    FALSE,
    MASKED,
    TRUE,
    Affine,
    AllOf,
    AtLeastZero,
    Cases,
    Element,
    Predicate,
    UnknownError,
    all_of,
    any_of,
    negate,
)
from cgptc.ir.weights import EMPTY_STORE, Weight, WeightStore

Known: TypeAlias = Mapping[Value, Element | None]

HIDDEN = -1e30
"""What stays far below every score whatever bias is added to it."""

READ_SIZE = 1 << 24
"""Elements of a buffer that may be read to see what it hides."""

QUERY, KEY = 2, 3


def hides_later_keys(mask: Value, store: WeightStore) -> bool:
    """Whether an additive mask ``[batch|1, heads|1, queries, keys]`` hides every key after its query, as far as can be proven."""
    shown = _shown(mask, store)
    parts = shown.parts if isinstance(shown, AllOf) else (shown,)
    return any(_is_no_later(part) for part in parts)


_SUMS_AND_PRODUCTS = (
    Abs, Add, And, Cast, Concat, CumSum, DimSize, Equal, Expand, Flip, Greater, GreaterEqual, Iota, Less, LessEqual, Maximum, Minimum, Mul,
    Neg, Not, NotEqual, Or, Pad, Reshape, Select, Slice, Sub, Transpose,
)  # fmt: skip
"""Ops that give no infinity of moderate numbers."""


def hides_nothing(mask: Value, store: WeightStore) -> bool:
    """Whether an additive mask is surely a bias: made by sums and products of positions, padding and numbers none of which is `MASKED` or
    beyond it, or read from a table of such numbers.
    """
    pending, seen = [mask], {mask}
    while pending:
        value = pending.pop()
        node = value.producer
        if node is None:
            if value.type.dtype.is_float:
                return False
            continue
        if isinstance(node.op, Constant):
            if not _is_moderate(node.op.weight, store):
                return False
            continue
        if not isinstance(node.op, (*_SUMS_AND_PRODUCTS, Embedding, Gather)) or len(seen) > NODE_LIMIT:
            return False
        if isinstance(node.op, Pad) and abs(node.op.value) >= -MASKED:
            return False
        # Which row of a table is read does not matter.
        operands = node.inputs[:1] if isinstance(node.op, Embedding | Gather) else node.inputs
        pending += [operand for operand in operands if operand not in seen]
        seen.update(operands)
    return True


def _is_moderate(weight: Weight, store: WeightStore) -> bool:
    if math.prod(weight.shape) > READ_SIZE:
        return False
    try:
        array = weight.read(store).astype(np.float64)
    except KeyError:
        return False
    return bool(np.all(np.abs(array) < -MASKED))


def _is_no_later(part: Predicate) -> bool:
    """``key <= query``, or nearer to the start still."""
    if not isinstance(part, AtLeastZero):
        return False
    constant = part.affine.constant
    return dict(part.affine.coefficients) == {QUERY: 1, KEY: -1} and isinstance(constant, int) and constant <= 0


def _shown(mask: Value, store: WeightStore) -> Predicate:
    """A predicate over the mask's axes outside of which its numbers are at most `HIDDEN`."""
    elements = describe_all(mask, store)
    shown: dict[Value, Element | None] = {}
    for value, element in elements.items():
        shown[value] = _of_element(element) if isinstance(element, float | Cases) else _of_node(value, elements, shown, store)
    found = shown.get(mask)
    return found if isinstance(found, Predicate) else TRUE


def _of_element(element: float | Cases) -> Predicate:
    if isinstance(element, float):
        return FALSE if element <= HIDDEN else TRUE
    then, otherwise = _of_element(element.then), _of_element(element.otherwise)
    return any_of([all_of([element.predicate, then]), all_of([negate(element.predicate), otherwise])])


def _of_node(value: Value, elements: Known, shown: Known, store: WeightStore) -> Predicate:
    node = value.producer
    if node is None:
        return TRUE
    if isinstance(node.op, Constant):
        return _of_table(node.op.weight, store)
    try:
        if type(node.op) in VIEWS:
            moved = VIEWS[type(node.op)](value, shown, EMPTY_STORE)
            return moved if isinstance(moved, Predicate) else TRUE
        if isinstance(node.op, Cast):
            return _predicate(shown, node.inputs[0])
        if isinstance(node.op, Add):
            operands = over_result(value, shown)
            return all_of(operand for operand in operands or () if isinstance(operand, Predicate))
        if isinstance(node.op, Select):
            return _of_select(value, elements, shown)
    except UnknownError:
        pass
    return TRUE


def _of_table(weight: Weight, store: WeightStore) -> Predicate:
    """A buffer that hides all above its diagonal."""
    rank = len(weight.shape)
    if rank < 2 or weight.shape[-1] != weight.shape[-2] or not weight.dtype.is_float or not 0 < math.prod(weight.shape) <= READ_SIZE:
        return TRUE
    try:
        array = weight.read(store).reshape(-1, *weight.shape[-2:])
    except KeyError:
        return TRUE
    later = np.triu(np.ones(array.shape[1:], np.bool_), 1)
    return AtLeastZero(Affine(((rank - 2, 1), (rank - 1, -1)), 0)) if later.any() and np.all(array[:, later] <= HIDDEN) else TRUE


def _of_select(value: Value, elements: Known, shown: Known) -> Predicate:
    assert value.producer is not None
    condition, then, otherwise = value.producer.inputs
    element = elements.get(condition)
    if not isinstance(element, Predicate):
        return TRUE
    chosen = over_result(value, {condition: element, then: _predicate(shown, then), otherwise: _predicate(shown, otherwise)})
    assert chosen is not None
    where, kept, left = (part for part in chosen if isinstance(part, Predicate))
    return any_of([all_of([where, kept]), all_of([negate(where), left])])


def _predicate(shown: Known, value: Value) -> Predicate:
    found = shown.get(value)
    return found if isinstance(found, Predicate) else TRUE
