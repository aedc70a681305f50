"""A composite op and its decomposition are two definitions of one thing, anywhere in a graph."""

from __future__ import annotations

from hypothesis import given, settings

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph
from cgptc.ir.op import is_composite
from cgptc.ir.verify import verify
from cgptc.testing import assert_equivalent, graphs
from cgptc.testing.sample_register import STABLE

COMPOSITES = [op for op in STABLE if is_composite(op)]


def decomposed(graph: Graph) -> Graph:
    """A copy in which every composite op is spelled out, once."""
    copy = graph.clone()
    for node in copy.nodes:
        if is_composite(node.op):
            spelled = node.op.decompose(Builder(copy, node, node.location, node.stage), *node.operands)
            assert spelled is not None
            for old, new in zip(node.results, spelled if isinstance(spelled, tuple) else (spelled,), strict=True):
                copy.replace_uses(old, new)
            copy.erase(node)
    return copy


@settings(max_examples=settings().max_examples // 2)  # each takes tens of milliseconds
@given(graphs(stable=True))
def test_a_graph_and_its_decomposition_are_equivalent(graph: Graph) -> None:
    spelled = decomposed(graph)
    verify(spelled)
    assert_equivalent(graph, spelled)


@settings(max_examples=settings().max_examples // 2)  # each takes tens of milliseconds
@given(graphs(stable=True, ops=COMPOSITES, max_nodes=3))
def test_composites_on_top_of_each_other_are_equivalent_to_their_decompositions(graph: Graph) -> None:
    spelled = decomposed(graph)
    verify(spelled)
    assert_equivalent(graph, spelled)
