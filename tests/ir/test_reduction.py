from __future__ import annotations

import pytest

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.ops import Add, Exp, Mul, Neg, Tanh
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


@pytest.mark.parametrize("guilty", [0, 100, 198])
def test_two_hundred_nodes_shrink_to_the_two_that_fail_within_few_questions(guilty: int) -> None:
    graph = long_graph(200, guilty)
    asked = 0

    def fails(candidate: Graph) -> bool:
        nonlocal asked
        asked += 1
        verify(candidate)
        return multiplies_an_exponential(candidate)

    text = str(graph)
    small = reduce_graph(graph, fails)
    assert small.node_count == 2
    assert multiplies_an_exponential(small)
    assert asked < 60
    assert str(graph) == text


def test_a_graph_that_does_not_fail_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fail"):
        reduce_graph(long_graph(10, 100), lambda graph: any(isinstance(node.op, Tanh) for node in graph.nodes))


def test_the_number_of_questions_is_bounded() -> None:
    asked = 0

    def fails(candidate: Graph) -> bool:
        nonlocal asked
        asked += 1
        return multiplies_an_exponential(candidate)

    assert multiplies_an_exponential(reduce_graph(long_graph(200, 100), fails, limit=5))
    assert asked == 5
