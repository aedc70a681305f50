"""Passes do near-linear work, on graphs as deep as they come, without recursion over the graph."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from tests.passes.attention_graphs import Spelling, decoder
from tests.passes.rotary_graphs import Spelling as RotarySpelling
from tests.passes.rotary_graphs import rotation
from tests.passes.test_large_graphs import lines_run

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph
from cgptc.ir.ops import Rotary, Tanh
from cgptc.passes.manager import PassContext, Pipeline

FUSION = (
    "canonicalize,cse,fuse-linear,fuse-activations,fuse-norms,fuse-embedding,fuse-attention,sink-reshapes,fuse-rotary,normalize-masks,"
    "dead-code"
)


@pytest.fixture
def shallow_stack() -> Iterator[None]:
    """What is called from here on may go 150 frames deeper, whatever the test runner took."""
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 150)
    yield
    sys.setrecursionlimit(before)


def work(name: str, graph: Graph) -> tuple[int, int]:
    """What a pass counts, and the lines of Python that it runs."""
    context = PassContext()
    lines = lines_run(lambda: Pipeline.parse(name).run(graph, context))
    return context.counters.get("nodes visited", 0) + context.counters.get("patterns tried", 0), lines


@pytest.mark.parametrize("name", FUSION.split(","))
def test_twice_the_layers_are_at_most_a_little_more_than_twice_the_work(name: str) -> None:
    small, large = (work(name, decoder(Spelling(layers=layers))) for layers in (3, 6))
    for less, more in zip(small, large, strict=True):
        assert 0 < more <= 2.3 * less


def test_a_rotation_at_the_end_of_a_long_chain_is_found_without_recursion(shallow_stack: None) -> None:
    graph = rotation(RotarySpelling("rotate"))
    y = graph.output("y")
    build = Builder(graph)
    for _ in range(3000):
        y = build(Tanh(), y)
    graph.set_outputs([("y", y)])
    Pipeline.parse(FUSION).run(graph)
    assert sum(isinstance(node.op, Rotary) for node in graph.nodes) == 1
    assert sum(isinstance(node.op, Tanh) for node in graph.nodes) == 3000
