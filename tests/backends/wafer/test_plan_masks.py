"""Masks and biases by positions that are neither causal nor a window: a table of what is added to the score of each query and key."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.backends.wafer.drawn_graphs import BATCH, HEADS, SEQ, Drawing
from tests.backends.wafer.noise import assert_within_noise
from tests.backends.wafer.planned import continued, planned, token_inputs

from cgptc.backends.wafer.plan.lifting import lift
from cgptc.backends.wafer.plan.tasks import shortened
from cgptc.backends.wafer.plan.works import AttendWork
from cgptc.ir.comparison import graph_depth
from cgptc.ir.dtypes import f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops.binary import Add, And, Equal, FloorDiv, Less, LessEqual, Mul, Or, Select, Sub
from cgptc.ir.ops.constant import Constant, Iota
from cgptc.ir.ops.elementwise import Abs, Cast
from cgptc.ir.ops.shape import Expand, Flip, Reshape, Slice
from cgptc.ir.weights import MemoryStore, Stored
from cgptc.passes.manager import Pipeline
from cgptc.testing.tolerances import assert_t1

Maker = Callable[[Drawing], Value]


def _places(here: Drawing) -> tuple[Value, Value]:
    places = here.build(Iota(SEQ.dim, i64))
    return here.build(Reshape((1, 1, SEQ.dim, 1)), places), here.build(Reshape((1, 1, 1, SEQ.dim)), places)


def _added(here: Drawing, seen: Value, low: float = float("-inf")) -> Value:
    return here.build(Select(), seen, here.build.constant(0.0, f32), here.build.constant(low, f32))


def _seen_by_prefix(here: Drawing) -> Value:
    query, key = _places(here)
    return here.build(Or(), here.build(LessEqual(), key, query), here.build(Less(), key, here.build.constant(2, i64)))


def _prefix(here: Drawing) -> Value:
    """The first two tokens are seen by all, every other by those behind it."""
    return _added(here, _seen_by_prefix(here), -1e9)


def _blocks(here: Drawing) -> Value:
    """Blocks of three tokens see one another."""
    three = here.build.constant(3, i64)
    return _added(here, here.build(Equal(), *(here.build(FloorDiv(), one, three) for one in _places(here))))


def _buffer(here: Drawing) -> Value:
    """A model's own table for its longest row, of which a row takes its part; numbers of each head."""
    store = here.graph.store
    assert isinstance(store, MemoryStore)
    store.tensors["bias"] = here.random.standard_normal((1, HEADS, 6, 6)).astype(np.float32)
    whole = here.build(Constant(Stored("bias", f32, (1, HEADS, 6, 6))))
    return here.build(Slice(3, 0, SEQ.dim), here.build(Slice(2, 0, SEQ.dim), whole))


def _distances(here: Drawing) -> Value:
    """Further keys count less, in every head by its own share."""
    query, key = _places(here)
    far = here.build(Cast(f32), here.build(Abs(), here.build(Sub(), query, key)))
    return here.build(Mul(), far, here.build(Reshape((1, HEADS, 1, 1)), here.weight(HEADS)))


def _hidden(here: Drawing) -> Value:
    """A key that nobody sees."""
    seen = here.build(Less(), _places(here)[1], here.build.constant(5, i64))
    return here.build(Expand((1, 1, SEQ.dim, SEQ.dim)), _added(here, seen))


def _padding(here: Drawing) -> Value:
    assert here.mask is not None
    return here.build(Reshape((BATCH.dim, 1, 1, SEQ.dim)), here.mask)


def _both_seen(here: Drawing) -> Value:
    """What is seen by positions and is no padding."""
    return _added(here, here.build(And(), _seen_by_prefix(here), _padding(here)))


def _both_added(here: Drawing) -> Value:
    return here.build(Add(), _distances(here), _added(here, _padding(here)))


def _chosen(here: Drawing) -> Value:
    """Numbers where there is no padding."""
    return here.build(Select(), _padding(here), _buffer(here), here.build.constant(float("-inf"), f32))


MASKS: dict[str, Maker] = {
    "prefix": _prefix,
    "blocks": _blocks,
    "buffer": _buffer,
    "distances": _distances,
    "hidden": _hidden,
    "both seen": _both_seen,
    "both added": _both_added,
    "chosen": _chosen,
}
MASKED = {"both seen", "both added", "chosen"}


def _graph(name: str) -> Graph:
    here = Drawing(3, masked=name in MASKED)
    x = here.start(crosses=False)
    here.layer(0)
    y = here.attention(x, x, MASKS[name](here), causal=name == "distances")
    here.graph.add_output("y", here.build(Add(), x, y))
    return here.graph


