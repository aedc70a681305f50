"""Graphs planned onto the wafer compute what they mean: T1 in float64, T3 in the real types, the same bits on both engines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from tests.backends.onnx.tiny_gpt import TinyGpt
from tests.backends.wafer.noise import assert_within_noise
from tests.backends.wafer.planned import continued, planned, token_inputs

from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.plan.layouts import LENGTH, PAST
from cgptc.ir.comparison import graph_depth
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.testing.tolerances import assert_t1

SMALL = TinyGpt(layers=1, heads=2, key_heads=1, head_width=4)


def _assert_exact(graph: object, expected: dict[str, Array], found: dict[str, Array], depth: int) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert_t1(array, found[name], depth=depth, where=name)


@settings(deadline=None, max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(
    st.sampled_from([(1, 1), (2, 3), (5, 4), (7, 9)]),
    st.sampled_from(["resident", "pipeline", "weight-streaming"]),
    st.builds(
        TinyGpt,
        layers=st.just(1),
        heads=st.just(4),
        key_heads=st.sampled_from([1, 2, 4]),
        head_width=st.sampled_from([2, 4, 8]),
        window=st.sampled_from([None, 1, 3]),
        tied=st.booleans(),
        rotary=st.booleans(),
    ),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_random_gpts_on_random_grids_are_exact_in_float64(
    grid: tuple[int, int], strategy: str, model: TinyGpt, time: int, chunk: int
) -> None:
    """Token by token or in chunks, which the row's own tokens do not fill."""
    graph = model.graph()
    inputs = token_inputs(graph, 1, time, seed=time)
    session = planned(graph, grid, strategy, chunk=chunk).session
    found = session.run(inputs)
    _assert_exact(graph, evaluate_graph(graph, inputs, wide=True), found, graph_depth(graph))
    assert time < chunk or chunk == 1 or session.usage.chunks


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_row_goes_on_from_its_cache(chunk: int) -> None:
    graph = SMALL.graph()
    session = planned(graph, chunk=chunk).session
    first = token_inputs(graph, 1, 3)
    outputs = session.run(first)
    second = continued(first, outputs, np.array([[4, 5, 6, 7, 8]]))
    _assert_exact(graph, evaluate_graph(graph, second, wide=True), session.run(second), graph_depth(graph))


def test_a_left_padded_row_is_what_it_is_alone() -> None:
    graph = SMALL.graph()
    session = planned(graph).session
    both = token_inputs(graph, 2, 4)
    both["attention_mask"][1, :2] = 0
    found = session.run(both)
    alone = {name: array[1:, 2:] if name in ("input_ids", "attention_mask") else array[1:] for name, array in both.items()}
    np.testing.assert_array_equal(found["logits"][1, 2:], session.run(alone)["logits"][0])
    assert not found["logits"][1, :2].any()


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_gpt_is_within_the_noise_of_its_type(dtype: str) -> None:
    graph = TinyGpt(layers=2).graph()
    inputs = token_inputs(graph, 1, 6)
    found = planned(graph, (3, 4), "pipeline", dtype).session.run(inputs)["logits"]
    assert_within_noise(graph, inputs, "logits", found, dtype)


@settings(deadline=None, max_examples=8, phases=[Phase.explicit, Phase.generate])
@given(
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.sampled_from(["resident", "pipeline", "weight-streaming"]),
    st.builds(
        TinyGpt,
        layers=st.integers(1, 2),
        heads=st.just(4),
        key_heads=st.sampled_from([1, 2, 4]),
        head_width=st.sampled_from([2, 4, 6]),
        window=st.sampled_from([None, 2]),
        tied=st.booleans(),
        rotary=st.booleans(),
    ),
    st.sampled_from(["f32", "f16"]),
    st.integers(2, 8),
    st.sampled_from([1, 2, 4]),
)
def test_random_gpts_on_random_grids_are_within_the_noise_of_their_type(
    grid: tuple[int, int], strategy: str, model: TinyGpt, dtype: str, time: int, chunk: int
) -> None:
    graph = model.graph()
    inputs = token_inputs(graph, 2, time, seed=time)
    found = planned(graph, grid, strategy, dtype, chunk=chunk).session.run(inputs)["logits"]
    assert_within_noise(graph, inputs, "logits", found, dtype)


@pytest.mark.parametrize("strategy", ["resident", "pipeline", "weight-streaming"])
def test_both_engines_give_the_same_bits_and_the_planned_cycles(strategy: str) -> None:
    graph = SMALL.graph()
    inputs = token_inputs(graph, 1, 3)
    fast, slow = (planned(graph, (2, 3), strategy, "f32", fidelity=name) for name in ("fast", "pe"))
    expected, found = fast.session.run(inputs), slow.session.run(inputs)
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)
    assert fast.session.usage.cycles == slow.session.usage.cycles == timeline(fast.plan.program, "run", {PAST: 0, LENGTH: 3}).cycles


def test_the_closed_forms_add_up_to_the_cycles_that_the_clock_counts() -> None:
    made = planned(SMALL.graph(), (3, 3), "resident", "f32").plan
    (cost,) = made.choice.costs
    last = made.fitted[0].ground.context - 1
    assert timeline(made.program, "run", {PAST: last, LENGTH: 1}).busy("model") == cost.cycles


def test_the_planner_chooses_grids_that_fit_and_places_them_apart() -> None:
    made = planned(TinyGpt(layers=2, vocabulary=500).graph(), None, "pipeline", "f32", small_machine(24, 24)).plan
    assert made.strategy == "pipeline"
    assert len(made.program.regions) >= 4
    boxes = [region.rectangle for region in made.program.regions]
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_a_decoder_gives_the_logits_of_the_whole_text_for_every_row() -> None:
    graph = SMALL.graph()
    session = planned(graph).session
    ids = np.array([[1, 2, 3], [0, 7, 9]])
    mask = np.array([[True] * 3, [False, True, True]])
    decoder = session.decoder()
    first = decoder.prefill(ids, mask)
    second = decoder.step(np.array([5, 6]))
    for row in range(2):
        text = [*ids[row][mask[row]], (5, 6)[row]]
        whole = token_inputs(graph, 1, len(text))
        whole["input_ids"] = np.array([text])
        expected = evaluate_graph(graph, whole, wide=True)["logits"][0]
        assert_t1(expected[-2], first[row], depth=graph_depth(graph))
        assert_t1(expected[-1], second[row], depth=graph_depth(graph))
