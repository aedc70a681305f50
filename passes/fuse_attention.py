"""Attention written out with matmul, scale, mask and softmax becomes one `attention`."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import OpTypeError
from cgptc.ir.dims import Dim
from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import union
from cgptc.ir.mask_bounds import hides_nothing
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import Add, And, Mul, Select
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Neg, Not
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.reduction import ReduceAny, ReduceMean, Softmax
from cgptc.ir.ops.shape import Expand, Reshape, Transpose
from cgptc.passes.attention_scores import Mask, Probabilities, Scores, probabilities_of, scores_of, sees_itself
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.normalize_masks import MASK, understand
from cgptc.passes.pattern import scalar_of
from cgptc.passes.rewrite import erase_dead, inserted_between


@dataclass(frozen=True)
class FuseAttention(Pass, name="fuse-attention"):
    """Fuse ``softmax(scale * q @ kᵀ + mask) @ v``, grouped heads included.

    Masks stay explicit here; `normalize-masks` reads what they mean. A query that is hidden from every key gets 0, as `attention` says,
    where the model gives NaN; where it gives the mean of all values, since every score is the same finite number, that stays so, but for
    masks that only hide padding and what comes later: there such a query is padding itself.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = False
        for node in graph.nodes:
            context.count("nodes visited")
            if not isinstance(node.op, MatMul):
                continue
            found = probabilities_of(node.inputs[0])
            if found is None:
                continue
            value = node.inputs[1]
            if isinstance(found, str) and (isinstance(value.op, Constant) or value.type.rank < 2):
                continue
            reason = found if isinstance(found, str) else self._fuse(graph, node, found, value, context)
            if reason is not None:
                context.missed("attention", node.location, reason, node=node)
            else:
                changed = True
        return changed

    def _fuse(self, graph: Graph, node: Node, found: Probabilities, value: Value, context: PassContext) -> str | None:
        softmax = found.softmax
        assert isinstance(softmax.op, Softmax)
        rank = softmax.result.type.rank
        if softmax.op.axis != rank - 1:
            return f"softmax runs along axis {softmax.op.axis} of {rank}, not the last"
        if rank not in (2, 3, 4) or value.type.rank != rank:
            return f"scores and values have ranks {rank} and {value.type.rank}, not both 2, 3 or 4"
        scores = scores_of(softmax)
        if isinstance(scores, str):
            return scores
        matched = [node, *found.nodes, softmax, *scores.nodes]
        for inner in matched[1:]:
            for use in inner.result.uses:
                if use.user is None or use.user not in matched:
                    where = "a graph output" if use.user is None else f"'{use.user.op.name}'"
                    return f"'{inner.op.name}' inside is used elsewhere too, by {where}"
        if len({inner.stage for inner in matched}) > 1:
            return "it would merge two stages"
        hidden = _hidden_rows(scores, found)
        if hidden is None:
            return "probabilities are set to 0 by another mask than the scores'"
        if context.rewrites_left is not None and context.rewrites_left <= 0:
            return "the bisection limit is reached"
        location = union(inner.location for inner in matched)
        build = Builder(graph, before=node, location=location, stage=node.stage)
        previous = node._previous
        try:
            result = _replacement(build, scores, value, node.result, hidden)
        except OpTypeError as error:
            result = f"attention has no such form: {error}"
        if isinstance(result, str):
            for created in reversed(inserted_between(graph, previous, node)):
                graph.erase(created)
            return result
        context.take_rewrite("attention", node.location)
        result.name = result.name or node.result.name
        graph.replace_uses(node.result, result)
        erase_dead(graph, [node])
        context.done("attention", location, node=result.producer, of=matched)
        return None


