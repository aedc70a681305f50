"""What a mask means: a Boolean function of query position, key position and padding.

Hand-written attention, and models outside transformers' attention interface, build their masks from iotas, comparisons, triangular
buffers and padding vectors. `describe` evaluates such a subgraph symbolically, element by element; `predicates.classify` reads the
result as causality, a window and a padding vector. Nothing is guessed: an operation or a number that the analysis does not know makes
the answer None.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import reduce
from typing import TypeAlias

import numpy as np

from cgptc.ir.graph import Value
from cgptc.ir.op import Array
from cgptc.ir.ops.binary import (
    Add,
    And,
    Div,
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
from cgptc.ir.ops.elementwise import Cast, Neg, Not
from cgptc.ir.ops.indexing import GatherNd
from cgptc.ir.ops.shape import Concat, Expand, Reshape, Slice, Transpose
from cgptc.ir.predicates import (
    FALSE,
    TRUE,
    Affine,
    AtLeastZero,
    Cases,
    Element,
    Flag,
    Index,
    Number,
    Predicate,
    UnknownError,
    all_of,
    any_of,
    negate,
    reindex,
)
from cgptc.ir.weights import WeightStore

NODE_LIMIT = 512
"""Nodes of a mask subgraph that are looked at before giving up."""


def describe(value: Value, store: WeightStore) -> Element | None:
    """The element function of ``value`` over its own axes, or None where the analysis does not know."""
    return describe_all(value, store).get(value)


def describe_all(value: Value, store: WeightStore) -> dict[Value, Element | None]:
    """`describe` of ``value`` and of all that it is made of, operands first; nothing where that is too much to look at."""
    order: list[Value] = []
    seen: set[Value] = set()
    stack: list[tuple[Value, bool]] = [(value, False)]
    while stack:
        current, done = stack.pop()
        if done:
            order.append(current)
            continue
        if current in seen:
            continue
        seen.add(current)
        if len(seen) > NODE_LIMIT:
            return {}
        stack.append((current, True))
        producer = current.producer
        if producer is not None and type(producer.op) in _RULES:
            stack += [(operand, False) for operand in producer.inputs]
    known: dict[Value, Element | None] = {}
    for current in order:
        known[current] = _element(current, known, store)
    return known


# The element function of one operation from those of its operands


def _element(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    producer = value.producer
    if producer is not None and type(producer.op) in _RULES:
        found = _RULES[type(producer.op)](value, known, store)
        if found is not None:
            return found
    dtype = value.type.dtype
    if dtype.name == "bool" or (producer is None and dtype.is_integer and "mask" in value.name):
        return Flag(value, tuple(None if dim == 1 else axis for axis, dim in enumerate(value.type.shape)))
    return None


def over_result(value: Value, known: Mapping[Value, Element | None]) -> list[Element] | None:
    """The operands' element functions over the result's axes: broadcasting aligns axes at the end."""
    assert value.producer is not None
    rank = value.type.rank
    found: list[Element] = []
    for operand in value.producer.inputs:
        element = known[operand]
        if element is None:
            return None
        lead = rank - operand.type.rank
        found.append(reindex(element, [(axis + lead, 0) for axis in range(operand.type.rank)]))
    return found


Rule: TypeAlias = Callable[[Value, Mapping[Value, "Element | None"], WeightStore], "Element | None"]


def _iota(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    return Affine(((0, 1),), 0)


def _dim_size(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    assert isinstance(value.op, DimSize)
    return Affine((), value.op.dim)


def _constant(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    assert isinstance(value.op, Constant)
    if value.type.rank > 4:
        return None
    try:
        array = value.op.weight.read(store)
    except KeyError:
        return None
    if array.size == 0:
        return None
    distinct = np.unique(array.reshape(-1)[:1]) if array.size == 1 else np.unique(array)
    if len(distinct) == 1:
        return _number(distinct[0], array.dtype)
    if len(distinct) != 2 or array.ndim < 2 or any(size != 1 for size in array.shape[:-2]):
        return None
    low, high = distinct
    band = _band(array == high)
    if band is None:
        return None
    if array.dtype == np.bool_:
        return band
    return Cases(band, float(high), float(low))


def _number(number: np.generic, dtype: np.dtype[np.generic]) -> Element:
    if dtype == np.bool_:
        return TRUE if number else FALSE
    if np.issubdtype(dtype, np.integer):
        return Affine((), int(number.item()))
    return float(np.float64(number.astype(np.float64)))


def _band(array: Array) -> Predicate | None:
    """The predicate ``low <= i - j <= high`` on the last two axes that a Boolean array is, or None."""
    rows, columns = array.shape[-2:]
    query, key = array.ndim - 2, array.ndim - 1
    array = array.reshape(rows, columns)
    distance = np.arange(rows)[:, None] - np.arange(columns)[None, :]
    inside = distance[array]
    low, high = int(inside.min()), int(inside.max())
    if not np.array_equal(array, (distance >= low) & (distance <= high)):
        return None
    parts: list[Predicate] = []
    if low > 1 - columns:
        parts.append(AtLeastZero(Affine(((query, 1), (key, -1)), -low)))
    if high < rows - 1:
        parts.append(AtLeastZero(Affine(((query, -1), (key, 1)), high)))
    return all_of(parts)


def _cast(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    assert value.producer is not None
    (operand,) = value.producer.inputs
    element = known[operand]
    target = value.type.dtype
    if isinstance(element, Predicate):
        if target.name == "bool" or (isinstance(element, Flag) and target.is_integer):
            return element
        return Cases(element, 1.0, 0.0)
    if target.name == "bool":
        return _truth(element)
    if isinstance(element, Affine) and target.is_float and not element.coefficients and isinstance(element.constant, int):
        return float(element.constant)
    return element


def _truth(element: Element | None) -> Predicate | None:
    match element:
        case float():
            return TRUE if element else FALSE
        case Cases(predicate, then, otherwise):
            left, right = _truth(then), _truth(otherwise)
            if left is None or right is None:
                return None
            return any_of([all_of([predicate, left]), all_of([negate(predicate), right])])
        case _:
            return None


def _reshape(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    """Reshapes that only add or drop axes of size 1."""
    assert value.producer is not None
    (operand,) = value.producer.inputs
    element = known[operand]
    old = [axis for axis, dim in enumerate(operand.type.shape) if dim != 1]
    new = [axis for axis, dim in enumerate(value.type.shape) if dim != 1]
    if element is None or [operand.type.shape[axis] for axis in old] != [value.type.shape[axis] for axis in new]:
        return None
    index: list[Index] = [(None, 0)] * operand.type.rank
    for source, target in zip(old, new, strict=True):
        index[source] = (target, 0)
    return reindex(element, index)


def _transpose(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    assert value.producer is not None and isinstance(value.op, Transpose)
    element = known[value.producer.inputs[0]]
    index: list[Index] = [(value.op.permutation.index(axis), 0) for axis in range(value.type.rank)]
    return None if element is None else reindex(element, index)


def _expand(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    assert value.producer is not None
    (operand,) = value.producer.inputs
    element = known[operand]
    lead = value.type.rank - operand.type.rank
    index: list[Index] = [
        (None, 0) if dim == 1 and value.type.shape[axis + lead] != 1 else (axis + lead, 0) for axis, dim in enumerate(operand.type.shape)
    ]
    return None if element is None else reindex(element, index)


def _slice(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    assert value.producer is not None and isinstance(value.op, Slice)
    element = known[value.producer.inputs[0]]
    if element is None or value.op.step != 1:
        return None
    index: list[Index] = [(axis, value.op.start if axis == value.op.axis else 0) for axis in range(value.type.rank)]
    return reindex(element, index)


def _concat(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    """Nothing by itself: `_gather_nd` reads the parts."""
    return None


def _gather_nd(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    """A tensor indexed by one position per axis, each an index of the result plus an offset, as transformers reads padding masks."""
    assert value.producer is not None
    assert isinstance(value.op, GatherNd)
    source, indices = value.producer.inputs
    element, concat = known.get(source), indices.producer
    if element is None or value.op.batch_dims or concat is None or not isinstance(concat.op, Concat):
        return None
    if concat.op.axis != indices.type.rank - 1 or len(concat.inputs) != source.type.rank:
        return None
    index: list[Index] = []
    for part in concat.inputs:
        position = known.get(part)
        if not isinstance(position, Affine) or part.type.shape[-1] != 1:
            return None
        match position.coefficients:
            case ():
                index.append((None, position.constant))
            case ((axis, 1),):
                index.append((axis, position.constant))
            case _:
                return None
    return reindex(element, index)


def _arithmetic(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    operands = over_result(value, known)
    if operands is None:
        return None
    kind = type(value.op)
    if len(operands) == 2 and all(isinstance(operand, Affine) for operand in operands):
        left, right = operands
        assert isinstance(left, Affine) and isinstance(right, Affine)
        if kind in (Add, Sub):
            return left.combine(right, 1 if kind is Add else -1)
        if kind is Mul:
            for one, other in ((left, right), (right, left)):
                if not one.coefficients and isinstance(one.constant, int):
                    return other.scaled(one.constant)
        return None
    if kind is Neg and isinstance(operands[0], Affine):
        return operands[0].scaled(-1)
    numbers = [operand for operand in operands if isinstance(operand, float | Cases)]
    if len(numbers) != len(operands):
        return None
    function = _FUNCTIONS[kind]
    if len(numbers) == 1:
        return _map_leaves(numbers[0], lambda leaf: function(leaf, 0.0))
    left_number, right_number = numbers
    return _map_leaves(left_number, lambda leaf: _map_leaves(right_number, lambda other: function(leaf, other)))


_FUNCTIONS: dict[type, Callable[[float, float], float]] = {
    Add: lambda a, b: a + b,
    Sub: lambda a, b: a - b,
    Mul: lambda a, b: 0.0 if a == 0 or b == 0 else a * b,
    Div: lambda a, b: a / b if b else float("nan"),
    Neg: lambda a, _: -a,
    Maximum: max,
    Minimum: min,
}


def _map_leaves(number: Number, function: Callable[[float], Number]) -> Number:
    if isinstance(number, Cases):
        return Cases(number.predicate, _map_leaves(number.then, function), _map_leaves(number.otherwise, function))
    return function(number)


def _comparison(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    operands = over_result(value, known)
    if operands is None:
        return None
    left, right = operands
    kind = type(value.op)
    if isinstance(left, Affine) and isinstance(right, Affine):
        difference = left.combine(right, -1)
        return _COMPARISONS[kind](difference)
    if kind in (Equal, NotEqual):
        for one, other in ((left, right), (right, left)):
            if other in (TRUE, FALSE) or (isinstance(other, Affine) and other == Affine((), 0)):
                true = one if isinstance(one, Predicate) else _truth(one)
                if isinstance(true, Predicate):
                    return true if (kind is Equal) == (other == TRUE) else negate(true)
    if isinstance(left, float | Cases) and isinstance(right, float | Cases):
        compared = _map_leaves(left, lambda leaf: _map_leaves(right, lambda other: float(_NUMBER_COMPARISONS[kind](leaf, other))))
        return _truth(compared)
    return None


_ONE = Affine((), 1)
_COMPARISONS: dict[type, Callable[[Affine], Predicate]] = {
    GreaterEqual: AtLeastZero,
    Greater: lambda d: AtLeastZero(d.combine(_ONE, -1)),
    LessEqual: lambda d: AtLeastZero(d.scaled(-1)),
    Less: lambda d: AtLeastZero(d.scaled(-1).combine(_ONE, -1)),
    Equal: lambda d: all_of([AtLeastZero(d), AtLeastZero(d.scaled(-1))]),
    NotEqual: lambda d: negate(all_of([AtLeastZero(d), AtLeastZero(d.scaled(-1))])),
}
_NUMBER_COMPARISONS: dict[type, Callable[[float, float], bool]] = {
    GreaterEqual: lambda a, b: a >= b,
    Greater: lambda a, b: a > b,
    LessEqual: lambda a, b: a <= b,
    Less: lambda a, b: a < b,
    Equal: lambda a, b: a == b,
    NotEqual: lambda a, b: a != b,
}


def _logic(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    operands = over_result(value, known)
    if operands is None:
        return None
    predicates = [operand for operand in operands if isinstance(operand, Predicate)]
    if len(predicates) != len(operands):
        return None
    if isinstance(value.op, Not):
        return negate(predicates[0])
    return reduce(lambda a, b: all_of([a, b]), predicates) if isinstance(value.op, And) else any_of(predicates)


def _select(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
    operands = over_result(value, known)
    if operands is None:
        return None
    condition, then, otherwise = operands
    if not isinstance(condition, Predicate):
        return None
    if isinstance(then, float | Cases) and isinstance(otherwise, float | Cases):
        return Cases(condition, then, otherwise)
    if isinstance(then, Predicate) and isinstance(otherwise, Predicate):
        return any_of([all_of([condition, then]), all_of([negate(condition), otherwise])])
    return None


def _guarded(rule: Rule) -> Rule:
    def guarded(value: Value, known: Mapping[Value, Element | None], store: WeightStore) -> Element | None:
        try:
            return rule(value, known, store)
        except UnknownError:
            return None

    return guarded


VIEWS: dict[type, Rule] = {Reshape: _guarded(_reshape), Transpose: _guarded(_transpose), Expand: _guarded(_expand), Slice: _guarded(_slice)}
"""What only moves elements."""

_RULES: dict[type, Rule] = {
    **VIEWS,
    Iota: _iota,
    DimSize: _dim_size,
    Constant: _constant,
    **{
        kind: _guarded(rule)
        for kinds, rule in (
            ((Cast,), _cast),
            ((Concat,), _concat),
            ((GatherNd,), _gather_nd),
            ((Add, Sub, Mul, Div, Neg, Maximum, Minimum), _arithmetic),
            ((Equal, NotEqual, Less, LessEqual, Greater, GreaterEqual), _comparison),
            ((And, Or, Not), _logic),
            ((Select,), _select),
        )
        for kind in kinds
    },
}
