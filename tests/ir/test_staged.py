"""Staged graphs: their edges, their rules, and the graphs of single stages."""

from __future__ import annotations

import numpy as np
import pytest

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import VerifyError
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.elementwise import Neg, Sin
from cgptc.ir.ops.shape import Expand
from cgptc.ir.parser import parse_graph
from cgptc.ir.stage_graphs import stage_graph
from cgptc.ir.staged import Staged
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify

batch, past = Symbol("batch", 1, 8), Symbol("past", 0, 8)


def three_stages() -> Graph:
    """``sin(-x) + -x`` where ``-x`` skips the stage of ``sin``; the last stage needs a size that no value it takes has."""
    graph = Graph("skip")
    x = graph.add_input("x", TensorType(f32, (batch.dim, 4)))
    graph.add_input("cache", TensorType(f32, (past.dim,)))
    build = Builder(graph, stage=0)
    negative = build(Neg(), x)
    build.stage = 1
    wave = build(Sin(), negative)
    graph.add_output("wave", wave)
    build.stage = 2
    total = build(Add(), wave, negative)
    graph.add_output("total", build(Expand((past.dim + 1, batch.dim, 4)), total))
    return graph


def chained(graph: Graph, inputs: dict[str, Array]) -> dict[str, Array]:
    """The graph's outputs, stage by stage."""
    staged = Staged.of(graph)
    known = dict(inputs)
    for index in range(len(staged.stages)):
        part = stage_graph(staged, index)
        verify(part)
        known |= evaluate_graph(part, {value.name: known[value.name] for value in part.inputs})
    return {name: known[name] for name, _ in graph.outputs}


def test_an_edge_is_as_deep_as_the_stages_that_it_spans() -> None:
    graph = three_stages()
    verify(graph)
    edges = Staged.of(graph).edges
    assert [(edge.producer, edge.consumers, edge.depth) for edge in edges] == [(0, (1, 2), 3), (1, (2,), 2)]


def test_stages_one_after_the_other_give_what_the_graph_gives() -> None:
    graph = three_stages()
    inputs = {"x": np.arange(8, dtype=np.float32).reshape(2, 4), "cache": np.zeros(3, np.float32)}
    expected = evaluate_graph(graph, inputs)
    found = chained(graph, inputs)
    assert list(found) == ["wave", "total"]
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_stage_takes_an_input_for_its_size_and_the_first_takes_what_nobody_uses() -> None:
    staged = Staged.of(three_stages())
    assert [[value.name for value in stage.inputs] for stage in staged.stages] == [["x", "cache"], [], ["cache"]]


def test_stages_survive_the_text_form() -> None:
    graph = three_stages()
    again = parse_graph(str(graph))
    assert [node.stage for node in again.nodes] == [0, 1, 2, 2]
    verify(again)


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ((0, None, 1, 1), "has no stage"),
        ((None, 0, 0, 0), "has a stage"),
        ((1, 0, 1, 1), "of stage 0 uses a value of stage 1"),
    ],
)
def test_the_verifier_refuses_stages_that_are_not_in_order(stages: tuple[int | None, ...], fault: str) -> None:
    graph = three_stages()
    for node, stage in zip(graph.nodes, stages, strict=True):
        graph.set_stage(node, stage)
    with pytest.raises(VerifyError, match=fault):
        verify(graph)


@pytest.mark.parametrize(("stages", "fault"), [((None,) * 4, "has none"), ((0, 2, 2, 2), "stage 1 has no node")])
def test_a_graph_without_all_its_stages_is_not_staged(stages: tuple[int | None, ...], fault: str) -> None:
    graph = three_stages()
    for node, stage in zip(graph.nodes, stages, strict=True):
        graph.set_stage(node, stage)
    with pytest.raises(VerifyError, match=fault):
        Staged.of(graph)
