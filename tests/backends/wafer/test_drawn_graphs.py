"""Drawn graphs on drawn grids, by every strategy, against the graph's interpreter: T1 in float64, T3 in f32; the same bits PE by PE."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from tests.backends.wafer.drawn_graphs import BATCH, ENDS, FORMS, SEQ, WIDTH, Drawing, drawn_graph
from tests.backends.wafer.noise import assert_within_noise
from tests.backends.wafer.planned import planned

from cgptc.ir.comparison import graph_depth
from cgptc.ir.dtypes import f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import Add, Div, Mul
from cgptc.ir.ops.constant import DimSize
from cgptc.ir.ops.elementwise import Abs, Cast, Reciprocal, Rsqrt
from cgptc.ir.ops.loss import CrossEntropy
from cgptc.ir.ops.reduction import ReduceMax, ReduceMean, ReduceSum
from cgptc.ir.ops.shape import Pad, Reshape, Slice, Transpose
from cgptc.ir.types import TensorType
from cgptc.testing.tolerances import assert_t1

GRIDS = [(1, 1), (3, 2), (5, 4), (7, 9)]


def _inputs(graph: Graph, rows: int, time: int, source: int, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    mask = np.ones((rows, time), np.int64)
    if any(isinstance(node.op, Attention) and len(node.operands) > 3 and node.operands[3] is not None for node in graph.nodes):
        mask[-1, time // 2 + 1 :] = 0  # in whole rows padding has outputs of its own; token by token it is left out and gives zeros
    made: dict[str, Array] = {
        "input_ids": random.integers(0, 11, (rows, time)),
        "attention_mask": mask,
        "memory": random.standard_normal((rows, source, WIDTH)).astype(np.float32),
    }
    return {value.name: made[value.name] for value in graph.inputs}


def _assert_exact(graph: Graph, grid: tuple[int, int], strategy: str, inputs: dict[str, Array]) -> None:
    expected = evaluate_graph(graph, inputs, wide=True)["y"]
    assert_t1(expected, planned(graph, grid, strategy).session.run(inputs)["y"], depth=graph_depth(graph))


@pytest.mark.parametrize("name", FORMS)
def test_each_form_is_exact_in_float64(name: str) -> None:
    graph = drawn_graph([name], "every token", masked=False, seed=1)
    _assert_exact(graph, (3, 2), "resident", _inputs(graph, 2, 5, 4))


@pytest.mark.parametrize("end", ENDS)
def test_each_end_is_exact_in_float64(end: str) -> None:
    graph = drawn_graph(["linear"], end, masked=False, seed=2)
    _assert_exact(graph, (2, 3), "pipeline", _inputs(graph, 2, 4, 1))


@example(["residual", "residual", "gate"], "last token", (1, 1), "resident", True, (3, 3, 4))
@settings(deadline=None, max_examples=6, phases=[Phase.explicit, Phase.generate])
@given(
    st.lists(st.sampled_from(sorted(FORMS)), min_size=1, max_size=3),
    st.sampled_from(sorted(ENDS)),
    st.sampled_from(GRIDS),
    st.sampled_from(["resident", "pipeline"]),
    st.booleans(),
    st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5)),
)
def test_drawn_graphs_are_exact_in_float64(
    forms: list[str], end: str, grid: tuple[int, int], strategy: str, masked: bool, sizes: tuple[int, int, int]
) -> None:
    graph = drawn_graph(forms, end, masked=masked, seed=len(forms))
    _assert_exact(graph, grid, strategy, _inputs(graph, *sizes))


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_drawn_graph_is_within_the_noise_of_its_type_and_the_same_pe_by_pe(dtype: str) -> None:
    graph = drawn_graph(["gate", "cross attention", "cut and joined"], "mean", masked=False, seed=3)
    inputs = _inputs(graph, 2, 3, 2)
    fast, slow = (planned(graph, (3, 2), "pipeline", dtype, fidelity=name).session.run(inputs)["y"] for name in ("fast", "pe"))
    np.testing.assert_array_equal(fast, slow)
    assert_within_noise(graph, inputs, "y", fast, dtype)


def test_a_sum_over_a_row_has_other_uses_beside_its_mean() -> None:
    here = Drawing(seed=6)
    total = here.build(ReduceSum((1,), False), here.start(crosses=False))
    mean = here.build(Div(), total, here.build(Cast(f32), here.build(DimSize(SEQ.dim))))
    here.graph.add_output("y", mean)
    here.graph.add_output("twice", here.build(Mul(), total, here.build.constant(2.0, f32)))
    inputs = _inputs(here.graph, 2, 3, 1)
    found = planned(here.graph, (2, 3), "resident").session.run(inputs)
    for name, expected in evaluate_graph(here.graph, inputs, wide=True).items():
        assert_t1(expected, found[name], depth=graph_depth(here.graph))


def test_losses_of_tokens_and_rows_add_up_over_a_batch() -> None:
    here = Drawing(seed=5)
    x = here.attention(start := here.start(crosses=False), start, None, causal=False)
    goal = here.graph.add_input("goal", TensorType(i64, (BATCH.dim, SEQ.dim)))
    label = here.graph.add_input("label", TensorType(i64, (BATCH.dim,)))
    flat = here.build(Reshape((BATCH.dim * SEQ.dim, 5)), here.linear(x, 5))
    tokens = here.build(CrossEntropy("mean", -100, 0.1), flat, here.build(Reshape((BATCH.dim * SEQ.dim,)), goal))
    pooled = here.build(ReduceMax((1,), False), x)
    rows = here.build(CrossEntropy("sum"), here.linear(pooled, 3), label)
    here.graph.add_output("y", here.build(Add(), tokens, here.build(Mul(), rows, here.build.constant(0.5, f32))))
    inputs = {
        "input_ids": np.array([[1, 2, 3], [4, 5, 6]]),
        "goal": np.array([[0, 4, -100], [-100, 1, 2]]),
        "label": np.array([2, 0]),
    }
    _assert_exact(here.graph, (3, 2), "resident", inputs)


def _divided(here: Drawing, x: Value) -> Value:
    return here.build(Div(), x, here.linear(x))


INFINITE_AT_ZERO = {
    "reciprocal": lambda here, x: here.build(Reciprocal(), x),
    "rsqrt": lambda here, x: here.build(Rsqrt(), here.build(Abs(), x)),
    "division": _divided,
    "log softmax": FORMS["log softmax"],
}


@pytest.mark.parametrize("name", INFINITE_AT_ZERO)
def test_what_is_infinite_at_zero_leaves_no_trace_behind_the_end_of_a_tensor(name: str) -> None:
    here = Drawing(seed=1)
    x = INFINITE_AT_ZERO[name](here, here.linear(here.start(crosses=False)))
    here.graph.add_output("y", here.linear(x, 3))
    _assert_exact(here.graph, (7, 9), "resident", {"input_ids": np.array([[1, 2, 3]])})


@pytest.mark.parametrize("padded", [False, True])
def test_the_loss_of_the_next_token_is_exact_where_the_model_shifts_it(padded: bool) -> None:
    """Logits of all tokens but the last against labels of all but the first; or labels that are shifted by padding them behind."""
    here = Drawing(seed=7)
    x = here.attention(start := here.start(crosses=False), start, None, causal=True)
    labels = here.graph.add_input("labels", TensorType(i64, (BATCH.dim, SEQ.dim)))
    logits = here.linear(x, 5)
    if padded:
        following = here.build(Slice(1, 1, SEQ.dim + 1), here.build(Pad((0, 0), (0, 1), -100.0), labels))
    else:
        following, logits = here.build(Slice(1, 1, SEQ.dim), labels), here.build(Slice(1, 0, SEQ.dim - 1), logits)
    count = following.type.shape[1]
    flat = here.build(Reshape((BATCH.dim * count, 5)), logits)
    here.graph.add_output("y", here.build(CrossEntropy(), flat, here.build(Reshape((BATCH.dim * count,)), following)))
    here.graph.add_output("logits", logits)
    session = planned(here.graph, (3, 2)).session
    for time in (2, 5):
        inputs = {"input_ids": np.arange(2 * time).reshape(2, time), "labels": np.arange(2 * time).reshape(2, time) % 5}
        inputs["labels"][0, 1] = -100
        expected, found = evaluate_graph(here.graph, inputs, wide=True), session.run(inputs)
        for name, array in expected.items():
            assert_t1(array, found[name], depth=graph_depth(here.graph), where=f"{name} of {time}")


def test_tokens_that_are_left_out_at_the_start_are_a_sequence_of_their_own() -> None:
    here = Drawing(seed=8)
    x = here.build(Slice(1, 2, SEQ.dim), here.linear(here.start(crosses=False)))
    here.layer(1)
    shorter = SEQ.dim - 2
    heads = [here.build(Transpose((0, 2, 1, 3)), here.build(Reshape((BATCH.dim, shorter, 2, 4)), here.linear(x))) for _ in range(3)]
    y, _, _ = here.build.all(Attention(0.5, causal=False), *heads)
    x = here.build(Add(), x, here.build(Reshape((BATCH.dim, shorter, WIDTH)), here.build(Transpose((0, 2, 1, 3)), y)))
    here.graph.add_output("y", here.build(ReduceMean((1,), False), x))
    for time in (3, 6):
        _assert_exact(here.graph, (2, 3), "pipeline", {"input_ids": np.arange(2 * time).reshape(2, time) % 11})
