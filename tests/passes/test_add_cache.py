from __future__ import annotations

import numpy as np
import pytest
from tests.passes.attention_graphs import HEADS, VOCABULARY, WIDTH, Spelling, decoder, token_inputs
from tests.passes.test_fuse_attention import FUSION

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops import Add, Cast, CumSum, DimSize, Expand, Iota, ReduceMean, Reshape, Slice
from cgptc.ir.verify import verify
from cgptc.passes.manager import Pipeline
from cgptc.testing.tolerances import assert_t1

CACHED = FUSION + ",add-cache,canonicalize,cse,dead-code"


def cached(spelling: Spelling) -> tuple[Graph, Graph]:
    graph = decoder(spelling)
    with_cache = Pipeline.parse(CACHED).run(graph.clone())
    verify(with_cache)
    return graph, with_cache


def empty_past(graph: Graph, batch: int) -> dict[str, Array]:
    return {
        value.name: np.zeros((batch, int(str(value.type.shape[1])), 0, WIDTH // HEADS), np.float32)
        for value in graph.inputs
        if value.name.startswith("past")
    }


def run_in_steps(graph: Graph, ids: Array, mask: Array, steps: list[int]) -> Array:
    """Logits of all tokens, computed a few at a time through the cache."""
    past = empty_past(graph, len(ids))
    logits: list[Array] = []
    start = 0
    for size in steps:
        stop = start + size
        outputs = evaluate_graph(graph, {"input_ids": ids[:, start:stop], "attention_mask": mask[:, :stop], **past}, wide=True)
        logits.append(outputs["logits"])
        past = {f"past_key_values.{name[8:]}": array for name, array in outputs.items() if name.startswith("present.")}
        start = stop
    return np.concatenate(logits, axis=1)


SPELLINGS = [
    Spelling(layers=2),
    Spelling(mask="buffer", window=3),
    Spelling(groups=2, flat_tokens=True),
    Spelling(padding="additive"),
    Spelling(positions="mask", padding="boolean"),
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
@pytest.mark.parametrize("steps", [[7], [6, 1], [1] * 7, [2, 4, 1]], ids=str)
def test_prefill_and_decode_give_what_the_full_run_gives(spelling: Spelling, steps: list[int]) -> None:
    graph, with_cache = cached(spelling)
    inputs = token_inputs(graph, 2, 7)
    whole = evaluate_graph(graph, inputs, wide=True)["logits"]
    stepped = run_in_steps(with_cache, inputs["input_ids"], np.ones((2, 7), np.int64), steps)
    assert_t1(whole, stepped, depth=with_cache.node_count)


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_a_left_padded_row_equals_the_row_alone(spelling: Spelling) -> None:
    _, with_cache = cached(spelling)
    ids = np.random.default_rng(3).integers(0, VOCABULARY, (2, 6))
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    together = run_in_steps(with_cache, ids, mask, [5, 1])
    alone = run_in_steps(with_cache, ids[:1, 2:], np.ones((1, 4), np.int64), [3, 1])
    assert_t1(alone, together[:1, 2:], depth=with_cache.node_count)
    assert np.isfinite(together).all()


def test_the_interface_is_named_as_runtimes_expect() -> None:
    _, with_cache = cached(Spelling(layers=2, groups=2))
    assert [str(value.type) for value in with_cache.inputs] == [
        "i64[batch, seq]",
        "i64[batch, past + seq]",
        *["f32[batch, 1, past, 4]"] * 4,
    ]
    assert [value.name for value in with_cache.inputs][2:4] == ["past_key_values.0.key", "past_key_values.0.value"]
    assert [name for name, _ in with_cache.outputs] == [
        "logits",
        "present.0.key",
        "present.0.value",
        "present.1.key",
        "present.1.value",
    ]


def test_a_node_that_mixes_tokens_is_refused_by_name() -> None:
    graph = decoder(Spelling())
    logits = graph.output("logits")
    build = Builder(graph)
    graph.set_outputs([("logits", build(Add(), logits, build(ReduceMean((1,), True), logits)))])
    with pytest.raises(CompileError, match=r"'reduce_mean' .* not parallel along 'seq'"):
        Pipeline.parse(CACHED).run(graph)


@pytest.mark.parametrize("kind", ["counted", "tail", "length"])
def test_what_is_made_of_the_length_alone_is_refused(kind: str) -> None:
    """Positions by cumsum of ones, by the end of a longer arange, and the length as a number would all start anew with each new token."""
    graph = decoder(Spelling())
    logits = graph.output("logits")
    seq = logits.type.shape[1]
    build = Builder(graph)
    match kind:
        case "counted":
            places = build(CumSum(0), build(Expand((seq,)), build.constant(1.0, f32)))
        case "tail":
            places = build(Cast(f32), build(Slice(0, 1, seq + 1), build(Iota(seq + 1))))
        case _:
            places = build(Expand((seq,)), build(Cast(f32), build(DimSize(seq))))
    graph.set_outputs([("logits", build(Add(), logits, build(Reshape((seq, 1)), places)))])
    with pytest.raises(CompileError, match="new tokens only"):
        Pipeline.parse(CACHED).run(graph)


def test_numbers_that_are_the_same_for_every_token_stay() -> None:
    graph = decoder(Spelling())
    logits = graph.output("logits")
    build = Builder(graph)
    graph.set_outputs([("logits", build(Add(), logits, build(Expand((*logits.type.shape[:2], 1)), build.constant(0.5, f32))))])
    verify(Pipeline.parse(CACHED).run(graph))
