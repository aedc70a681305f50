"""Chains of reshapes, transposes and slices become the shortest that does the same."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import pairwise

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, floordiv, mod, product
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import union
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.shape import Reshape, Slice, Split, Transpose
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead

VIEWS = (Reshape, Transpose, Slice)
LONGEST = 32
"""Nodes of a chain that are looked at."""


@dataclass(frozen=True)
class MergeViews(Pass, name="merge-views"):
    """Merge chains of reshapes, transposes and slices of whole factors of axes, also past linear layers that only swap tokens.

    PyTorch's `MultiheadAttention` puts the sequence first, its three projections in front of that, and heads beside the batch, one view at
    a time. Slices that share a value out become one split.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        rounds = 0
        while rounds < LONGEST and _merge(graph, context):  # what became shorter may meet what it did not reach before
            rounds += 1
        return rounds > 0


def _merge(graph: Graph, context: PassContext) -> bool:
    changed = False
    for node in list(graph.nodes):
        context.count("nodes visited")
        if isinstance(node.op, Linear):
            changed |= _sink(graph, node)
    for node in list(graph.nodes):
        if node.alive and isinstance(node.op, Transpose):
            changed |= _hoist(graph, node)
    for node in list(graph.reversed_nodes):
        if node.alive and isinstance(node.op, VIEWS) and not _goes_on(node):
            changed |= _shorten(graph, node)
    for node in list(graph.nodes):
        if node.alive:
            for value in node.results:
                changed |= _share_out(graph, value)
    return changed


# Transposes of tokens on either side of a linear layer


def _sink(graph: Graph, layer: Node) -> bool:
    """``linear(transpose(x))`` becomes ``transpose(linear(x))`` where views follow, and none comes before."""
    turned = layer.inputs[0]
    if not _turns_tokens(turned) or turned.use_count != 1 or isinstance(_source(turned).op, VIEWS):
        return False
    users = list(layer.result.users)
    if layer.result.is_output or not users or not all(isinstance(user.op, VIEWS) and user.stage == layer.stage for user in users):
        return False
    turn = turned.producer
    assert turn is not None
    if turn.stage != layer.stage:
        return False
    build = Builder(graph, before=layer, location=union((layer.location, turn.location)), stage=layer.stage)
    return _replaced(graph, layer, build(turn.op, build(layer.op, _source(turned), *layer.operands[1:])))


def _hoist(graph: Graph, node: Node) -> bool:
    """``transpose(linear(view))`` becomes ``linear(transpose(view))``."""
    layer = node.inputs[0].producer
    if layer is None or not isinstance(layer.op, Linear) or not _turns_tokens(node.result):
        return False
    before = layer.inputs[0]
    if layer.result.use_count != 1 or not isinstance(before.op, VIEWS) or before.use_count != 1 or layer.stage != node.stage:
        return False
    build = Builder(graph, before=node, location=union((layer.location, node.location)), stage=node.stage)
    result = build(layer.op, build(node.op, before), *layer.operands[1:])
    return _replaced(graph, node, result)


def _turns_tokens(value: Value) -> bool:
    """Whether a transpose gives the value that leaves its features where they are."""
    op = value.op
    return isinstance(op, Transpose) and op.permutation[-1] == len(op.permutation) - 1


def _source(value: Value) -> Value:
    assert value.producer is not None
    return value.producer.inputs[0]


# Chains of views


@dataclass(eq=False)
class _Factor:
    """A factor of a source's axis; ``start`` is what a slice leaves out in front of it."""

    size: Dim
    whole: Dim
    start: int = 0


@dataclass
class _Factors:
    """``source`` and ``now`` are the factors of each axis of a source, and of what views make of it; sizes of 1 are left out."""

    source: list[list[_Factor]]
    now: list[list[_Factor]] = field(default_factory=list)

    def divide(self, factor: _Factor, outer: Dim) -> tuple[_Factor, _Factor] | None:
        """Put two factors in the place of one, in the source too."""
        if factor.size != factor.whole:
            return None
        pair = _Factor(outer, outer), _Factor(floordiv(factor.size, outer), floordiv(factor.size, outer))
        for axes in (self.source, self.now):
            for axis in axes:
                if factor in axis:
                    place = axis.index(factor)
                    axis[place : place + 1] = pair
        return pair


def _goes_on(node: Node) -> bool:
    """Whether a node is an inner one of a chain."""
    user = next(iter(node.result.users), None)
    return node.result.use_count == 1 and user is not None and isinstance(user.op, VIEWS) and user.stage == node.stage


def _shorten(graph: Graph, last: Node) -> bool:
    chain = [last]
    while len(chain) < LONGEST:
        before = chain[-1].inputs[0].producer
        if before is None or not isinstance(before.op, VIEWS) or before.stage != last.stage:
            break
        chain.append(before)
    while len(chain) > 1:
        source = chain[-1].inputs[0]
        own = next((count for count, (one, other) in enumerate(pairwise(chain), 1) if other.result.use_count > 1), len(chain))
        found = _shortest(source, chain, last.result.type.shape)
        if found is not None and len(found) < own:
            build = Builder(graph, before=last, location=union(node.location for node in chain), stage=last.stage)
            value = source
            for op in found:
                value = build(op, value)
            return _replaced(graph, last, value)
        chain.pop()  # perhaps without the first view
    return False


