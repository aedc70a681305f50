"""Patterns as data, spelled as the IR prints, and the matcher.

A pattern is a tree of `OpPattern`, `Var` and `Scalar`. Matching is against a value; commutative operands match both ways; a failure says
which predicate failed and where, so that ``explain`` can report near misses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from cgptc.ir.dtypes import DType, f64
from cgptc.ir.graph import Node, Value
from cgptc.ir.op import Op
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Rsqrt, Sqrt
from cgptc.ir.weight_expressions import widened
from cgptc.ir.weights import EMPTY_STORE

SCALAR_SIZE = 4096
"""Elements of a constant that may still be looked at for being all the same number."""


@dataclass(frozen=True)
class Var:
    """Binds any value. ``where`` refuses values, ``meaning`` says what it asks for."""

    name: str
    where: Callable[[Value], bool] | None = None
    meaning: str = ""


@dataclass(frozen=True)
class Scalar:
    """A constant held in the graph whose elements are all the same number.

    With ``value`` it must be that number: to the precision of the constant's type, at most float32's, so that a constant which the model's
    dtype rounded still matches, and ``ulps`` of that off, for numbers that a model may compute in its dtype. Otherwise the number is
    bound to ``name`` as a float.
    """

    name: str = ""
    value: float | None = None
    ulps: int = 0


@dataclass(frozen=True)
class OpPattern:
    """A node of class ``op`` whose operands match.

    ``attributes`` are required field values, or predicates on them. The node is bound to ``bind``; where a pattern has that name twice,
    both nodes must be of equal operations. An interior node must have no use outside the match, unless ``shared``. Where ``operands`` are
    fewer than the node's, the rest must be absent.
    """

    op: type[Op]
    operands: tuple[Pattern | None, ...]
    attributes: tuple[tuple[str, Any], ...] = ()
    bind: str = ""
    shared: bool = False
    result: int = 0


@dataclass(frozen=True)
class OneOf:
    """The first alternative that matches."""

    alternatives: tuple[Pattern, ...]


Pattern: TypeAlias = Var | Scalar | OpPattern | OneOf


def op(cls: type[Op], *operands: Pattern | None, bind: str = "", shared: bool = False, result: int = 0, **attributes: Any) -> OpPattern:
    """Shorthand: ``op(Mul, op(Silu, gate), up)``; keywords are attributes."""
    return OpPattern(cls, operands, tuple(attributes.items()), bind, shared, result)


@dataclass(frozen=True)
class Miss:
    """Why a pattern did not match: how many nodes and operands had matched before, what failed, and on which value."""

    depth: int
    reason: str
    value: Value | None = None
    held: int = 0

    def nearer(self, other: Miss | None) -> Miss:
        """The one of two that came further, the other one where both came as far."""
        return self if other is None or (self.depth, self.held) > (other.depth, other.held) else other


@dataclass
class Match:
    """Variables by name, and the nodes that operation patterns matched, root first; whether some constant was one only as rounded; how many
    operands matched.
    """

    values: dict[str, Any] = field(default_factory=dict)
    nodes: list[Node] = field(default_factory=list)
    shared: set[Node] = field(default_factory=set)
    rounded: bool = False
    held: int = 0

    def copy(self) -> Match:
        return Match(dict(self.values), list(self.nodes), set(self.shared), self.rounded, self.held)

    def miss(self, reason: str, value: Value | None = None, more: int = 0) -> Miss:
        """What is missing beyond this much of a match and ``more`` nodes."""
        return Miss(len(self.nodes) + more, reason, value, self.held)


def match(pattern: Pattern, value: Value) -> Match | Miss:
    """Match ``value`` against ``pattern``."""
    found = _match(pattern, value, Match())
    if isinstance(found, Miss):
        return found
    matched = set(found.nodes)
    for node in found.nodes[1:]:
        if node in found.shared:
            continue
        for result in node.results:
            for use in result.uses:
                if use.user is None or use.user not in matched:
                    where = "a graph output" if use.user is None else f"'{use.user.op.name}'"
                    return Miss(len(found.nodes), f"'{node.op.name}' is used elsewhere too, by {where}", result)
    return found


def operations(pattern: Pattern) -> Iterator[OpPattern]:
    """Every operation in a pattern, alternatives included."""
    pending: list[Pattern] = [pattern]
    while pending:
        match pending.pop():
            case OpPattern() as part:
                yield part
                pending += [operand for operand in part.operands if operand is not None]
            case OneOf(alternatives=alternatives):
                pending += alternatives
            case _:
                pass


def scalar_of(value: Value) -> float | None:
    """The number that a constant of the graph itself holds in every element, or a root of one; None for anything else.

    A constant that is converted to a narrower type counts as what it was before: that is what wide evaluation sees.
    """
    if isinstance(value.op, Sqrt | Rsqrt) and value.producer is not None:  # sqrt(tensor(64.))
        square = scalar_of(value.producer.inputs[0]) if isinstance(value.producer.inputs[0].op, Constant) else None
        return None if square is None or square <= 0 else math.sqrt(square) if isinstance(value.op, Sqrt) else 1 / math.sqrt(square)
    weight = value.op.weight if isinstance(value.op, Constant) else None
    if weight is None or weight.dtype.name == "bool" or math.prod(weight.shape) not in range(1, SCALAR_SIZE + 1):
        return None
    try:
        array = (widened(weight) if weight.dtype.is_float else weight).read(EMPTY_STORE)
    except KeyError:  # it is stored: its content is not looked at
        return None
    first = array.reshape(-1)[0]
    return float(first) if array.size == 1 or np.all(array == first) else None


def same_number(left: float, right: float, dtype: DType, ulps: int = 0) -> bool:
    """Equal, or equal once both are rounded to ``dtype`` or to float32, whichever is finer; up to ``ulps`` units of that."""
    if left == right or dtype is f64:
        return left == right or abs(left - right) <= (1 + ulps) * np.spacing(abs(right))
    return bool(abs(np.float32(left) - np.float32(right)) <= ulps * np.spacing(np.float32(abs(right))))


def _match(pattern: Pattern, value: Value, state: Match) -> Match | Miss:
    match pattern:
        case Var():
            return _match_var(pattern, value, state)
        case Scalar():
            number = scalar_of(value)
            if number is None:
                return state.miss("expected a scalar constant", value)
            if pattern.value is not None and not same_number(number, pattern.value, value.type.dtype, pattern.ulps):
                return state.miss(f"expected the constant {pattern.value:.10g}, got {number:.10g}", value)
            if pattern.value is not None and not same_number(number, pattern.value, f64):
                state.rounded = True
            if pattern.name:
                bound = state.values.setdefault(pattern.name, number)
                if bound != number:
                    return state.miss(f"'{pattern.name}' is {bound:g} and {number:g}", value)
            return state
        case OneOf():
            best: Miss | None = None
            for alternative in pattern.alternatives:
                found = _match(alternative, value, state.copy())
                if isinstance(found, Match):
                    return found
                best = found.nearer(best)
            assert best is not None
            return best
        case OpPattern():
            return _match_op(pattern, value, state)


def _match_var(pattern: Var, value: Value, state: Match) -> Match | Miss:
    bound = state.values.setdefault(pattern.name, value)
    if bound is not value:
        return state.miss(f"'{pattern.name}' is two different values", value)
    if pattern.where is not None and not pattern.where(value):
        return state.miss(f"'{pattern.name}' must be {pattern.meaning or 'as the pattern asks'}, got {value.type}", value)
    return state


def _match_op(pattern: OpPattern, value: Value, state: Match) -> Match | Miss:
    node = value.producer
    if node is None or type(node.op) is not pattern.op:
        came = "a graph input" if node is None else f"'{node.op.name}'"
        return state.miss(f"expected '{pattern.op.name}', got {came}", value)
    if value.result_index != pattern.result:
        return state.miss(f"expected result {pattern.result} of '{node.op.name}', got {value.result_index}", value)
    for name, wanted in pattern.attributes:
        actual = getattr(node.op, name)
        if not (wanted(actual) if callable(wanted) else wanted == actual):
            shown = "otherwise" if callable(wanted) else f"{wanted}"
            return state.miss(f"'{node.op.name}' has {name}={actual}, expected {shown}", value, more=1)
    if any(operand is not None for operand in node.operands[len(pattern.operands) :]) or len(node.operands) < sum(
        part is not None for part in pattern.operands
    ):
        return state.miss(f"'{node.op.name}' has other operands than expected", value, more=1)
    orders: list[Sequence[int]] = [range(len(pattern.operands))]
    if pattern.op.commutative and len(pattern.operands) == 2:
        orders.append((1, 0))
    best: Miss | None = None
    for order in orders:
        found = _match_operands(pattern, order, node, state.copy())
        if isinstance(found, Match):
            return found
        best = found.nearer(best)
    assert best is not None
    return best


def _match_operands(pattern: OpPattern, order: Sequence[int], node: Node, state: Match) -> Match | Miss:
    """Match the node's operands, taken in that order, against the pattern's, the first of which are met first either way."""
    if node not in state.nodes:
        state.nodes.append(node)
        if pattern.shared:
            state.shared.add(node)
    if pattern.bind and (bound := state.values.setdefault(pattern.bind, node)).op != node.op:
        return state.miss(f"'{pattern.bind}' is {bound.op} and {node.op}", node.result)
    for index, part in zip(order, pattern.operands, strict=True):
        operand = node.operands[index] if index < len(node.operands) else None
        if part is None or operand is None:
            if part is not None or operand is not None:
                return state.miss(f"operand {index} of '{node.op.name}' is {'absent' if operand is None else 'present'}")
            continue
        found = _match(part, operand, state)
        if isinstance(found, Miss):
            return found
        state = found
        state.held += 1
    return state
