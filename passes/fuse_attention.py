"""Attention written out with matmul, scale, mask and softmax becomes one `attention`."""

from __future__ import annotations

from dataclasses import dataclass, field

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim
from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import union
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import Add, Div, Maximum, Mul, Select
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Not
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.reduction import Softmax
from cgptc.ir.ops.shape import Expand, Reshape, Transpose
from cgptc.ir.predicates import MASKED
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import scalar_of
from cgptc.passes.rewrite import erase_dead


@dataclass
class _Scores:
    """``softmax(scale * (query @ keyᵀ) + masks)`` as found while walking up from the softmax."""

    query: Value
    key_transposed: Value
    scale: float
    masks: list[tuple[str, Value]]  # "add": an additive mask; "keep", "hide": a Boolean one, true where a score stays or goes
    nodes: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class FuseAttention(Pass, name="fuse-attention"):
    """Fuse ``softmax(scale * q @ kᵀ + mask) @ v``, grouped heads included.

    Masks stay explicit here; `normalize-masks` reads what they mean.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = False
        for node in graph.nodes:
            context.count("nodes visited")
            if not isinstance(node.op, MatMul):
                continue
            probabilities, value = node.inputs
            softmax = _through_casts(probabilities)
            if softmax is None or not isinstance(softmax.op, Softmax):
                continue
            reason = self._fuse(graph, node, softmax, value, context)
            if reason is not None:
                context.missed("attention", node.location, reason, node=node)
            else:
                changed = True
        return changed

    def _fuse(self, graph: Graph, node: Node, softmax: Node, value: Value, context: PassContext) -> str | None:
        assert isinstance(softmax.op, Softmax)
        rank = softmax.result.type.rank
        if softmax.op.axis != rank - 1:
            return f"softmax runs along axis {softmax.op.axis} of {rank}, not the last"
        if rank not in (3, 4) or value.type.rank != rank:
            return f"scores and values have ranks {rank} and {value.type.rank}, not both 3 or both 4"
        scores = _scores(softmax)
        if isinstance(scores, str):
            return scores
        matched = [node, *_between(node.inputs[0], softmax), softmax, *scores.nodes]
        for inner in matched[1:]:
            for use in inner.result.uses:
                if use.user is None or use.user not in matched:
                    where = "a graph output" if use.user is None else f"'{use.user.op.name}'"
                    return f"'{inner.op.name}' inside is used elsewhere too, by {where}"
        if len({inner.stage for inner in matched}) > 1:
            return "it would merge two stages"
        if not context.take_rewrite("attention", node.location):
            return "the bisection limit is reached"
        location = union(inner.location for inner in matched)
        build = Builder(graph, before=node, location=location, stage=node.stage)
        result = _build(build, scores, value)
        if result.type != node.result.type:
            result = (
                build(Reshape(node.result.type.shape), result)
                if result.type.dtype == node.result.type.dtype
                else build(Cast(node.result.type.dtype), result)
            )
        result.name = result.name or node.result.name
        graph.replace_uses(node.result, result)
        erase_dead(graph, [node])
        context.done("attention", location, node=result.producer, of=matched)
        return None


def _through_casts(value: Value) -> Node | None:
    while value.producer is not None and isinstance(value.producer.op, Cast) and value.producer.inputs[0].type.dtype.is_float:
        value = value.producer.inputs[0]
    return value.producer


def _between(value: Value, end: Node) -> list[Node]:
    nodes: list[Node] = []
    while value.producer is not None and value.producer is not end:
        nodes.append(value.producer)
        value = value.producer.inputs[0]
    return nodes


def _scores(softmax: Node) -> _Scores | str:
    """Walk up from the softmax to the product of query and key, collecting scales and masks."""
    scale = 1.0
    masks: list[tuple[str, Value]] = []
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
                return _Scores(query, key, scale, masks, nodes)
            case Cast():
                current = node.inputs[0]
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
                if floor is None or floor > MASKED:
                    return "the scores are clamped"
                current = other
            case Add():
                if scale != 1.0:
                    return "a mask is added before the scale"
                current, mask = _which_is_scores(node)
                masks.append(("add", mask))
            case Select():
                condition, then, otherwise = node.inputs
                hidden = _filled(otherwise)
                if hidden is not None:
                    masks.append(("keep", condition))
                    current = then
                elif (hidden := _filled(then)) is not None:
                    masks.append(("hide", condition))
                    current = otherwise
                else:
                    return "the scores are selected from two tensors"
                if hidden > MASKED:
                    return f"masked scores are set to {hidden:g}, which does not hide them"
            case _:
                return f"'{node.op.name}' stands between softmax and the product of query and key"


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
        if not isinstance(node.op, Cast | Mul | Div | Add | Select | Maximum):
            return False
        operands = node.inputs[1:] if isinstance(node.op, Select) else node.inputs
        candidates = [operand for operand in operands if scalar_of(operand) is None]
        if not candidates:
            return False
        value = candidates[0]
    return False


def _build(build: Builder, scores: _Scores, value: Value) -> Value:
    rank = value.type.rank
    query, scale = _absorb_scale(scores.query, scores.scale)
    key_transposed, scale = _absorb_scale(scores.key_transposed, scale)
    key, scale = _absorb_scale(_swapped(build, key_transposed), scale)
    query, key, value = _of_one_type(build, query, key, value)
    dtype = value.type.dtype
    query, key, value = _with_heads(build, query), _with_heads(build, key), _with_heads(build, value)
    key_base, value_base = _ungrouped(key), _ungrouped(value)
    if key_base is not None and value_base is not None and key_base.type.shape[1] == value_base.type.shape[1]:
        key, value = _without_group(build, key_base), _without_group(build, value_base)
    mask = _explicit_mask(build, scores.masks, rank, query.type.shape[2], key.type.shape[2])
    if mask is not None and mask.type.dtype != dtype:
        mask = build(Cast(dtype), mask)
    result = build.all(Attention(scale=scale), query, key, value, mask)[0]
    if rank == 3:
        shape = result.type.shape
        result = build(Reshape((shape[0], shape[2], shape[3])), result)
    return result


def _absorb_scale(value: Value, scale: float) -> tuple[Value, float]:
    """A constant factor on the query or key belongs to the scale."""
    node = value.producer
    if node is not None and isinstance(node.op, Mul) and value.use_count <= 1:
        for operand, other in (node.inputs, node.inputs[::-1]):
            number = scalar_of(operand)
            if number is not None and other.type == value.type:
                return other, scale * number
    return value, scale


def _swapped(build: Builder, value: Value) -> Value:
    """The value with its last two axes swapped; transposes meet and merge."""
    rank = value.type.rank
    swap = (*range(rank - 2), rank - 1, rank - 2)
    node = value.producer
    if node is not None and isinstance(node.op, Transpose):
        merged = tuple(node.op.permutation[axis] for axis in swap)
        return node.inputs[0] if merged == tuple(range(rank)) else build(Transpose(merged), node.inputs[0])
    return build(Transpose(swap), value)


def _of_one_type(build: Builder, query: Value, key: Value, value: Value) -> tuple[Value, Value, Value]:
    """The operands in one element type. Attention's own scores are wide: models that widen queries and keys for them need not.

    Where the type before a widening is not the values', the narrower operands are widened.
    """
    narrow = [_before_widening(operand, value.type.dtype) for operand in (query, key)]
    if narrow[0] is not None and narrow[1] is not None:
        return narrow[0], narrow[1], value
    widest = max((operand.type.dtype for operand in (query, key, value)), key=lambda dtype: dtype.bits)
    query, key, value = (x if x.type.dtype == widest else build(Cast(widest), x) for x in (query, key, value))
    return query, key, value


def _before_widening(value: Value, dtype: DType) -> Value | None:
    """The value in a type that it has, or had before a cast to a wider one."""
    if value.type.dtype == dtype:
        return value
    node = value.producer
    if node is None or not isinstance(node.op, Cast):
        return None
    source = node.inputs[0]
    return source if source.type.dtype == dtype and dtype.bits < value.type.dtype.bits else None


def _with_heads(build: Builder, value: Value) -> Value:
    """``[batch, length, features]`` as ``[batch, 1, length, features]``."""
    if value.type.rank == 4:
        return value
    batch, length, features = value.type.shape
    return build(Reshape((batch, 1, length, features)), value)


def _ungrouped(value: Value) -> Value | None:
    """``[b, kv, 1, t, d]`` whose heads were repeated to ``[b, kv * group, t, d]`` by expand and reshape."""
    outer = value.producer
    if outer is None or not isinstance(outer.op, Reshape):
        return None
    expand = outer.inputs[0].producer
    if expand is None or not isinstance(expand.op, Expand) or expand.result.type.rank != 5:
        return None
    source = expand.inputs[0]
    batch, heads, group, length, features = expand.result.type.shape
    wanted: tuple[Dim, ...] = (batch, heads, 1, length, features)
    return source if source.type.shape == wanted and value.type.shape == (batch, heads * group, length, features) else None


def _without_group(build: Builder, value: Value) -> Value:
    """``[b, kv, 1, t, d]`` as ``[b, kv, t, d]``."""
    batch, heads, _, length, features = value.type.shape
    return build(Reshape((batch, heads, length, features)), value)


def _explicit_mask(build: Builder, masks: list[tuple[str, Value]], rank: int, queries: Dim, keys: Dim) -> Value | None:
    """All masks as one additive ``[batch|1, heads|1, queries, keys]``; None for none."""
    total: Value | None = None
    for kind, mask in masks:
        if kind == "hide":
            mask = build(Not(), mask)
        if kind in ("hide", "keep"):
            mask = build(Select(), mask, build.constant(0.0), build.constant(float("-inf")))
        shape = mask.type.shape
        if rank == 3 and mask.type.rank == 3:
            mask = build(Reshape((shape[0], 1, shape[1], shape[2])), mask)
        elif mask.type.rank < 4:
            mask = build(Reshape((*([1] * (4 - mask.type.rank)), *shape)), mask)
        if total is not None and total.type.dtype != mask.type.dtype:
            mask = build(Cast(total.type.dtype), mask)
        total = mask if total is None else build(Add(), total, mask)
    if total is not None and total.type.shape[2:] != (queries, keys):
        total = build(Expand((*total.type.shape[:2], queries, keys)), total)
    return total
