"""Changes to a model that mean nothing, made before its passes run: what comes out means the same.

Nodes that nobody reads, sums with 0, products with 1, turns forth and back; heads in another order together with their weights; a batch
taken apart; a sequence padded.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.passes.attention_graphs import HEADS, WIDTH, Spelling, decoder, token_inputs

from cgptc.backends.onnx.backend import DEFAULT_PIPELINE
from cgptc.ir.builder import Builder
from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops import Add, Constant, Mul, Transpose
from cgptc.ir.verify import verify
from cgptc.ir.weights import dense
from cgptc.passes.manager import Pipeline
from cgptc.testing import assert_equivalent, assert_t1, graphs

PASSES = Pipeline.parse(f"dead-code,{DEFAULT_PIPELINE}").without(["add-cache", "legalise"])
"""What a compile runs, but for what changes inputs and outputs or asks what a target has; no importer leaves a node that nobody reads."""

SPELLINGS = [
    Spelling(mask="additive", padding="additive", positions="mask", layers=2),
    Spelling(padding="boolean", positions="mask", window=3, groups=2, layers=2),
    Spelling(mask="buffer", padding="boolean", positions="mask", bias="distance", layers=2),
]

Changes = list[tuple[int, str]]
CHANGES: st.SearchStrategy[Changes] = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from(["unread", "plus zero", "times one", "turned twice"])), min_size=1, max_size=5
)


def idle(build: Builder, value: Value, change: str) -> Value:
    """What has the same numbers as ``value``."""
    dtype, axes = value.type.dtype, tuple(reversed(range(value.type.rank)))
    match change:
        case "plus zero" if dtype.name != "bool":
            return build(Add(), value, build.constant(0, dtype))
        case "times one" if dtype.name != "bool":
            return build(Mul(), value, build.constant(1, dtype))
        case "unread":
            build(Transpose(axes), value)
            return value
        case _:
            return build(Transpose(axes), build(Transpose(axes), value))


def changed(graph: Graph, changes: Changes) -> Graph:
    """A copy in which some nodes read their operands through others that change nothing."""
    copy = graph.clone()
    for place, change in changes:
        reads = [(node, index, value) for node in copy.nodes for index, value in enumerate(node.operands) if value is not None]
        if reads:
            node, index, value = reads[place % len(reads)]
            copy.set_operand(node, index, idle(Builder(copy, before=node, location=node.location), value, change))
    verify(copy)
    return copy


def optimised(graph: Graph) -> Graph:
    return PASSES.run(graph.clone())


@settings(max_examples=max(20, settings().max_examples // 4))
@given(graphs(stable=True), CHANGES)
def test_nodes_that_change_nothing_change_nothing(graph: Graph, changes: Changes) -> None:
    assert_equivalent(graph, optimised(changed(graph, changes)))


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
@settings(max_examples=max(8, settings().max_examples // 16))
@given(changes=CHANGES)
def test_a_decoder_with_nodes_that_change_nothing_becomes_what_it_becomes_without(spelling: Spelling, changes: Changes) -> None:
    graph = decoder(spelling)
    plain, other = optimised(graph), optimised(changed(graph, changes))
    assert operations(other) == operations(plain)
    assert operations(plain)["attention"] == spelling.layers
    assert_equivalent(graph, other, token_inputs(graph, 2, 5))


def operations(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in graph.nodes)


def logits(graph: Graph, ids: Array, mask: Array) -> Array:
    return evaluate_graph(graph, {"input_ids": ids, "attention_mask": mask}, wide=True)["logits"]


def drawn_ids(batch: int, length: int) -> Array:
    return token_inputs(decoder(SPELLINGS[0]), batch, length)["input_ids"]


def exchanged(name: str, weight: Array) -> Array:
    """A weight of an attention layer when its two heads change places: the rows that give queries, keys and values, the columns behind."""
    if name == "behind":
        return weight.reshape(WIDTH, HEADS, -1)[:, ::-1].reshape(weight.shape)
    return weight.reshape(3, HEADS, WIDTH // HEADS, *weight.shape[1:])[:, ::-1].reshape(weight.shape)


OF_ATTENTION = {(3 * WIDTH, WIDTH): "into", (3 * WIDTH,): "into", (WIDTH, WIDTH): "behind"}


def test_heads_change_places_together_with_their_weights() -> None:
    graph = decoder(SPELLINGS[0])
    other = graph.clone()
    moved = 0
    for node in other.nodes:
        if isinstance(node.op, Constant) and (name := OF_ATTENTION.get(node.result.type.static_shape)):
            other.set_op(node, Constant(dense(exchanged(name, node.op.weight.read(other.store)))))
            moved += 1
    assert moved == 3 * SPELLINGS[0].layers
    ids, mask = drawn_ids(2, 5), np.array([[1] * 5, [0, 0, 1, 1, 1]])
    expected, found = (logits(optimised(each), ids, mask) for each in (graph, other))
    assert_t1(expected, found, depth=graph_depth(graph))


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_each_row_of_a_batch_is_what_it_is_alone(spelling: Spelling) -> None:
    graph = optimised(decoder(spelling))
    ids, mask = drawn_ids(3, 5), np.array([[1] * 5, [0, 0, 1, 1, 1], [0, 1, 1, 1, 1]])
    whole = logits(graph, ids, mask)
    for row in range(3):
        assert_t1(whole[row : row + 1], logits(graph, ids[row : row + 1], mask[row : row + 1]), depth=graph_depth(graph))


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
@pytest.mark.parametrize("padding", [1, 4])
def test_padding_on_the_left_changes_no_token(spelling: Spelling, padding: int) -> None:
    graph = optimised(decoder(spelling))
    ids = drawn_ids(2, 5 + padding)
    mask = np.concatenate([np.zeros((2, padding), np.int64), np.ones((2, 5), np.int64)], axis=1)
    alone = logits(graph, ids[:, padding:], mask[:, padding:])
    assert_t1(alone, logits(graph, ids, mask)[:, padding:], depth=graph_depth(graph))
