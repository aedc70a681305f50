"""Every rewrite, on graphs that its own pattern generates: it fires, the graph stays valid, the meaning stays."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.passes.firing_graphs import firing, known_firing, rewrites_by_pass

from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.verify import verify
from cgptc.passes.manager import PassContext
from cgptc.passes.rewrite import apply_rewrites
from cgptc.testing.tolerances import assert_t1

REWRITES = {rule.name: rule for rules in rewrites_by_pass().values() for rule in rules}


def inputs_for(graph: Graph, seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for value in graph.inputs:
        drawn = random.standard_normal(value.type.static_shape)
        if value.type.dtype.is_integer:  # indices: every table has so many rows
            arrays[value.name] = random.integers(0, 4, drawn.shape)
        else:
            arrays[value.name] = drawn > 0 if value.type.dtype.name == "bool" else drawn.astype(np.float32)
    return arrays


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_fires_on_its_own_pattern_and_keeps_the_meaning(name: str) -> None:
    pairs = firing(REWRITES[name])
    assert pairs, f"no instance of '{name}' fires"
    for before, after in pairs:
        verify(after)
        assert after.output("y").type == before.output("y").type
        for seed in range(8):
            inputs = inputs_for(before, seed)
            expected, actual = (evaluate_graph(graph, inputs, wide=True)["y"] for graph in (before, after))
            assert_t1(expected, actual, depth=before.node_count, where=name, seed=seed)


@pytest.mark.parametrize("name", REWRITES)
def test_a_rewrite_is_done_once_it_has_fired(name: str) -> None:
    for _, graph in known_firing(REWRITES[name]):
        after = graph.clone()
        text = str(after)
        apply_rewrites(after, [REWRITES[name]], PassContext())
        assert str(after) == text


@given(st.sampled_from(sorted(REWRITES)), st.integers(0, 2**32 - 1))
def test_a_rewrite_keeps_the_meaning_on_any_data(name: str, seed: int) -> None:
    before, after = PAIRS[name]
    inputs = inputs_for(before, seed)
    expected, actual = (evaluate_graph(graph, inputs, wide=True)["y"] for graph in (before, after))
    assert_t1(expected, actual, depth=before.node_count, where=name, seed=seed)


def test_rewrites_have_a_sentence_that_says_what_they_do() -> None:
    assert all(rule.summary for rule in REWRITES.values())


PAIRS = {name: pairs[0] for name, rule in REWRITES.items() if (pairs := known_firing(rule))}
