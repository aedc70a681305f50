"""Graphs of 20,000 nodes: no pass recurses over them, and twice the graph is about twice the work."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph, Value
from cgptc.ir.ops import Add, Concat, Neg, Relu
from cgptc.ir.types import TensorType
from cgptc.passes.manager import PassContext
from cgptc.testing.pipeline_strategies import optional_passes

NODES = 20_000
LIMIT = 200
"""Frames that a pass may stack."""


@contextmanager
def few_frames() -> Iterator[None]:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + LIMIT)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def chain(count: int) -> Graph:
    """Every node takes the one before."""
    graph = Graph()
    build = Builder(graph)
    first = value = graph.add_input("x", TensorType(f32, (2,)))
    for number in range(count):
        value = build(Add(), value, first) if number % 3 else build(Relu(), value)
    graph.add_output("y", value)
    return graph


def fan(count: int) -> Graph:
    """One node takes all others."""
    graph = Graph()
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2,)))
    parts: list[Value] = [build(Neg(), x) for _ in range(count)]
    graph.add_output("y", build(Concat(0), *parts))
    return graph


@pytest.mark.parametrize("make", [chain, fan])
def test_every_optional_pass_takes_a_large_graph_without_deep_recursion(make: Callable[[int], Graph]) -> None:
    graph = make(NODES)
    for cls in optional_passes():
        with few_frames():
            cls().run(graph, PassContext())


@pytest.mark.parametrize("make", [chain, fan])
def test_twice_the_graph_is_at_most_little_more_than_twice_the_work(make: Callable[[int], Graph]) -> None:
    def work(count: int) -> dict[str, int]:
        context = PassContext()
        for cls in optional_passes():
            cls().run(make(count), context)
        return context.counters

    once, twice = work(300), work(600)
    assert once["nodes visited"] >= 300
    for name in ("nodes visited", "patterns tried"):
        assert twice[name] <= 2.3 * once[name]
