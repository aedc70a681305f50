"""`assert_equivalent` passes what is equal, and names the node that is not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from cgptc.ir.comparison import first_difference, graph_depth, name_values
from cgptc.ir.graph import Graph
from cgptc.ir.parser import parse_graph
from cgptc.testing import assert_equivalent, graphs, t1_fault

BLOCK = """
graph @main(batch: 1..8) {
  input %x : f32[batch, 4]
  %h = layer_norm(%x) {eps=1e-05} loc("block.norm" "gpt.py":7)
  %g = gelu(%h) {approximate="none"} loc("block.act" "gpt.py":8)
  %y = add(%g, %x)
  return y=%y
}
"""


@settings(max_examples=settings().max_examples // 2)  # each takes tens of milliseconds
@given(graphs(stable=True))
def test_a_graph_is_equivalent_to_its_clone(graph: Graph) -> None:
    assert_equivalent(graph, graph.clone())


@pytest.mark.parametrize(
    ("old", "new", "node"),
    [
        ("1e-05", "1e-06", "%h = layer_norm(%x) {eps=1e-06} : f32[batch, 4]"),
        ('"none"', '"tanh"', '%g = gelu(%h) {approximate="tanh"} : f32[batch, 4]'),
        ("add(%g, %x)", "add(%g, %h)", "%y = add(%g, %h) : f32[batch, 4]"),
    ],
)
def test_a_seeded_bug_is_found_and_named(old: str, new: str, node: str) -> None:
    before = parse_graph(BLOCK)
    assert old in BLOCK
    with pytest.raises(AssertionError) as caught:
        assert_equivalent(before, parse_graph(BLOCK.replace(old, new)), seed=3)
    assert f"first difference: {node}" in str(caught.value)
    assert "seed 3" in str(caught.value)


def test_the_message_has_the_location_of_the_first_bad_node() -> None:
    with pytest.raises(AssertionError, match=r"from block\.act \(gpt\.py:8\)"):
        assert_equivalent(parse_graph(BLOCK), parse_graph(BLOCK.replace('"none"', '"tanh"')))


def test_other_outputs_are_a_difference() -> None:
    with pytest.raises(AssertionError, match=r"outputs differ: \['y'\] before, \['z'\] after"):
        assert_equivalent(parse_graph(BLOCK), parse_graph(BLOCK.replace("y=", "z=")))


def test_values_are_named_once_for_a_comparison_after_a_rewrite() -> None:
    graph = parse_graph(BLOCK.replace("%h", "%0").replace("%g", "%x#1"))
    name_values(graph)
    assert [value.name for node in graph.nodes for value in node.results] == ["v0", "v1", "y"]
    names = [value.name for node in graph.nodes for value in node.results]
    name_values(graph)
    assert names == [value.name for node in graph.nodes for value in node.results]


def test_equal_graphs_have_no_first_difference() -> None:
    graph = parse_graph(BLOCK)
    inputs = {"x": np.ones((2, 4), np.float32)}
    assert first_difference(graph, graph.clone(), inputs, lambda a, b: t1_fault(a, b, depth=1)) is None


def test_depth_counts_the_longest_path() -> None:
    assert graph_depth(parse_graph(BLOCK)) == 3
    assert graph_depth(Graph()) == 0
