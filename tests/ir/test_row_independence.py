"""Which graphs may take the rows of a batch one after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph, Value
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.constant import DimSize, Iota
from cgptc.ir.ops.elementwise import Cast, Neg
from cgptc.ir.ops.reduction import ReduceSum, Softmax
from cgptc.ir.ops.shape import Expand, Reshape, Transpose
from cgptc.ir.row_independence import rows_are_independent
from cgptc.ir.types import TensorType

batch = Symbol("batch", 1, 8)


def graph_of(make: Callable[[Builder, Value], Value]) -> Graph:
    graph = Graph()
    x = graph.add_input("x", TensorType(f32, (batch.dim, 4)))
    graph.add_output("y", make(Builder(graph), x))
    return graph


@pytest.mark.parametrize(
    "make",
    [
        lambda build, x: build(Neg(), x),
        lambda build, x: build(Transpose((1, 0)), build(Softmax(1), x)),
        lambda build, x: build(Add(), x, build(Iota(4, f32))),
        lambda build, x: build(Reshape((batch.dim, 2, 2)), x),
    ],
    ids=["each element", "within a row", "a constant beside", "a row reshaped"],
)
def test_rows_that_do_not_meet_may_go_apart(make: Callable[[Builder, Value], Value]) -> None:
    assert rows_are_independent(graph_of(make))


@pytest.mark.parametrize(
    "make",
    [
        lambda build, x: build(Softmax(0), x),
        lambda build, x: build(Add(), x, build(ReduceSum((0,), True), x)),
        lambda build, x: build(Reshape((batch.dim * 4,)), x),
        lambda build, x: build(Add(), x, build(Expand((batch.dim, 4)), build(Cast(f32), build(DimSize(batch.dim))))),
        lambda build, x: build(Add(), build(Transpose((1, 0)), x), build(Iota(batch.dim, f32))),
        lambda build, x: build(ReduceSum((0,), False), x),
    ],
    ids=["over rows", "a sum of rows", "rows in one", "their number", "their places", "no rows left"],
)
def test_rows_that_meet_stay_together(make: Callable[[Builder, Value], Value]) -> None:
    assert not rows_are_independent(graph_of(make))