def _inputs(graph: Graph, time: int) -> dict[str, np.ndarray]:
    mask = np.ones((2, time), np.int64)
    mask[1, time // 2 + 1 :] = 0
    made = {"input_ids": np.arange(2 * time).reshape(2, time) % 11, "attention_mask": mask}
    return {value.name: made[value.name] for value in graph.inputs}


@pytest.mark.parametrize("grid", [(3, 2), (5, 7)])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_by_positions_is_exact_at_every_length(name: str, grid: tuple[int, int]) -> None:
    graph = _graph(name)
    session = planned(graph, grid).session
    for time in (1, 4, 6):
        inputs = _inputs(graph, time)
        assert_t1(evaluate_graph(graph, inputs, wide=True)["y"], session.run(inputs)["y"], depth=graph_depth(graph), where=f"{time} tokens")


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_mask_of_large_numbers_is_the_same_pe_by_pe_and_within_the_noise(dtype: str) -> None:
    graph = _graph("prefix")
    inputs = _inputs(graph, 5)
    fast, slow = (planned(graph, (3, 2), "pipeline", dtype, fidelity=name).session.run(inputs)["y"] for name in ("fast", "pe"))
    np.testing.assert_array_equal(fast, slow)
    assert np.isfinite(fast).all()
    assert_within_noise(graph, inputs, "y", fast, dtype)


def test_a_table_of_scores_is_as_long_as_the_rows() -> None:
    tasks, _ = lift(_graph("buffer"))
    assert tasks is not None
    (task,) = (task for task in shortened(tasks, 4).tasks if isinstance(task.work, AttendWork))
    ((role, weight),) = task.weights
    assert (role, weight.shape) == ("bias", (HEADS, 4, 4))


def test_a_mask_that_depends_on_how_many_tokens_a_row_has_is_refused() -> None:
    here = Drawing(3)
    x = here.start(crosses=False)
    mask = here.build(Flip((3,)), _distances(here))
    here.graph.add_output("y", here.attention(x, x, mask, causal=False))
    _, refused = lift(here.graph)
    assert [one.reason for one in refused] == ["what it makes of a row's positions depends on how many there are"]


# Beside a cache


def _sinks(here: Drawing) -> Value:
    """Every query sees the first token and the two before its own."""
    query, key = _places(here)
    near = here.build(Less(), here.build(Sub(), query, key), here.build.constant(2, i64))
    return _added(here, here.build(And(), here.build(LessEqual(), key, query), here.build(Or(), near, _first_of(here, key))))


def _first_of(here: Drawing, key: Value) -> Value:
    return here.build(Less(), key, here.build.constant(1, i64))


CACHED: dict[str, Maker] = {"sinks": _sinks, "distances": _distances, "blocks": _blocks, "buffer": _buffer}
"""Masks and biases of which the attention's own causality hides what comes later, but for the first, which does so itself."""


def _cached_graph(name: str) -> Graph:
    here = Drawing(4)
    x = here.start(crosses=False)
    here.layer(0)
    here.graph.add_output("y", here.build(Add(), x, here.attention(x, x, CACHED[name](here), causal=name != "sinks")))
    return Pipeline.parse("add-cache,canonicalize,cse,dead-code").run(here.graph)


@pytest.mark.parametrize(
    ("name", "grid", "strategy", "chunk"),
    [
        ("sinks", (3, 2), "resident", 1),
        ("distances", (5, 7), "pipeline", 2),
        ("blocks", (4, 4), "weight-streaming", 1),
        ("buffer", (3, 2), "pipeline", 2),
    ],
)
def test_a_mask_by_positions_goes_with_a_cache(name: str, grid: tuple[int, int], strategy: str, chunk: int) -> None:
    graph = _cached_graph(name)
    session = planned(graph, grid, strategy, chunk=chunk).session
    depth = graph_depth(graph)
    inputs, found = token_inputs(graph, 2, 3, vocabulary=11), {}
    inputs["attention_mask"][1, 0] = 0
    for count in (0, 2, 1):
        inputs = continued(inputs, found, np.full((2, count), 7)) if count else inputs
        found = session.run(inputs)
        real = inputs["attention_mask"][:, -inputs["input_ids"].shape[1] :].astype(np.bool_)
        expected = evaluate_graph(graph, inputs, wide=True)
        assert_t1(expected["y"][real], found["y"][real], depth=depth, where=f"{count} more tokens")


def test_a_table_beside_a_cache_is_as_long_as_the_context() -> None:
    tasks, _ = lift(_cached_graph("distances"))
    assert tasks is not None
    (task,) = (task for task in shortened(tasks, 4).tasks if isinstance(task.work, AttendWork))
    assert [weight.shape for _, weight in task.weights] == [(HEADS, 4, 4)]
