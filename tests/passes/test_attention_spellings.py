"""Attention written out in other ways: it fuses with the same meaning, rows that see no key included, or says why not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from cgptc.ir import ops
from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import boolean, f32, i32
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.testing.tolerances import assert_t1

SHAPE, SEEN = (2, 3, 4, 5), (2, 1, 4, 4)
PIPELINE = "canonicalize,cse,fuse-softmax,fuse-attention,canonicalize,cse,normalize-masks,dead-code"


class Written:
    """``q``, ``k``, ``v`` and the masks of a graph, with what attention is spelled in."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.build = Builder(self.graph)
        self.q, self.k, self.v = (self.graph.add_input(name, TensorType(f32, SHAPE)) for name in "qkv")
        self.seen = self.graph.add_input("seen", TensorType(boolean, SEEN))
        self.bias = self.graph.add_input("bias", TensorType(f32, SEEN))

    def number(self, value: float) -> Value:
        return self.build.constant(value)

    def product(self) -> Value:
        return self.build(ops.MatMul(), self.q, self.build(ops.Transpose((0, 1, 3, 2)), self.k))

    def filled(self, scores: Value, fill: float) -> Value:
        return self.build(ops.Select(), self.seen, scores, self.number(fill))

    def scaled(self, scores: Value, factor: float = 0.25) -> Value:
        return self.build(ops.Mul(), scores, self.number(factor))

    def attend(self, scores: Value) -> Value:
        return self.build(ops.MatMul(), self.build(ops.Softmax(3), scores), self.v)


def zeroed(written: Written, fill: float, condition: Value) -> Value:
    probabilities = written.build(ops.Softmax(3), written.filled(written.product(), fill))
    return written.build(ops.MatMul(), written.build(ops.Select(), condition, probabilities, written.number(0.0)), written.v)


def exponentials(written: Written) -> Value:
    build, scores = written.build, written.product()
    powers = build(ops.Exp(), build(ops.Sub(), scores, build(ops.ReduceMax((3,), True), scores)))
    return build(ops.Div(), powers, build(ops.ReduceSum((3,), True), powers))


def log_sum_exp(written: Written) -> Value:
    """As ``exp(scores - torch.logsumexp(scores, -1, keepdim=True))`` is imported."""
    build, scores = written.build, written.filled(written.product(), -math.inf)
    highest = build(ops.ReduceMax((3,), True), scores)
    shift = build(ops.Select(), build(ops.IsInf(), highest), written.number(0.0), highest)
    total = build(ops.Log(), build(ops.ReduceSum((3,), True), build(ops.Exp(), build(ops.Sub(), scores, shift))))
    return without_nan(written, build(ops.Exp(), build(ops.Sub(), scores, build(ops.Add(), total, shift))))


def without_nan(written: Written, probabilities: Value) -> Value:
    build = written.build
    return build(ops.Select(), build(ops.IsNan(), probabilities), written.number(0.0), probabilities)


def keys_repeated(written: Written) -> Value:
    """One head of keys for all queries, and values for each."""
    build = written.build
    one = build(ops.Reshape((2, 1, 1, 4, 5)), build(ops.Slice(1, 0, 1), written.k))
    written.k = build(ops.Reshape(SHAPE), build(ops.Expand((2, 1, 3, 4, 5)), one))
    return written.attend(written.product())


def one_mask_for_all(written: Written) -> Value:
    """The same keys are hidden from every query of every row."""
    shown = written.build(ops.Slice(2, 0, 1), written.build(ops.Slice(0, 1, 2), written.seen))
    shown = written.build(ops.Reshape((4,)), shown)
    return written.attend(written.build(ops.Select(), shown, written.product(), written.number(-1e9)))


