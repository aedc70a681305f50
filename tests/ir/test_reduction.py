from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.ops import Abs, Add, Attention, Exp, Gelu, Mul, Neg, Sin, Tanh
from cgptc.ir.reduction import reduce_graph
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify


def long_graph(node_count: int, guilty: int) -> Graph:
    """Two interleaved chains; one node is an exp that feeds a multiplication."""
    graph = Graph()
    build = Builder(graph)
    left = right = graph.add_input("x", TensorType(f32, (Symbol("batch", 1, 8).dim, 4)))
    while graph.node_count < node_count:
        if graph.node_count == guilty:
            right = build(Mul(), build(Exp(), left), right)
        left, right = build(Neg(), right), build(Add(), left, right)
    graph.add_output("a", left)
    graph.add_output("b", right)
    return graph


def multiplies_an_exponential(graph: Graph) -> bool:
    return any(isinstance(node.op, Mul) and any(isinstance(value.op, Exp) for value in node.inputs) for node in graph.nodes)


class Asked:
    """A predicate that holds every graph it is asked about to the rules, and counts them."""

    def __init__(self, predicate: Callable[[Graph], bool]) -> None:
        self.predicate = predicate
        self.count = 0

    def __call__(self, graph: Graph) -> bool:
        self.count += 1
        verify(graph)
        return self.predicate(graph)


@pytest.mark.parametrize("guilty", [0, 100, 198])
def test_two_hundred_nodes_shrink_to_the_two_that_fail_within_few_questions(guilty: int) -> None:
    graph = long_graph(200, guilty)
    fails = Asked(multiplies_an_exponential)
    text = str(graph)
    small = reduce_graph(graph, fails)
    assert small.node_count == 2
    assert multiplies_an_exponential(small)
    assert fails.count < 20
    assert str(graph) == text


def test_one_guilty_node_of_a_gpt_is_found_by_halving() -> None:
    graph = TinyGpt(layers=6).graph()
    assert graph.node_count > 200
    fails = Asked(lambda candidate: "transformer.h.2.mlp" in {node.location.path for node in candidate.nodes if isinstance(node.op, Gelu)})
    small = reduce_graph(graph, fails)
    assert [node.op.name for node in small.nodes] == ["gelu"]
    assert fails.count <= 14


def test_two_guilty_nodes_far_apart_are_left_without_what_lies_between() -> None:
    graph = TinyGpt(layers=6).graph()
    wanted = {"transformer.h.0.attn", "transformer.h.5.attn"}
    fails = Asked(lambda candidate: wanted <= {node.location.path for node in candidate.nodes if isinstance(node.op, Attention)})
    small = reduce_graph(graph, fails)
    assert [node.op.name for node in small.nodes] == ["attention", "attention"]
    assert fails.count <= 30


def test_nodes_that_no_value_connects_are_left_together() -> None:
    graph = long_graph(200, 100)
    fails = Asked(lambda candidate: sum(isinstance(node.op, Neg) for node in candidate.nodes) > 2)
    assert [node.op.name for node in reduce_graph(graph, fails).nodes] == ["neg", "neg", "neg"]


def test_a_node_that_only_a_larger_graph_needed_is_spared() -> None:
    graph = Graph()
    value = graph.add_input("x", TensorType(f32, (4,)))
    for op in (Neg(), Exp(), Tanh(), Abs(), Sin()):
        value = Builder(graph)(op, value)
    graph.add_output("y", value)
    showing = [{"neg", "exp", "tanh", "abs", "sin"}, {"neg", "exp", "sin"}, {"exp", "sin"}]
    small = reduce_graph(graph, Asked(lambda candidate: {node.op.name for node in candidate.nodes} in showing))
    assert [node.op.name for node in small.nodes] == ["exp", "sin"]


def test_a_graph_that_does_not_fail_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fail"):
        reduce_graph(long_graph(10, 100), lambda graph: any(isinstance(node.op, Tanh) for node in graph.nodes))


def test_a_failure_of_what_nothing_uses_leaves_the_graph_as_it_is() -> None:
    graph = long_graph(10, 3)
    graph.add_input("unused", TensorType(f32, (4,)))
    small = reduce_graph(graph, lambda candidate: any(value.name == "unused" for value in candidate.inputs))
    assert str(small) == str(graph)


def test_the_number_of_questions_is_bounded() -> None:
    fails = Asked(multiplies_an_exponential)
    assert multiplies_an_exponential(reduce_graph(long_graph(200, 100), fails, limit=5))
    assert fails.count == 6
