"""Zeros that become smaller matrices: dead neurons and dead heads go, with what feeds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Shape
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.shape import Reshape, Split
from cgptc.ir.sparsity import sparsity_of
from cgptc.ir.weight_expressions import taken
from cgptc.ir.weights import EMPTY_STORE, Dense, WeightStore
from cgptc.passes.hidden_features import Heads, Neurons, Source, all_heads, all_neurons, spread, width_of
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead
from cgptc.passes.weight_names import weight_of


@dataclass(frozen=True)
class RemoveDead(Pass, name="remove-dead", optional=False):
    """Remove neurons, and whole groups of heads, whose outputs the next layer multiplies by zeros, as its weight's pattern says.

    The layers that gave them lose the outputs, their biases too; a cache holds the heads that are left.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = False
        for neurons in all_neurons(graph):
            context.count("nodes visited")
            alive = living_rows(neurons.down, graph.store)
            if alive is not None and len(alive) < neurons.width:
                _remove_neurons(graph, neurons, alive or [0])
                context.done("neurons", neurons.down.location, f"{len(alive)} of {neurons.width} are left")
                changed = True
        for found in all_heads(graph).values():
            context.count("nodes visited")
            if isinstance(found, str):
                continue
            alive = living_groups(found, graph.store)
            if alive is not None and len(alive) < found.key_heads:
                _remove_heads(graph, found, alive or [0])
                context.done("heads", found.attention.location, f"{len(alive) * found.group} of {found.heads} are left")
                changed = True
        return changed


def living_rows(layer: Node, store: WeightStore) -> list[int] | None:
    """Rows of a layer's weight that are not zero throughout, None where its pattern does not tell. Only the mask is read."""
    weight = weight_of(layer, 1)
    assert weight is not None
    known = sparsity_of(weight)
    if known.kind != "rows" or known.mask is None or (store is EMPTY_STORE and not isinstance(known.mask, Dense)):
        return None
    return [int(place) for place in np.flatnonzero(known.mask.read(store))]


def living_groups(heads: Heads, store: WeightStore) -> list[int] | None:
    """Groups of heads of which some row of the projection is not zero."""
    rows = living_rows(heads.projection, store)
    if rows is None:
        return None
    width = width_of(heads.projection.inputs[0]) // heads.key_heads
    return sorted({row // width for row in rows})


def _remove_neurons(graph: Graph, neurons: Neurons, alive: Sequence[int]) -> None:
    _shrink_sources(graph, dict.fromkeys(neurons.sources, alive))
    for node, index in neurons.vectors:
        _take(graph, node, index, 0, alive)
    for node in neurons.between:
        graph.reinfer(node)
    _take(graph, neurons.down, 1, 0, alive)
    graph.reinfer(neurons.down)


def _remove_heads(graph: Graph, heads: Heads, groups: Sequence[int]) -> None:
    query, key, value = heads.sources
    depth = (query.stop - query.start) // heads.heads
    key_depth, value_depth = ((each.stop - each.start) // heads.key_heads for each in (key, value))
    _shrink_sources(
        graph,
        {query: spread(groups, heads.group * depth), key: spread(groups, key_depth), value: spread(groups, value_depth)},
    )
    for operand in heads.attention.operands[4:]:
        if operand is not None:
            batch, _, *rest = operand.type.shape
            graph.set_input_type(operand, operand.type.with_shape((batch, len(groups), *rest)))
    counts = {heads.heads: len(groups) * heads.group, heads.key_heads: len(groups)}
    for node in (*heads.before, heads.attention, *heads.after):
        if node in heads.reshapes:
            count = heads.reshapes[node]
            graph.set_op(node, Reshape(_fewer(node, count, counts[count])))
        else:
            graph.reinfer(node)
    _take(graph, heads.projection, 1, 0, spread(groups, heads.group * value_depth))
    graph.reinfer(heads.projection)


def _fewer(node: Node, count: int, left: int) -> Shape:
    """The shape of a reshape that splits the last axis into heads, or merges them into it, with fewer heads."""
    *leading, last = node.result.type.shape
    if node.result.type.rank > node.inputs[0].type.rank:
        return (*leading[:-1], left, last)
    assert isinstance(last, int)
    return (*leading, last // count * left)


def _shrink_sources(graph: Graph, kept: Mapping[Source, Sequence[int]]) -> None:
    """Keep some outputs of each source: columns of its layer's weight, elements of its bias, and the split's sizes with them."""
    by_layer: dict[Node, dict[Value, tuple[Source, Sequence[int]]]] = {}
    for source, features in kept.items():
        by_layer.setdefault(source.linear, {})[source.value] = (source, features)
    for layer, parts in by_layer.items():
        split = None if layer.result in parts else next(iter(parts)).producer
        columns: list[int] = []
        sizes: list[int] = []
        start = 0
        for value in split.results if split is not None else layer.results:
            width = width_of(value)
            features = parts[value][1] if value in parts else range(width)
            columns += [start + feature for feature in features]
            sizes.append(len(features))
            start += width
        _take(graph, layer, 1, 1, columns)
        if len(layer.operands) > 2 and layer.operands[2] is not None:
            _take(graph, layer, 2, 0, columns)
        graph.reinfer(layer)
        if split is not None:
            assert isinstance(split.op, Split)
            graph.set_op(split, Split(split.op.axis, tuple(sizes)))


def _take(graph: Graph, node: Node, index: int, axis: int, kept: Sequence[int]) -> None:
    """Give an operand some of its elements along an axis; a computed one by a gather."""
    weight = weight_of(node, index)
    build = Builder(graph, before=node, location=node.location, stage=node.stage)
    old = node.operands[index]
    assert old is not None
    if weight is None:
        new = build(Gather(axis), old, build.constant(np.asarray(kept, np.int64)))
    else:
        new = build.weight(taken(weight, axis, kept))
    new.name = old.name
    graph.set_operand(node, index, new)
    if old.producer is not None:
        erase_dead(graph, [old.producer])