def _shortest(source: Value, chain: list[Node], shape: tuple[Dim, ...]) -> list[Reshape | Transpose | Slice] | None:
    """Views that give what ``chain``, last first, gives of ``source``; None where factors of axes do not tell."""
    if 0 in source.type.shape or 0 in shape:
        return None
    factors = _Factors([[_Factor(dim, dim)] if dim != 1 else [] for dim in source.type.shape])
    factors.now = [list(axis) for axis in factors.source]
    for node in reversed(chain):
        if not _follow(factors, node):
            return None
    found: list[Reshape | Transpose | Slice] = []
    sizes: list[Dim] = list(source.type.shape)
    for number, axis in enumerate(factors.source):
        cut = [factor for factor in axis if factor.size != factor.whole]
        if cut:
            if cut != axis[:1]:  # what is left lies in several pieces
                return None
            inner = product(factor.whole for factor in axis[1:])
            sizes[number] = cut[0].size * inner
            found.append(Slice(number, cut[0].start * inner, (cut[0].start + cut[0].size) * inner))
    place = {factor: number for number, axis in enumerate(factors.source) for factor in axis if factor.size != 1}
    blocks: list[list[_Factor]] = []
    following = {one: other for axis in factors.now for one, other in pairwise(axis)}
    for factor in place:
        previous = blocks[-1][-1] if blocks else None
        joined = previous is not None and following.get(previous) is factor and place[previous] == place[factor]
        if joined:
            blocks[-1].append(factor)
        else:
            blocks.append([factor])
    firsts = {block[0]: number for number, block in enumerate(blocks)}
    permutation = [firsts[factor] for axis in factors.now for factor in axis if factor in firsts]
    split = [product(factor.size for factor in block) for block in blocks]
    if permutation == sorted(permutation):
        return found if tuple(sizes) == shape else [*found, Reshape(shape)]
    return [*found, *_turned(split, permutation, tuple(sizes), shape)]


def _turned(split: list[Dim], permutation: list[int], sizes: tuple[Dim, ...], shape: tuple[Dim, ...]) -> list[Reshape | Transpose | Slice]:
    """Reshape, transpose, reshape; axes of size 1 go along where that saves a reshape."""
    if len(sizes) > len(split) and [size for size in sizes if size != 1] == split:
        kept = [axis for axis, size in enumerate(sizes) if size != 1]
        ones = [axis for axis, size in enumerate(sizes) if size == 1]
        order = iter(kept[number] for number in permutation)
        if sum(dim == 1 for dim in shape) == len(ones) and len(shape) == len(sizes):
            rest = iter(ones)
            whole = tuple(next(rest) if dim == 1 else next(order) for dim in shape)
            if tuple(sizes[axis] for axis in whole) == shape:
                return [Transpose(whole)]
    turned = tuple(split[number] for number in permutation)
    first = [Reshape(tuple(split))] if tuple(split) != sizes else []
    return [*first, Transpose(tuple(permutation)), *([Reshape(shape)] if turned != shape else [])]


def _follow(factors: _Factors, node: Node) -> bool:
    """What a view makes of the factors; False where they do not tell."""
    match node.op:
        case Transpose(permutation):
            factors.now = [factors.now[axis] for axis in permutation]
            return True
        case Slice(axis, start, stop, 1):
            if (start, stop) == (0, node.inputs[0].type.shape[axis]):
                return True
            if len(factors.now[axis]) != 1 or not isinstance(start, int) or not isinstance(stop, int) or stop <= start:
                return False
            (factor,) = factors.now[axis]
            factor.start, factor.size = factor.start + start, stop - start
            if factor.size == 1:
                factors.now[axis] = []
            return True
        case Reshape(shape):
            return _reshape(factors, shape)
        case _:
            return False


def _reshape(factors: _Factors, shape: tuple[Dim, ...]) -> bool:
    left = deque(factor for axis in factors.now for factor in axis)
    factors.now = [list(left)]
    axes: list[list[_Factor]] = []
    for dim in shape:
        axis: list[_Factor] = []
        need: Dim = dim
        while need != 1:
            if not left:
                return False
            factor = left.popleft()
            if factor.size == need or mod(need, factor.size) == 0:
                axis.append(factor)
                need = 1 if factor.size == need else floordiv(need, factor.size)
            elif mod(factor.size, need) == 0:
                pair = factors.divide(factor, need)
                if pair is None:
                    return False
                axis.append(pair[0])
                left.appendleft(pair[1])
                need = 1
            else:
                return False
        axes.append(axis)
    if left:
        return False
    factors.now = axes
    return True


# Slices that share a value out


def _share_out(graph: Graph, value: Value) -> bool:
    """Slices of a layer's features that are all of them become one split."""
    last = value.type.rank - 1
    slices = [user for user in value.users if isinstance(user.op, Slice)]
    if not isinstance(value.op, Linear) or len(slices) < 2 or len(slices) != value.use_count or len({node.stage for node in slices}) > 1:
        return False
    cuts: list[tuple[int, int, Node]] = []
    for node in slices:
        assert isinstance(node.op, Slice)
        if node.op.axis != last or node.op.step != 1 or not isinstance(node.op.start, int) or not isinstance(node.op.stop, int):
            return False
        cuts.append((node.op.start, node.op.stop, node))
    cuts.sort(key=lambda cut: cut[:2])
    if cuts[0][0] != 0 or cuts[-1][1] != value.type.shape[last] or any(one[1] != other[0] for one, other in pairwise(cuts)):
        return False
    following = value.producer._next if value.producer is not None else next(graph.nodes, None)
    build = Builder(graph, before=following, location=union(node.location for node in slices), stage=slices[0].stage)
    parts = build.all(Split(last, tuple(stop - start for start, stop, _ in cuts)), value)
    for part, (_, _, node) in zip(parts, cuts, strict=True):
        part.name = node.result.name
        graph.replace_uses(node.result, part)
        graph.erase(node)
    return True


def _replaced(graph: Graph, node: Node, value: Value) -> bool:
    value.name = value.name or node.result.name
    graph.replace_uses(node.result, value)
    erase_dead(graph, [node])
    return True