Spelling = Callable[[Written], Value]
EXACT: dict[str, Spelling] = {
    "filled with a finite number": lambda w: w.attend(w.filled(w.scaled(w.product()), -1e9)),
    "filled before the scale": lambda w: w.attend(w.scaled(w.filled(w.product(), -1e9))),
    "added before the scale": lambda w: w.attend(w.scaled(w.build(ops.Add(), w.product(), w.bias))),
    "keys alone repeated": keys_repeated,
    "one mask over the keys": one_mask_for_all,
    "subtracted": lambda w: w.attend(w.build(ops.Sub(), w.product(), w.bias)),
    "biased, then filled": lambda w: w.attend(w.filled(w.build(ops.Add(), w.product(), w.bias), -1e9)),
    "set to 0 behind the softmax too": lambda w: zeroed(w, -1e9, w.seen),
    "values in front": lambda w: w.build(
        ops.Transpose((0, 1, 3, 2)),
        w.build(
            ops.MatMul(),
            w.build(ops.Transpose((0, 1, 3, 2)), w.v),
            w.build(ops.Transpose((0, 1, 3, 2)), w.build(ops.Softmax(3), w.product())),
        ),
    ),
    "keys in front": lambda w: w.attend(
        w.build(ops.Transpose((0, 1, 3, 2)), w.build(ops.MatMul(), w.k, w.build(ops.Transpose((0, 1, 3, 2)), w.q)))
    ),
    "with a softmax of exponentials": lambda w: w.build(ops.MatMul(), exponentials(w), w.v),
    "with a softmax by logsumexp": lambda w: w.build(ops.MatMul(), log_sum_exp(w), w.v),
    "without NaN": lambda w: w.build(ops.MatMul(), without_nan(w, w.build(ops.Softmax(3), w.filled(w.product(), -1e9))), w.v),
    "scaled by a root": lambda w: w.attend(w.build(ops.Div(), w.product(), w.build(ops.Sqrt(), w.number(5.0)))),
    "floored": lambda w: w.attend(w.build(ops.Maximum(), w.build(ops.Add(), w.product(), w.bias), w.number(-1e30))),
}
UNFUSED: dict[str, tuple[Spelling, str]] = {
    "a fill that the scale makes small": (lambda w: w.attend(w.scaled(w.filled(w.product(), -1e4), 1e-3)), "set to -10, which does not"),
    "a fill that the scale turns round": (lambda w: w.attend(w.scaled(w.filled(w.product(), -1e9), -1.0)), "set to 1e+09, which does not"),
    "a floor that the scale makes small": (
        lambda w: w.attend(w.scaled(w.build(ops.Maximum(), w.product(), w.number(-1e4)), 1e-3)),
        "the scores are clamped",
    ),
    "scores rounded to integers": (
        lambda w: w.attend(w.build(ops.Cast(f32), w.build(ops.Cast(i32), w.product()))),
        "the scores are converted from i32",
    ),
    "filled, then biased": (
        lambda w: w.attend(w.build(ops.Add(), w.filled(w.product(), -1e9), w.bias)),
        "its masks give a query that sees no key other numbers",
    ),
    "probabilities scaled": (
        lambda w: w.build(ops.MatMul(), w.scaled(w.build(ops.Softmax(3), w.product())), w.v),
        "'mul' stands between softmax and the product with the values",
    ),
    "probabilities set to 0 by another mask": (
        lambda w: zeroed(w, -1e9, w.build(ops.Not(), w.seen)),
        "by another mask than the scores'",
    ),
    "one batch of keys for all": (
        lambda w: w.build(
            ops.MatMul(),
            w.build(
                ops.Softmax(3),
                w.build(ops.MatMul(), w.q, w.build(ops.Transpose((0, 1, 3, 2)), w.build(ops.Slice(0, 0, 1), w.k))),
            ),
            w.v,
        ),
        "attention has no such form: 'k' must have shape",
    ),
}


def inputs() -> dict[str, Array]:
    """Row 2 of the first batch sees nothing."""
    draw = np.random.default_rng(3)
    seen = draw.random(SEEN) < 0.6
    seen[..., 0] = True
    seen[0, 0, 2] = False
    tensors = {name: draw.normal(size=SHAPE).astype(np.float32) for name in "qkv"}
    return {**tensors, "seen": seen, "bias": draw.normal(size=SEEN).astype(np.float32)}


def fused(spelling: Spelling) -> tuple[Graph, Graph, PassContext]:
    """The graph as written, after the passes, and what these said."""
    written = Written()
    written.graph.add_output("y", spelling(written))
    after, context = written.graph.clone(), PassContext()
    Pipeline.parse(PIPELINE).run(after, context)
    verify(after)
    given = {value.name: inputs()[value.name] for value in written.graph.inputs}
    before, now = (evaluate_graph(graph, given, wide=True)["y"] for graph in (written.graph, after))
    assert_t1(before, now, depth=written.graph.node_count)
    return written.graph, after, context


@pytest.mark.parametrize("name", EXACT)
def test_other_spellings_fuse_and_keep_what_a_row_gives_that_sees_nothing(name: str) -> None:
    _, after, _ = fused(EXACT[name])
    assert sum(isinstance(node.op, ops.Attention) for node in after.nodes) == 1
    assert not any(isinstance(node.op, ops.Softmax) for node in after.nodes)


@pytest.mark.parametrize("name", UNFUSED)
def test_what_is_no_attention_stays_and_says_why(name: str) -> None:
    spelling, reason = UNFUSED[name]
    before, after, context = fused(spelling)
    assert not any(isinstance(node.op, ops.Attention) for node in after.nodes)
    assert after.node_count <= before.node_count
    assert [reason in event.reason for event in context.findings("missed") if event.subject == "attention"] == [True]


def test_a_softmax_over_experts_is_no_attention_that_was_missed() -> None:
    graph, context = Graph(), PassContext()
    build = Builder(graph)
    gates = graph.add_input("gates", TensorType(f32, (2, 4, 3)))
    chosen = build(ops.Mul(), build(ops.Softmax(2), gates), build.constant(0.5))
    graph.add_output("y", build(ops.MatMul(), chosen, build.constant(np.ones((3, 5), np.float32))))
    Pipeline.parse(PIPELINE).run(graph, context)
    assert not context.events


def test_a_scalar_of_higher_rank_declines_instead_of_failing() -> None:
    graph, context = Graph(), PassContext()
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2, 3)))
    mean = build(ops.ReduceMean((1,), keepdims=True), build(ops.Mul(), x, x))
    root = build(ops.Rsqrt(), build(ops.Add(), mean, build.constant(np.full((1, 1, 1), 1e-5, np.float32))))
    graph.add_output("y", build(ops.Mul(), x, root))
    before = str(graph)
    Pipeline.parse("fuse-norms").run(graph, context)
    assert str(graph) == before
    assert ["below the root is f32[1, 1, 1], not a number" in event.reason for event in context.findings("missed")] == [True]
