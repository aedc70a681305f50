"""Every rewrite, on graphs that its own pattern generates: it fires, the graph stays valid, the meaning stays."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgptc.passes
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.verify import verify
from cgptc.passes.manager import PassContext
from cgptc.passes.rewrite import Rewrite, apply_rewrites
from cgptc.testing.pattern_graphs import instances
from cgptc.testing.tolerances import assert_t1


def all_rewrites() -> Iterator[Rewrite]:
    for module in pkgutil.iter_modules(cgptc.passes.__path__, "cgptc.passes."):
        yield from getattr(importlib.import_module(module.name), "REWRITES", ())


REWRITES = {rule.name: rule for rule in all_rewrites()}


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


def firing(rule: Rewrite) -> list[tuple[Graph, Graph]]:
    """Graphs that the rule changes, before and after."""
    pairs: list[tuple[Graph, Graph]] = []
    for graph in instances(rule, limit=400):
        after = graph.clone()
        if apply_rewrites(after, [rule], PassContext()):
            pairs.append((graph, after))
            if len(pairs) == 3:
                break
    return pairs


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
    for _, after in firing(REWRITES[name]):
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


PAIRS = {name: pairs[0] for name, rule in REWRITES.items() if (pairs := firing(rule))}
