"""Graphs of 20,000 nodes: no pass recurses over them, and twice the graph is about twice the work."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

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
SMALL = 60
OURS = [cls for cls in optional_passes() if cls.__module__.startswith("cgptc.")]
"""Other tests declare passes too."""

TraceFunction = Callable[[FrameType, str, Any], Any]


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
    for cls in OURS:
        with few_frames():
            cls().run(graph, PassContext())


def lines_run(work: Callable[[], object]) -> int:
    """How many lines of Python run, each turn of a loop anew: a count of work that needs neither a clock nor a counter of ours."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> TraceFunction:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("make", [chain, fan])
def test_twice_the_graph_is_at_most_little_more_than_twice_the_work_of_each_pass(make: Callable[[int], Graph]) -> None:
    for cls in OURS:
        once, twice = (make(count) for count in (SMALL, 2 * SMALL))
        less, more = PassContext(), PassContext()
        once_lines, twice_lines = lines_run(lambda: cls().run(once, less)), lines_run(lambda: cls().run(twice, more))  # noqa: B023
        assert once_lines > SMALL, cls.name
        assert twice_lines <= 2.3 * once_lines, cls.name
        for name in ("nodes visited", "patterns tried"):
            assert more.counters.get(name, 0) <= 2.3 * less.counters.get(name, 0), (cls.name, name)


def test_the_count_of_work_grows_with_every_turn_of_a_loop() -> None:
    few, many = (lines_run(lambda: [x for x in range(count) if x < 0]) for count in (100, 1000))  # noqa: B023
    assert 900 <= many - few <= 2000
