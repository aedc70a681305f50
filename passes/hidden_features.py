"""Features that live between linear layers alone: neurons of a feed-forward block, heads of an attention.

Both are found by walking the graph, not by names. What is found can be made smaller: every node between the layers treats one feature (or
one head) as it treats the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.attention import Attention, Rotary
from cgptc.ir.ops.binary import Binary
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Unary
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.shape import Reshape, Split, Transpose
from cgptc.passes.weight_names import weight_of


@dataclass(frozen=True)
class Source:
    """Outputs ``start`` to ``stop`` of ``linear``, as ``value``: the whole result, or a part that a split gives."""

    linear: Node
    value: Value
    start: int
    stop: int


@dataclass(frozen=True)
class Neurons:
    """``width`` features that ``down`` reads and nothing else. ``between`` are the nodes on the way, in graph order."""

    down: Node
    width: int
    sources: tuple[Source, ...]
    between: tuple[Node, ...]
    vectors: tuple[tuple[Node, int], ...]
    """Operands of nodes between that are constants over the features."""


@dataclass(frozen=True)
class Heads:
    """The heads of one attention. ``query``, ``key`` and ``value`` are where they come from, ``projection`` the layer that reads them;
    ``before`` and ``after`` are the nodes on the way to and from the attention, in order; ``reshapes`` those of them whose shape counts
    heads, with the count.
    """

    attention: Node
    projection: Node
    sources: tuple[Source, Source, Source]
    heads: int
    key_heads: int
    reshapes: Mapping[Node, int]
    before: tuple[Node, ...]
    after: tuple[Node, ...]

    @property
    def group(self) -> int:
        """Query heads that share a key head: they are removed together with it."""
        return self.heads // self.key_heads


def source_of(value: Value) -> Source | None:
    """The layer whose outputs a value is, with a constant weight."""
    node = value.producer
    if node is None:
        return None
    if _is_layer(node):
        return Source(node, value, 0, width_of(value))
    last = node.inputs[0].type.rank - 1 if isinstance(node.op, Split) else -1
    if isinstance(node.op, Split) and node.op.axis == last:
        (whole,) = node.inputs
        sizes = [size for size in node.op.sizes if isinstance(size, int)]
        if whole.producer is not None and _is_layer(whole.producer) and whole.use_count == 1 and len(sizes) == len(node.results):
            start = sum(sizes[: value.result_index])
            return Source(whole.producer, value, start, start + sizes[value.result_index])
    return None


def find_neurons(down: Node) -> Neurons | None:
    """The neurons that a layer reads; None where there are none that could be removed.

    A node is walked over once all its users are, so that no walk goes beyond what something else uses too, and no two meet.
    """
    if not _is_layer(down):
        return None
    width = width_of(down.inputs[0])
    region: list[Node] = []
    sources: list[Source] = []
    vectors: list[tuple[Node, int]] = []
    uses_seen: Counter[Value] = Counter()
    pending = [down.inputs[0]]
    while pending:
        value = pending.pop()
        uses_seen[value] += 1
        if uses_seen[value] < value.use_count:
            continue
        source = source_of(value)
        if source is not None:
            sources.append(source)
            continue
        node = value.producer
        if node is None or not isinstance(node.op, Unary | Binary | Cast):
            return None
        region.append(node)
        for index, operand in enumerate(node.inputs):
            if isinstance(operand.op, Constant) and (not operand.type.shape or operand.type.shape[-1] == 1):
                continue
            if isinstance(operand.op, Constant) and operand.type.shape == (width,):
                vectors.append((node, index))
            elif operand.type.shape == value.type.shape:
                pending.append(operand)
            else:
                return None
    if any(seen < value.use_count for value, seen in uses_seen.items()):
        return None
    return Neurons(down, width, tuple(sources), tuple(reversed(region)), tuple(vectors))


@dataclass
class _Walk:
    reshapes: dict[Node, int] = field(default_factory=dict)
    before: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)


def find_heads(attention: Node) -> Heads | str:
    """The heads of an attention node, or why none could be removed."""
    operands: list[Value | None] = [*attention.operands]
    q, k, v, mask, past_k, past_v = operands + [None] * (6 - len(operands))
    assert q is not None
    assert k is not None
    assert v is not None
    heads, key_heads = q.type.shape[1], k.type.shape[1]
    if not isinstance(heads, int) or not isinstance(key_heads, int):
        return "the number of heads is not fixed"
    if mask is not None and mask.type.rank == 4 and mask.type.shape[1] != 1:
        return "its mask differs between heads"
    for past in (past_k, past_v):
        if past is not None and (past.producer is not None or past.use_count != 1):
            return "its past is not an input of its own"
    if any(use.user is not None for present in attention.results[1:] for use in present.uses):
        return "its keys or values are used elsewhere too"
    walk = _Walk()
    sources: list[Source] = []
    for operand, count in ((q, heads), (k, key_heads), (v, key_heads)):
        found = _backwards(operand, count, walk)
        if isinstance(found, str):
            return found
        sources.append(found)
    projection = _forwards(attention.results[0], heads, walk)
    if isinstance(projection, str):
        return projection
    if len({source.value for source in sources}) != len(sources):
        return "queries, keys and values are not apart"
    query, key, value = sources
    return Heads(attention, projection, (query, key, value), heads, key_heads, walk.reshapes, tuple(walk.before), tuple(walk.after))


def _backwards(value: Value, count: int, walk: _Walk) -> Source | str:
    """From an operand ``[b, count, s, d]`` to the layer that gives it; every node on the way keeps heads apart."""
    depth, axis, split = width_of(value), 1, False
    path: list[Node] = []
    while True:
        if value.use_count != 1:
            return "queries, keys or values are used elsewhere too"
        source = source_of(value) if split else None
        if source is not None:
            if source.stop - source.start != count * depth:
                return f"its layer has {source.stop - source.start} outputs for {count} heads of {depth}"
            walk.before += reversed(path)
            return source
        node = value.producer
        if node is None:
            return "queries, keys or values come from an input"
        path.append(node)
        rank = value.type.rank
        match node.op:
            case Transpose() if not split and node.op.permutation[-1] == rank - 1:
                axis = node.op.permutation[axis]
            case Reshape() if not split and axis == rank - 2 and node.inputs[0].type.shape == (*value.type.shape[:-2], count * depth):
                walk.reshapes[node] = count
                split = True
            case Rotary() if not split:
                pass
            case LayerNorm() | RmsNorm() if not split:
                pass
            case Unary() | Cast():
                pass
            case Binary() if any(isinstance(each.op, Constant) and each.type.rank <= 1 and not split for each in node.inputs):
                others = [each for each in node.inputs if not isinstance(each.op, Constant)]
                if len(others) != 1 or others[0].type.shape != value.type.shape:
                    return f"'{node.op.name}' on the way mixes heads"
                value = others[0]
                continue
            case _:
                return f"'{node.op.name}' on the way may mix heads"
        value = node.inputs[0]


def _forwards(value: Value, count: int, walk: _Walk) -> Node | str:
    """From the result ``[b, count, s, d]`` to the layer that reads it."""
    depth, axis, merged = width_of(value), 1, False
    while True:
        node = value.uses[0].user if value.use_count == 1 else None
        if node is None:
            return "its result is used elsewhere too"
        if merged and _is_layer(node) and node.operands[0] is value:
            return node
        rank = value.type.rank
        match node.op:
            case Transpose() if not merged and node.op.permutation[-1] == rank - 1:
                axis = node.op.permutation.index(axis)
            case Reshape() if not merged and axis == rank - 2 and node.result.type.shape == (*value.type.shape[:-2], count * depth):
                walk.reshapes[node] = count
                merged = True
            case Cast():
                pass
            case _:
                return f"'{node.op.name}' reads its result, not a layer"
        walk.after.append(node)
        value = node.result


def _is_layer(node: Node) -> bool:
    return isinstance(node.op, Linear) and weight_of(node, 1) is not None


def width_of(value: Value) -> int:
    """The size of the last axis, which is never symbolic here: a weight has it too."""
    size = value.type.shape[-1]
    assert isinstance(size, int)
    return size


def all_neurons(graph: Graph) -> list[Neurons]:
    """Every set of neurons, in order."""
    return [found for node in graph.nodes if isinstance(node.op, Linear) and (found := find_neurons(node)) is not None]


def all_heads(graph: Graph) -> dict[Node, Heads | str]:
    """What is found at every attention, in order."""
    return {node: find_heads(node) for node in graph.nodes if isinstance(node.op, Attention)}


def spread(kept: Sequence[int], width: int) -> list[int]:
    """Features of kept heads, each ``width`` wide."""
    return [int(place) for place in (np.asarray(kept, np.int64)[:, None] * width + np.arange(width)).reshape(-1)]
