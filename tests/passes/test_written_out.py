"""Norms and activations written out in ways that do not fuse say why; constants count as what their type makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from cgptc.driver.numeric_check import numeric_check
from cgptc.ir import ops
from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import DType, f32, f64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.types import TensorType
from cgptc.passes.manager import PassContext, Pipeline

PIPELINE = "canonicalize,cse,fuse-activations,fuse-norms"


def written(spelling: Callable[[Builder, Value], Value], dtype: DType = f32) -> tuple[Graph, PassContext]:
    """The graph after the passes, which are held to keep its meaning, and what they said."""
    graph, context = Graph(), PassContext()
    x = graph.add_input("x", TensorType(dtype, (2, 3, 8)))
    graph.add_output("y", spelling(Builder(graph), x))
    Pipeline.parse(PIPELINE).run(graph, context, [numeric_check()])
    return graph, context


def mean(build: Builder, value: Value, axis: int = 2) -> Value:
    return build(ops.ReduceMean((axis,), True), value)


def squares(build: Builder, x: Value) -> Value:
    return build(ops.Mul(), x, x)


def near(build: Builder, value: Value, number: float = 1e-5) -> Value:
    return build(ops.Add(), value, build.constant(number, value.type.dtype))


def centred(build: Builder, x: Value) -> Value:
    return build(ops.Sub(), x, mean(build, x))


def spread(build: Builder, x: Value, count: float) -> Value:
    total = build(ops.ReduceSum((2,), True), squares(build, centred(build, x)))
    return build(ops.Div(), total, build.constant(count))


def difference_of_means(build: Builder, x: Value) -> Value:
    return build(ops.Sub(), mean(build, squares(build, x)), squares(build, mean(build, x)))


LEFT: dict[str, tuple[str, Callable[[Builder, Value], Value], str]] = {
    "eps outside of the root": (
        "rms-norm",
        lambda b, x: b(ops.Div(), x, near(b, b(ops.Sqrt(), mean(b, squares(b, x))))),
        "'eps' is not added to the mean below the root, whose result goes to 'add'",
    ),
    "another axis": (
        "rms-norm",
        lambda b, x: b(ops.Mul(), x, b(ops.Rsqrt(), near(b, mean(b, squares(b, x), 1)))),
        "its mean runs over axis 1 of 3, not the last",
    ),
    "an eps that is computed": (
        "rms-norm",
        lambda b, x: b(ops.Mul(), x, b(ops.Rsqrt(), b(ops.Add(), mean(b, squares(b, x)), b(ops.Abs(), mean(b, x))))),
        "what is added below the root is f32[2, 3, 1]",
    ),
    "another use of the root": (
        "rms-norm",
        lambda b, x: b(ops.Mul(), b(ops.Neg(), x), b(ops.Rsqrt(), near(b, mean(b, squares(b, x))))),
        "its root goes to 'mul', not to a product or a quotient with what was squared",
    ),
    "an unbiased variance": (
        "layer-norm",
        lambda b, x: b(ops.Div(), centred(b, x), b(ops.Sqrt(), near(b, spread(b, x, 7.0)))),
        "its sum of squares over 8 is not divided by their number",
    ),
    "a difference of means": (
        "layer-norm",
        lambda b, x: b(ops.Mul(), centred(b, x), b(ops.Rsqrt(), near(b, difference_of_means(b, x), 1.0))),
        "its variance is a difference of means",
    ),
    "a quick gelu": (
        "gelu",
        lambda b, x: b(ops.Mul(), x, b(ops.Sigmoid(), b(ops.Mul(), b.constant(1.702), x))),
        "x * sigmoid(1.702 * x) is another function than gelu",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_of_a_norm_or_an_activation_says_why(name: str) -> None:
    subject, spelling, reason = LEFT[name]
    graph, context = written(spelling)
    assert not any(isinstance(node.op, ops.LayerNorm | ops.RmsNorm | ops.Gelu) for node in graph.nodes)
    (event,) = context.findings("missed")
    assert event.subject == subject
    assert reason in event.reason


def test_a_variance_that_divides_by_all_is_a_norms() -> None:
    graph, context = written(lambda b, x: b(ops.Div(), centred(b, x), b(ops.Sqrt(), near(b, spread(b, x, 8.0)))))
    assert [type(node.op) for node in graph.nodes if not isinstance(node.op, ops.Constant)] == [ops.LayerNorm]
    assert not context.findings("missed")


def gelu(factor: float) -> Callable[[Builder, Value], Value]:
    def spelling(build: Builder, x: Value) -> Value:
        def number(value: float) -> Value:
            return build.constant(value, x.type.dtype)

        inner = build(ops.Add(), number(1.0), build(ops.Mul(), number(0.044715), squares(build, x)))
        bent = build(ops.Tanh(), build(ops.Mul(), build(ops.Mul(), number(factor), x), inner))
        return build(ops.Mul(), build(ops.Mul(), number(0.5), x), build(ops.Add(), bent, number(1.0)))

    return spelling


EXACT, PRINTED, COARSE = math.sqrt(2 / math.pi), 0.79788456, 0.7979


@pytest.mark.parametrize(
    ("factor", "dtype", "fuses"),
    [(EXACT, f32, True), (PRINTED, f32, True), (COARSE, f32, False), (EXACT, f64, True), (PRINTED, f64, False)],
)
def test_a_constant_is_known_to_the_precision_of_its_type(factor: float, dtype: DType, fuses: bool) -> None:
    graph, context = written(gelu(factor), dtype)
    assert any(isinstance(node.op, ops.Gelu) for node in graph.nodes) == fuses
    assert [f"got {factor:.10g}" in event.reason for event in context.findings("missed")] == [True] * (not fuses)


def test_a_root_that_the_model_computes_is_a_number() -> None:
    """``torch.sqrt(torch.tensor(2.0 / torch.pi))`` is a unit of float32 off."""
    assert float(np.sqrt(np.float32(2 / math.pi))) != float(np.float32(EXACT))
    graph, _ = written(gelu(float(np.sqrt(np.float32(2 / math.pi)))))
    assert any(isinstance(node.op, ops.Gelu) for node in graph.nodes)
