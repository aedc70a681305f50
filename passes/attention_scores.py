"""Reading attention that is written out, from the product with the values up to the product of query and key."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from cgptc.ir.graph import Node, Value
from cgptc.ir.masks import describe
from cgptc.ir.ops.binary import Add, Div, Greater, Maximum, Mul, Pow, Select, Sub
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, IsInf, IsNan, Unary
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.reduction import Softmax
from cgptc.ir.ops.shape import Expand, Reshape, Slice
from cgptc.ir.predicates import MASKED, AllOf, AtLeastZero, Predicate, negate
from cgptc.ir.weights import WeightStore
from cgptc.passes.pattern import scalar_of

FAR = 24
"""Nodes above the product with the values among which a softmax is looked for, to say why it is no attention."""


@dataclass(frozen=True)
class Mask:
    """One mask of the scores. ``kind`` "add" is additive; "keep" and "hide" are Boolean, true where a score stays or goes.

    ``factor`` is what the masked scores are multiplied by afterwards, ``fill`` the score of what is hidden, so multiplied.
    """

    kind: str
    value: Value
    factor: float = 1.0
    fill: float = -math.inf


@dataclass
class Scores:
    """``softmax(scale * (query @ key_transposed) + masks)``; ``masks`` are in the order in which softmax meets them, the last first."""

    query: Value
    key_transposed: Value
    scale: float
    masks: list[Mask]
    nodes: list[Node] = field(default_factory=list)

    def rows_that_see_nothing(self) -> str:
        """What the model gives for a query that Boolean masks hide from every key: "nothing" (0, or NaN, which is no number to keep),
        "mean" (the mean of all values, since every score is the same), or "other".
        """
        filled = [number for number, mask in enumerate(self.masks) if mask.kind != "add" and math.isfinite(mask.fill)]
        if not filled:
            return "nothing"
        alike = {mask.fill for mask in self.masks if mask.kind != "add"} == {self.masks[filled[0]].fill}
        return "mean" if alike and not any(mask.kind == "add" for mask in self.masks[: filled[-1]]) else "other"


@dataclass
class Probabilities:
    """A softmax, the nodes behind it that keep what it gives, and the masks by which they set some of it to 0 (kind and condition)."""

    softmax: Node
    nodes: list[Node] = field(default_factory=list)
    zeroed: list[tuple[str, Value]] = field(default_factory=list)


def probabilities_of(value: Value) -> Probabilities | str | None:
    """The softmax that gives ``value``, perhaps cast or masked once more; a reason where another operation stands between, None where
    nothing looks like attention.
    """
    nodes: list[Node] = []
    zeroed: list[tuple[str, Value]] = []
    while (node := value.producer) is not None:
        match node.op:
            case Softmax():
                return Probabilities(node, nodes, zeroed)
            case Cast() if node.inputs[0].type.dtype.is_float:
                value = node.inputs[0]
            case Select() if (tested := _tested(node)) is not None:
                nodes += tested
                value = node.inputs[2]
            case Select() if _filled(node.inputs[2]) == 0 and node.inputs[1].type == node.result.type:
                zeroed.append(("keep", node.inputs[0]))
                value = node.inputs[1]
            case Select() if _filled(node.inputs[1]) == 0 and node.inputs[2].type == node.result.type:
                zeroed.append(("hide", node.inputs[0]))
                value = node.inputs[2]
            case _:
                far = _softmax_behind(value)
                return f"'{node.op.name}' stands between softmax and the product with the values" if far else None
        nodes.append(node)
    return None


def _tested(node: Node) -> list[Node] | None:
    """What looks at probabilities for NaN, which becomes 0, or for infinity, which is not among them, as ``nan_to_num`` does; None where
    a selection is anything else. NaN is there for a query that sees no key, to which attention gives 0.
    """
    condition, replacement, kept = node.inputs
    if not isinstance(condition.op, IsNan | IsInf) or condition.producer is None or condition.producer.inputs[0] is not kept:
        return None
    if isinstance(condition.op, IsNan) and _filled(replacement) != 0:
        return None
    sides = replacement.producer  # a selection by sign between the two infinities' replacements
    choosing = [sides] if sides is not None and isinstance(sides.op, Select) and isinstance(sides.inputs[0].op, Greater) else []
    return [*(user for user in kept.users if isinstance(user.op, IsNan | IsInf | Greater)), *choosing]


def _softmax_behind(value: Value) -> bool:
    """Whether a softmax lies a few elementwise steps up."""
    pending, seen = [value], set[Value]()
    while pending and len(seen) < FAR:
        value = pending.pop(0)
        if isinstance(value.op, Softmax):
            return True
        if value in seen or value.producer is None:
            continue
        seen.add(value)
        if isinstance(value.op, Unary | Cast | Mul | Div | Add | Sub | Pow | Select | Reshape | Slice | Expand):
            pending += [operand for operand in value.producer.inputs if operand.type.dtype.is_float]
    return False


def scores_of(softmax: Node) -> Scores | str:
    """Walk up from the softmax to the product of query and key, collecting scales and masks."""
    scale = 1.0
    masks: list[Mask] = []
    nodes: list[Node] = []
    current = softmax.inputs[0]
    while True:
        node = current.producer
        if node is None:
            return "the scores come from a graph input, not from a product"
        nodes.append(node)
        match node.op:
            case MatMul():
                query, key = node.inputs
                if query.type.rank != key.type.rank:
                    return f"query and key have ranks {query.type.rank} and {key.type.rank}"
                return Scores(query, key, scale, masks, nodes)
            case Cast():
                current = node.inputs[0]
                if not current.type.dtype.is_float:
                    return f"the scores are converted from {current.type.dtype}"
            case Mul() | Div():
                left, right = node.inputs
                number, other = scalar_of(right), left
                if number is None and isinstance(node.op, Mul):
                    number, other = scalar_of(left), right
                if number is None:
                    return f"the scores are scaled by {right.type}, not by a constant"
                scale = scale * number if isinstance(node.op, Mul) else scale / number
                current = other
            case Maximum():
                left, right = node.inputs
                floor, other = (scalar_of(right), left) if scalar_of(right) is not None else (scalar_of(left), right)
                if floor is None or not hides(floor, scale):
                    return "the scores are clamped"
                current = other
            case Add():
                current, mask = _which_is_scores(node)
                masks.append(Mask("add", mask, scale))
            case Sub():
                current, mask = node.inputs
                masks.append(Mask("add", mask, -scale))
            case Select():
                condition, then, otherwise = node.inputs
                fill, kind, current = _filled(otherwise), "keep", then
                if fill is None:
                    fill, kind, current = _filled(then), "hide", otherwise
                if fill is None:
                    return "the scores are selected from two tensors"
                if not hides(fill, scale):
                    return f"masked scores are set to {fill * scale:g}, which does not hide them"
                masks.append(Mask(kind, condition, scale, fill * scale))
            case _:
                return f"'{node.op.name}' stands between softmax and the product of query and key"


def hides(score: float, factor: float) -> bool:
    """Whether a score that is multiplied by ``factor`` afterwards counts as masked."""
    return factor > 0 and score * factor <= MASKED


def _filled(value: Value) -> float | None:
    """The number that fills a tensor: a scalar constant, perhaps expanded."""
    while value.producer is not None and isinstance(value.producer.op, Expand | Reshape | Cast):
        value = value.producer.inputs[0]
    return scalar_of(value)


def _which_is_scores(node: Node) -> tuple[Value, Value]:
    """The operand of an addition that leads to a product of two non-constant values, and the other one."""
    left, right = node.inputs
    return (left, right) if _leads_to_product(left) else (right, left)


def _leads_to_product(value: Value) -> bool:
    for _ in range(16):
        node = value.producer
        if node is None or isinstance(node.op, Constant):
            return False
        if isinstance(node.op, MatMul):
            return True
        if not isinstance(node.op, Cast | Mul | Div | Add | Sub | Select | Maximum):
            return False
        operands = node.inputs[1:] if isinstance(node.op, Select) else node.inputs
        candidates = [operand for operand in operands if scalar_of(operand) is None]
        if not candidates:
            return False
        value = candidates[0]
    return False


def sees_itself(mask: Mask, store: WeightStore) -> bool:
    """Whether a Boolean mask lets each query see the key at its own place, for what it says of positions alone."""
    if mask.value.type.rank < 2 or mask.value.type.shape[-1] != mask.value.type.shape[-2]:
        return False
    element = describe(mask.value, store)
    if not isinstance(element, Predicate):
        return False
    shown = negate(element) if mask.kind == "hide" else element
    query, key = mask.value.type.rank - 2, mask.value.type.rank - 1
    for part in shown.parts if isinstance(shown, AllOf) else (shown,):
        if not isinstance(part, AtLeastZero) or dict(part.affine.coefficients) not in ({query: 1, key: -1}, {query: -1, key: 1}):
            return False
        if not isinstance(part.affine.constant, int) or part.affine.constant < 0:
            return False
    return True
