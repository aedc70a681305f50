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

PIPELINE = "canonicalize,cse,fuse-activations,fuse-norms,fuse-softmax,dead-code"


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


def centred(build: Builder, x: Value, axis: int = 2) -> Value:
    return build(ops.Sub(), x, mean(build, x, axis))


def spread(build: Builder, x: Value, count: float) -> Value:
    total = build(ops.ReduceSum((2,), True), squares(build, centred(build, x)))
    return build(ops.Div(), total, build.constant(count))


def difference_of_means(build: Builder, x: Value) -> Value:
    return build(ops.Sub(), mean(build, squares(build, x)), squares(build, mean(build, x)))


def length(build: Builder, x: Value) -> Value:
    """As ``x.norm(dim=-1, keepdim=True)`` is imported."""
    return build(ops.Sqrt(), build(ops.ReduceSum((2,), True), squares(build, x)))


def unit(build: Builder, x: Value) -> Value:
    """As ``normalize(x, dim=-1)`` is imported."""
    return build(ops.Div(), x, build(ops.Expand(x.type.shape), build(ops.Maximum(), length(build, x), build.constant(1e-12))))


def times(build: Builder, value: Value, number: float) -> Value:
    return build(ops.Mul(), value, build.constant(number))


def erf_gelu(build: Builder, x: Value, half: Value) -> Value:
    bent = build(ops.Erf(), times(build, x, 2**-0.5))
    return build(ops.Mul(), build(ops.Mul(), half, x), build(ops.Add(), bent, build.constant(1.0)))


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
    "a length, with eps added to it": (
        "rms-norm",
        lambda b, x: b(ops.Div(), x, near(b, times(b, length(b, x), 8**-0.5))),
        "it divides by the length of the vector: 1e-05 is added to it, not to the mean of squares",
    ),
    "a length with a floor": (
        "rms-norm",
        lambda b, x: times(b, unit(b, x), 8**0.5),
        "it divides by the length of the vector: it is at least 1e-12, where a norm adds 'eps'",
    ),
    "a length alone": (
        "rms-norm",
        lambda b, x: b(ops.Div(), x, times(b, length(b, x), 8**-0.5)),
        "it divides by the length of the vector: no 'eps' below the root",
    ),
    "a gelu with a half of higher rank": (
        "gelu",
        lambda b, x: erf_gelu(b, x, b.constant(np.full((1, 1, 1, 1), 0.5, np.float32))),
        "the result would be f32[2, 3, 8] instead of f32[1, 2, 3, 8]",
    ),
    "a gelu with halves of its own": (
        "gelu",
        lambda b, x: erf_gelu(b, x, b.constant(np.linspace(0.4, 0.6, 8, dtype=np.float32))),
        "expected a scalar constant",
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


def test_a_vector_of_length_one_is_no_norm_that_was_missed() -> None:
    _, context = written(unit)
    assert not context.events


def shifted(build: Builder, x: Value, axis: int) -> Value:
    return build(ops.Sub(), x, build(ops.ReduceMax((axis,), True), x))


def total(build: Builder, value: Value) -> Value:
    return build(ops.ReduceSum((2,), True), build(ops.Exp(), value))


def log_sum_exp(build: Builder, x: Value, axis: int = 2) -> Value:
    """As ``torch.logsumexp`` is imported, but that the maximum added may be another one than that taken off."""
    shifts: list[Value] = []
    for each in (2, axis):
        highest = build(ops.ReduceMax((each,), True), x)
        shifts.append(build(ops.Select(), build(ops.IsInf(), highest), build.constant(0.0), highest))
    return build(ops.Add(), build(ops.Log(), total(build, build(ops.Sub(), x, shifts[0]))), shifts[1])


LOGARITHMS: dict[str, Callable[[Builder, Value], Value]] = {
    "by logsumexp": lambda b, x: b(ops.Sub(), x, log_sum_exp(b, x)),
    "by its maximum": lambda b, x: b(ops.Sub(), shifted(b, x, 2), b(ops.Log(), total(b, shifted(b, x, 2)))),
    "plain": lambda b, x: b(ops.Sub(), x, b(ops.Log(), total(b, x))),
}


@pytest.mark.parametrize("name", LOGARITHMS)
def test_the_exponential_of_a_log_softmax_in_any_spelling_is_a_softmax(name: str) -> None:
    graph, _ = written(lambda b, x: b(ops.Exp(), LOGARITHMS[name](b, x)))
    assert [type(node.op) for node in graph.nodes if not isinstance(node.op, ops.Constant)] == [ops.Softmax]


SPLIT: dict[str, Callable[[Builder, Value], Value]] = {
    "layer norm": lambda b, x: b(ops.Mul(), centred(b, x), b(ops.Rsqrt(), near(b, mean(b, squares(b, centred(b, x, 1)))))),
    "softmax": lambda b, x: b(ops.Div(), b(ops.Exp(), shifted(b, x, 2)), total(b, shifted(b, x, 1))),
    "log softmax": lambda b, x: b(ops.Sub(), x, log_sum_exp(b, x, 1)),
}


@pytest.mark.parametrize("name", SPLIT)
def test_what_takes_off_something_else_than_it_divides_by_stays(name: str) -> None:
    """The pattern has the mean, or the maximum, in two places; here they run over different axes."""
    graph, context = written(SPLIT[name])
    assert not any(isinstance(node.op, ops.LayerNorm | ops.Softmax | ops.LogSoftmax) for node in graph.nodes)
    assert not [event for event in context.events if event.kind == "done"]


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
