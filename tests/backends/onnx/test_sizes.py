"""Sizes computed inside the model from its inputs' shapes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.backends.onnx.execution import ORT, model_of, run, session_of

from cgptc.backends.onnx.lowering import lower
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, Symbol, evaluate, floordiv, maximum, minimum, mod
from cgptc.ir.dtypes import f16, f32, i32, i64
from cgptc.ir.graph import Graph
from cgptc.ir.ops.constant import DimSize, Iota
from cgptc.ir.ops.shape import Expand
from cgptc.ir.types import TensorType

A, B, C = Symbol("a", 1, 16), Symbol("b", 1, 16), Symbol("c", 0, 16)


def dims() -> st.SearchStrategy[Dim]:
    """Expressions over a, b and c."""
    leaves: st.SearchStrategy[Dim] = st.one_of(st.sampled_from([A.dim, B.dim, C.dim]), st.integers(-5, 5))
    positive = st.integers(1, 4)
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda pair: pair[0] + pair[1]),
            st.tuples(inner, inner).map(lambda pair: pair[0] - pair[1]),
            st.tuples(inner, inner).map(lambda pair: pair[0] * pair[1]),
            st.tuples(inner, positive).map(lambda pair: floordiv(*pair)),
            st.tuples(inner, positive).map(lambda pair: mod(*pair)),
            st.tuples(inner, inner).map(lambda pair: maximum(*pair)),
            st.tuples(inner, inner).map(lambda pair: minimum(*pair)),
        ),
        max_leaves=5,
    )


def graph_over_symbols() -> Graph:
    """``c`` is known only from the sum ``c + b``."""
    graph = Graph("sizes")
    graph.add_input("x", TensorType(f32, (A.dim, C.dim + B.dim)))
    graph.add_input("y", TensorType(f32, (3, B.dim)))
    return graph


@given(dims(), st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(0, 9)))
def test_any_expression_is_computed(dim: Dim, sizes: tuple[int, int, int]) -> None:
    a, b, c = sizes
    graph = graph_over_symbols()
    graph.add_output("size", Builder(graph)(DimSize(dim)))
    given_inputs = {"x": np.zeros((a, c + b), np.float32), "y": np.zeros((3, b), np.float32)}
    (size,) = run(session_of(model_of(graph, ORT)), given_inputs)
    assert size.shape == ()
    assert size == evaluate(dim, {"a": a, "b": b, "c": c})


@pytest.mark.parametrize("dtype", [i64, i32, f32, f16], ids=str)
def test_iota_and_size_take_any_type(dtype: object) -> None:
    graph = graph_over_symbols()
    build = Builder(graph)
    graph.add_output("range", build(Iota(A.dim + C.dim, dtype)))  # type: ignore[arg-type]
    graph.add_output("fixed", build(Iota(3, dtype)))  # type: ignore[arg-type]
    graph.add_output("size", build(DimSize(C.dim, dtype)))  # type: ignore[arg-type]
    session = session_of(model_of(graph, ORT))
    for a, b, c in ((2, 3, 4), (1, 1, 0)):
        given_inputs = {"x": np.zeros((a, c + b), np.float32), "y": np.zeros((3, b), np.float32)}
        outputs = session.run(given_inputs)
        assert outputs["range"].tolist() == list(range(a + c))
        assert outputs["fixed"].tolist() == [0, 1, 2]
        assert outputs["size"] == c
        assert {str(array.dtype) for array in outputs.values()} == {str(dtype.numpy)}  # type: ignore[attr-defined]


def test_size_that_no_input_tells_is_refused() -> None:
    graph = Graph("unknown")
    graph.add_input("x", TensorType(f32, (A.dim * B.dim,)))
    graph.add_output("size", Builder(graph)(DimSize(A.dim)))
    (refusal,) = lower(graph, ORT).refusals
    assert "no input's shape tells the size of 'a'" in refusal.reason


def test_each_size_is_computed_once() -> None:
    graph = graph_over_symbols()
    build = Builder(graph)
    for index in range(3):
        one = build.constant(np.ones((1, 1), np.float32))
        graph.add_output(f"y{index}", build(Expand((A.dim, C.dim)), one))
    model = model_of(graph, ORT)
    assert sum(node.op_type == "Sub" for node in model.graph.node) == 1
    assert sum(node.op_type == "Shape" for node in model.graph.node) == 3
