from __future__ import annotations

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.ops import Add, Mul, Sub
from cgptc.ir.types import TensorType
from cgptc.passes.manager import Pipeline


def twice(commutes: bool) -> Graph:
    """``(a ∘ b) * (b ∘ a)``."""
    graph = Graph()
    build = Builder(graph)
    a, b = (graph.add_input(name, TensorType(f32, (2,))) for name in "ab")
    op = Add() if commutes else Sub()
    graph.add_output("y", build(Mul(), build(op, a, b), build(op, b, a)))
    return graph


def test_a_sum_the_other_way_round_is_the_same_sum() -> None:
    assert Pipeline.parse("cse").run(twice(commutes=True)).node_count == 2


def test_a_difference_the_other_way_round_is_another() -> None:
    assert Pipeline.parse("cse").run(twice(commutes=False)).node_count == 3