def _hidden_rows(scores: Scores, found: Probabilities) -> str | None:
    """`Scores.rows_that_see_nothing` with what is set to 0 behind the softmax; None where that is by other masks than the scores'."""
    conditions = [(mask.kind, mask.value) for mask in scores.masks]
    hidden = scores.rows_that_see_nothing()
    if any(zeroed not in conditions for zeroed in found.zeroed):
        return None
    if found.zeroed and hidden != "nothing":
        boolean = {condition for condition in conditions if condition[0] != "add"}
        return "nothing" if boolean == set(found.zeroed) else "other"
    return hidden


def _replacement(build: Builder, scores: Scores, value: Value, old: Value, hidden: str) -> Value | str:
    """What stands in for ``old``, or why nothing can: ``hidden`` is what the model gives for a query that sees no key."""
    attention = _build(build, scores, value)
    result, mask = attention.results[0], attention.operands[MASK]
    if value.type.rank < 4:
        result = build(Reshape(old.type.shape), result)
    if hidden != "nothing" and all(sees_itself(each, build.graph.store) for each in scores.masks if each.kind != "add"):
        hidden = "nothing"  # that query is not there
    if hidden != "nothing" and mask is not None and not _hides_padding_alone(build, attention, mask, scores.masks, value.type.rank):
        if hidden == "other":
            return "its masks give a query that sees no key other numbers than attention does"
        result = _or_mean(build, scores.masks, result, value)
    if result.type.dtype != old.type.dtype:
        result = build(Cast(old.type.dtype), result)
    return result if result.type == old.type else build(Reshape(old.type.shape), result)


def _hides_padding_alone(build: Builder, attention: Node, mask: Value, masks: list[Mask], rank: int) -> bool:
    """Whether a query that the masks hide from every key is padding: they are causality, a window and padding, but for a bias that hides
    nothing.
    """
    if not isinstance(understand(build.graph, attention, mask), str):
        return True
    hiding = [each for each in masks if each.kind != "add" or not hides_nothing(each.value, build.graph.store)]
    if len(hiding) == len(masks):
        return False
    query, key = attention.inputs[:2]
    without_bias = _explicit_mask(build, hiding, rank, query.type.shape[2], key.type.shape[2])
    assert without_bias is not None
    meaning = understand(build.graph, attention, without_bias)
    if without_bias.producer is not None:
        erase_dead(build.graph, [without_bias.producer])
    return not isinstance(meaning, str)


def _or_mean(build: Builder, masks: list[Mask], result: Value, value: Value) -> Value:
    """The result where a query sees some key, else the mean of all values."""
    seen: Value | None = None
    for mask in masks:
        if mask.kind != "add":
            keep = build(Not(), mask.value) if mask.kind == "hide" else mask.value
            seen = keep if seen is None else build(And(), seen, keep)
    assert seen is not None
    seen = build(ReduceAny((seen.type.rank - 1,), keepdims=True), seen)
    mean = build(ReduceMean((value.type.rank - 2,), keepdims=True), value)
    mean = mean if mean.type.dtype == result.type.dtype else build(Cast(result.type.dtype), mean)
    return build(Select(), seen, result, mean)


def _build(build: Builder, scores: Scores, value: Value) -> Node:
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
    return build.node(Attention(scale=scale), query, key, value, mask)


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
    """``[length, features]`` or ``[batch, length, features]`` as ``[batch, 1, length, features]``."""
    if value.type.rank == 4:
        return value
    *batch, length, features = value.type.shape
    return build(Reshape((*(batch or [1]), 1, length, features)), value)


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


def _explicit_mask(build: Builder, masks: list[Mask], rank: int, queries: Dim, keys: Dim) -> Value | None:
    """All masks as one additive ``[batch|1, heads|1, queries, keys]``; None for none."""
    total: Value | None = None
    for each in masks:
        kind, mask = each.kind, each.value
        if kind == "hide":
            mask = build(Not(), mask)
        if kind in ("hide", "keep"):
            mask = build(Select(), mask, build.constant(0.0), build.constant(float("-inf")))
        elif each.factor == -1:
            mask = build(Neg(), mask)
        elif each.factor != 1:
            mask = build(Mul(), mask, build.constant(each.factor, mask.type.dtype))
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
