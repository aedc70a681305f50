from __future__ import annotations

import numpy as np
import pytest
from tests.passes.attention_graphs import HEADS, VOCABULARY, WIDTH, Spelling, decoder, token_inputs
from tests.passes.test_fuse_attention import FUSION

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.dtypes import boolean, f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops import (
    Add,
    Cast,
    Concat,
    DimSize,
    Expand,
    Flip,
    Iota,
    ReduceMean,
    Reshape,
    Slice,
    Softmax,
    Sub,
)
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
POSITIONED = [
    *(Spelling(positions=spelled) for spelled in ("table", "offset-table", "counted", "longer-iota", "float-iota")),
    Spelling(bias="distance", layers=2),
    Spelling(bias="distance", positions="table", padding="additive", groups=2),
    Spelling(bias="keys", mask="additive"),
    Spelling(bias="from-the-end", mask="buffer"),
    Spelling(bias="buckets", window=3),
    Spelling(bias="places"),
    Spelling(bias="pairs", mask="buffer", padding="additive"),
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
@pytest.mark.parametrize("steps", [[7], [6, 1], [1] * 7, [2, 4, 1]], ids=str)
def test_prefill_and_decode_give_what_the_full_run_gives(spelling: Spelling, steps: list[int]) -> None:
    graph, with_cache = cached(spelling)
    inputs = token_inputs(graph, 2, 7)
    whole = evaluate_graph(graph, inputs, wide=True)["logits"]
    stepped = run_in_steps(with_cache, inputs["input_ids"], np.ones((2, 7), np.int64), steps)
    assert_t1(whole, stepped, depth=with_cache.node_count)


@pytest.mark.parametrize("spelling", POSITIONED, ids=str)
def test_positions_in_any_spelling_have_a_cached_form(spelling: Spelling) -> None:
    test_prefill_and_decode_give_what_the_full_run_gives(spelling, [2, 4, 1])


@pytest.mark.parametrize("spelling", [*SPELLINGS, *POSITIONED], ids=str)
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


@pytest.mark.parametrize("kind", ["backwards", "flipped", "shifted", "end-of-table", "length", "odd-places"])
def test_what_is_made_of_the_length_is_refused(kind: str) -> None:
    """Each of these would start anew with each new token, or take another token's position."""
    graph = decoder(Spelling())
    logits = graph.output("logits")
    seq = logits.type.shape[1]
    build = Builder(graph)
    iota = build(Iota(seq))
    match kind:
        case "backwards":
            places = build(Sub(), build(DimSize(seq)), iota)
        case "flipped":
            places = build(Flip((0,)), iota)
        case "shifted":
            places = build(Concat(0), build.constant(np.zeros(1, np.int64)), build(Slice(0, 0, seq - 1), iota))
        case "end-of-table":
            places = build(Slice(0, 12 - seq, 12), build.constant(np.arange(12)))
        case "odd-places":
            places = build(Slice(0, 0, 2 * seq, 2), build(Iota(2 * seq)))
        case _:
            places = build(Expand((seq,)), build(DimSize(seq)))
    graph.set_outputs([("logits", build(Add(), logits, build(Reshape((seq, 1)), build(Cast(f32), places))))])
    with pytest.raises(CompileError, match=r"new tokens only|another's|one position per row"):
        Pipeline.parse(CACHED).run(graph)


@pytest.mark.parametrize("kind", ["learned", "later", "shifted-table"])
def test_a_mask_that_has_no_cached_form_is_refused(kind: str) -> None:
    """A bias of the tokens themselves, one that lets a query see what comes, and a square table that is not read from its first row on."""
    graph = decoder(Spelling(bias="distance"))
    softmax = next(node for node in graph.nodes if isinstance(node.op, Softmax))
    seq = softmax.result.type.shape[3]
    scores, mask = softmax.inputs[0], softmax.inputs[0].producer
    build = Builder(graph, before=softmax)
    match kind:
        case "learned":
            ids = graph.inputs[0]
            hidden = build(Reshape((ids.type.shape[0], 1, 1, seq)), build(Cast(f32), ids))
            graph.set_operand(softmax, 0, build(Add(), scores, hidden))
        case "later":
            assert mask is not None
            graph.set_operand(mask, 0, build.constant(True, boolean))
        case _:
            table = build.constant(np.random.default_rng(0).standard_normal((13, 13)).astype(np.float32))
            graph.set_operand(softmax, 0, build(Add(), scores, build(Slice(1, 1, seq + 1), build(Slice(0, 1, seq + 1), table))))
    with pytest.raises(CompileError, match=r"more than positions|not causal|length in a way|not parallel"):
        Pipeline.parse(CACHED).run(graph)


def test_numbers_that_are_the_same_for_every_token_stay() -> None:
    graph = decoder(Spelling())
    logits = graph.output("logits")
    build = Builder(graph)
    graph.set_outputs([("logits", build(Add(), logits, build(Expand((*logits.type.shape[:2], 1)), build.constant(0.5, f32))))])
    verify(Pipeline.parse(CACHED).run(graph))
