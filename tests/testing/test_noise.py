"""Random orders of reduction: equal in exact arithmetic, different in the last bits otherwise."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cgptc.ir import ops
from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.parser import parse_graph
from cgptc.testing import assert_t0, assert_t1, assert_t3, graphs, noise_floor, random_inputs, random_orders

BLOCK = """
graph @main(batch: 1..4, seq: 1..16) {
  input %x : f16[batch, 2, seq, 32]
  input %w : f16[32, 32]
  %n = layer_norm(%x)
  %q = linear(%n, %w)
  %y, %k, %v = attention(%q, %n, %n) {scale=0.2, causal=true, window=none}
  %s = softmax(%y) {axis=3}
  return y=%s
}
"""


@settings(max_examples=settings().max_examples // 2)  # each takes tens of milliseconds
@given(graphs(stable=True), st.integers(0, 99))
def test_orders_agree_in_float64(graph: Graph, seed: int) -> None:
    inputs = random_inputs(graph, seed=seed)
    expected = evaluate_graph(graph, inputs, wide=True)
    largest = 1.0

    def measure(value: object, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
        nonlocal largest
        largest = max(largest, float(np.max(np.abs(array.astype(np.float64)), initial=0)))

    evaluate_graph(graph, inputs, wide=True, on_value=measure)
    for sample in random_orders(graph, inputs, seed=seed, count=2, wide=True):
        for name, array in expected.items():
            assert_t1(array, sample[name], depth=graph_depth(graph), magnitude=largest, where=name, seed=seed)


LINEAR = [ops.Add, ops.MatMul, ops.Linear, ops.ReduceSum, ops.Transpose, ops.Conv1d, ops.Neg]


@settings(max_examples=settings().max_examples // 2)  # each takes tens of milliseconds
@given(graphs(ops=LINEAR, max_nodes=2, stable=True), st.integers(0, 99))
def test_orders_agree_exactly_on_small_integers(graph: Graph, seed: int) -> None:
    inputs = random_inputs(graph, seed=seed, kind="integers")
    wide = evaluate_graph(graph, inputs, wide=True)
    if any(np.any(array != np.round(array)) or np.max(np.abs(array), initial=0) >= 2**8 for array in wide.values()):
        return  # weights of other kinds, or sums that the narrowest type rounds
    expected = evaluate_graph(graph, inputs)
    for sample in random_orders(graph, inputs, seed=seed, count=2):
        for name, array in expected.items():
            assert_t0(array, sample[name], where=name, seed=seed)


def test_orders_differ_in_the_last_bits_and_make_a_floor() -> None:
    graph = parse_graph(BLOCK)
    inputs = random_inputs(graph, sizes={"batch": 3, "seq": 9})
    reference = evaluate_graph(graph, inputs, wide=True)["y"]
    samples = [sample["y"] for sample in random_orders(graph, inputs)]
    assert len(samples) == 5
    assert len({sample.tobytes() for sample in samples}) > 1
    floor = noise_floor(reference, samples)
    assert 0 < floor.rmse <= floor.largest
    assert_t3(reference, evaluate_graph(graph, inputs)["y"], floor)
    assert [sample["y"].tobytes() for sample in random_orders(graph, inputs)] == [sample.tobytes() for sample in samples]
