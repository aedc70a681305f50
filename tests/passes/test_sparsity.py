"""Sparsity: patterns are put where they were asked for and survive; what is dead goes, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.backends.onnx.execution import ORT, model_of, run, session_of
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dtypes import f16, f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.masked_weights import Masked
from cgptc.ir.op import Array
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import Mul
from cgptc.ir.ops.elementwise import Silu
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.shape import Split
from cgptc.ir.parser import parse_graph
from cgptc.ir.quantised_weights import Quantised
from cgptc.ir.sparsity import DENSE, UNKNOWN, sparsity_of
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.ir.weight_expressions import Added, Concatenated, Converted, Scaled, Sliced, Taken, Transposed
from cgptc.ir.weights import MemoryStore, Stored, Weight, dense
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.testing import assert_equivalent, assert_t1, random_inputs


def after(text: str, model: TinyGpt | None = None, context: PassContext | None = None) -> Graph:
    graph = (model or TinyGpt()).graph()
    Pipeline.parse(text).run(graph, context or PassContext())
    verify(graph)
    return graph


def layers(graph: Graph) -> dict[str, Weight]:
    """The weights of linear layers by the modules that they stand in, numbered."""
    found: dict[str, Weight] = {}
    for node in graph.nodes:
        if isinstance(node.op, Linear):
            weight = node.inputs[1].op.weight  # type: ignore[union-attr]
            found[f"{node.location.path} {len(found)}"] = weight
    return found


def zeros(weight: Weight, graph: Graph) -> Array:
    return np.asarray(weight.read(graph.store) == 0)


@given(st.sampled_from(["element", "2:4", "1:3", "4x8", "5x3"]), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
@settings(max_examples=12, deadline=None)
def test_the_pattern_is_what_was_asked_for(pattern: str, fraction: float) -> None:
    graph = after(f"sparsify{{pattern={pattern} fraction={fraction} keep=lm_head}}")
    for name, weight in layers(graph).items():
        if name.startswith("lm_head"):
            assert sparsity_of(weight) == DENSE
            continue
        empty = zeros(weight, graph)
        if pattern == "element":
            assert np.count_nonzero(empty) == int(fraction * empty.size)
            magnitudes = np.abs(weight.base.read(graph.store))  # type: ignore[attr-defined]
            assert magnitudes[empty].max(initial=0) <= magnitudes[~empty].min(initial=np.inf)
        elif ":" in pattern:
            n, m = map(int, pattern.split(":"))
            whole = len(empty) // m * m
            assert (np.count_nonzero(~empty[:whole].reshape(-1, m, empty.shape[1]), axis=1) == n).all()
        else:
            tall, wide = map(int, pattern.split("x"))
            starts = [(row, column) for row in range(0, len(empty), tall) for column in range(0, empty.shape[1], wide)]
            parts = [empty[row : row + tall, column : column + wide] for row, column in starts]
            assert all(part.all() or not part.any() for part in parts)
            assert sum(part.all() for part in parts) == int(fraction * len(parts))


def test_globs_choose_and_exempt_layers() -> None:
    graph = after("sparsify{fraction=0.75 only=h.*.mlp keep=h.1}")
    masked = [name for name, weight in layers(graph).items() if isinstance(weight, Masked)]
    assert [name.split()[0] for name in masked] == ["transformer.h.0.mlp"] * 2


def test_a_tied_head_is_left_alone_and_says_so() -> None:
    context = PassContext()
    graph = after("sparsify", context=context)
    assert sparsity_of(list(layers(graph).values())[-1]) == DENSE
    assert ["used elsewhere" in event.reason for event in context.events if event.kind == "missed"] == [True]


def test_zeros_in_a_table_leave_the_head_that_is_tied_to_it_as_it_is() -> None:
    graph, context = TinyGpt().graph(), PassContext()
    table = next(tensor for name, tensor in graph.store.tensors.items() if "wte" in name)  # type: ignore[attr-defined]
    table[0] = 0
    Pipeline.parse("find-zeros").run(graph, context)
    assert sparsity_of(list(layers(graph).values())[-1]) == DENSE
    assert ["used elsewhere" in event.reason for event in context.events if event.kind == "missed"] == [True]


MODELS = [TinyGpt(), TinyGpt(key_heads=4, rotary=True), TinyGpt(cached=False, tied=False)]


@pytest.mark.parametrize("model", MODELS, ids=["grouped", "rotary", "without a cache"])
@pytest.mark.parametrize("passes", ["prune-neurons{fraction=0.3}", "prune-heads{count=2}", "prune-heads,prune-neurons{fraction=0.75}"])
def test_what_is_removed_is_what_was_masked(model: TinyGpt, passes: str) -> None:
    masked, removed = after(passes, model), after(f"{passes},remove-dead,dead-code", model)
    assert sum(node.result.type.shape[-1] for node in removed.nodes if isinstance(node.op, Linear)) < sum(  # type: ignore[misc]
        node.result.type.shape[-1]
        for node in masked.nodes
        if isinstance(node.op, Linear)  # type: ignore[misc]
    )
    inputs = random_inputs(masked, seed=5, sizes={"batch": 2, "seq": 5, "past": 3} if model.cached else {"batch": 2, "seq": 5})
    inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
    fewer = dict(inputs)
    for value in removed.inputs:
        if value.name.startswith("past"):
            layer = int(value.name.split(".")[1])
            fewer[value.name] = inputs[value.name][:, living(masked, layer, model)]
    expected, actual = (evaluate_graph(graph, given, wide=True) for graph, given in ((masked, inputs), (removed, fewer)))
    assert_t1(expected["logits"], actual["logits"], depth=60)
    found = run(session_of(model_of(removed, ORT)), fewer)
    assert np.allclose(found[0].shape, expected["logits"].shape)
    assert np.corrcoef(found[0].reshape(-1), expected["logits"].reshape(-1))[0, 1] > 1 - 2.0**-20


def living(masked: Graph, layer: int, model: TinyGpt) -> list[int]:
    """Key heads of which the projection reads something."""
    weight = [weight for name, weight in layers(masked).items() if name.startswith(f"transformer.h.{layer}.attn")][3]
    rows = ~zeros(weight, masked).all(axis=1)
    return [int(head) for head in np.flatnonzero(rows.reshape(model.key_heads, -1).any(axis=1))]


def test_removed_heads_leave_a_smaller_cache() -> None:
    graph = after("prune-heads{count=2},remove-dead")
    assert {str(value.type) for value in graph.inputs if value.name.startswith("past")} == {"f32[batch, 1, past, 8]"}
    assert {node.operands[0].type.shape[1] for node in graph.nodes if isinstance(node.op, Attention)} == {2}  # type: ignore[union-attr]


def test_heads_that_share_keys_go_together() -> None:
    with pytest.raises(UsageError, match="3 of 4 heads cannot go"):
        after("prune-heads{count=3}")
    with pytest.raises(UsageError, match="4 of 4 heads cannot go"):
        after("prune-heads{count=4}")


def gated(packed: bool) -> Graph:
    """``down(silu(gate(x)) * up(x))``, gate and up as two layers or as the halves of one."""
    rng = np.random.default_rng(1)
    graph = Graph("gated", store := MemoryStore({}))
    build = Builder(graph)

    def weight(name: str, *shape: int) -> Weight:
        return store.add(name, rng.standard_normal(shape).astype(np.float32))

    x = graph.add_input("x", TensorType(f32, (3, 6)))
    gate, up = weight("gate", 6, 10), weight("up", 6, 10)
    if packed:
        whole = build(Linear(), x, build.weight(Concatenated((gate, up), 1)), build.weight(weight("bias", 20)))
        left, right = build.all(Split(1, (10, 10)), whole)
    else:
        left, right = (build(Linear(), x, build.weight(each)) for each in (gate, up))
    hidden = build(Mul(), build(Mul(), build(Silu(), left), right), build.weight(weight("scale", 10)))
    graph.add_output("y", build(Linear(), hidden, build.weight(weight("down", 10, 6)), build.weight(weight("down_bias", 6))))
    return graph


@pytest.mark.parametrize("packed", [False, True])
def test_gated_neurons_go_with_both_of_their_layers(packed: bool) -> None:
    graph = gated(packed)
    Pipeline.parse("prune-neurons{fraction=0.4}").run(graph)
    masked = graph.clone()
    Pipeline.parse("remove-dead,dead-code").run(graph)
    verify(graph)
    widths = [node.result.type.shape[-1] for node in graph.nodes if isinstance(node.op, Linear)]
    assert widths == ([12, 6] if packed else [6, 6, 6])
    assert_equivalent(masked, graph)


def test_neurons_that_something_else_reads_stay() -> None:
    graph = gated(False)
    hidden = next(node for node in graph.nodes if isinstance(node.op, Silu))
    graph.add_output("hidden", hidden.result)
    assert not Pipeline.parse("prune-neurons").passes[0].run(graph, PassContext())


def test_heads_that_cannot_go_say_why() -> None:
    graph, context = TinyGpt(cached=False).graph(), PassContext()
    first, *_ = (node for node in graph.nodes if isinstance(node.op, Attention))
    graph.add_output("keys", first.inputs[1])
    Pipeline.parse("prune-heads").run(graph, context)
    (event,) = context.findings("missed")
    assert (event.subject, event.reason, event.node) == ("heads", "queries, keys or values are used elsewhere too", first)


def test_zeros_of_a_checkpoint_are_found_with_their_pattern() -> None:
    graph = gated(False)
    tensors = graph.store.tensors  # type: ignore[attr-defined]
    tensors["down"][[1, 4, 7]] = 0
    tensors["gate"][:, 2] = np.nan
    tensors["up"][1, 1] = 0
    before = graph.clone()
    Pipeline.parse("find-zeros").run(graph)
    kinds = [str(sparsity_of(weight)) for weight in layers(graph).values()]
    assert kinds == ["columns", "unstructured", "rows"]
    assert not np.isnan(evaluate_graph(graph, {"x": np.ones((3, 6), np.float32)})["y"]).any()
    tensors["gate"][:, 2] = 0
    assert_equivalent(before, graph)
    Pipeline.parse("remove-dead,dead-code").run(graph)
    assert [node.result.type.shape[-1] for node in graph.nodes if isinstance(node.op, Linear)] == [7, 7, 6]
    assert_equivalent(before, graph)


def test_masks_of_a_file_are_applied_by_name() -> None:
    graph = gated(False)
    mask = np.ones((10, 6), np.bool_)
    mask[0] = False
    Pipeline.parse("apply-masks").run(graph, PassContext(masks={"down": dense(mask)}))
    assert zeros(list(layers(graph).values())[-1], graph).all(axis=1).tolist() == [True] + [False] * 9
    with pytest.raises(UsageError, match="'nothing' names no tensor"):
        Pipeline.parse("apply-masks").run(graph, PassContext(masks={"nothing": dense(mask)}))
    with pytest.raises(UsageError, match=r"has shape \[10, 6\]"):
        Pipeline.parse("apply-masks").run(gated(False), PassContext(masks={"up": dense(mask)}))


BASE = Stored("w", f32, (8, 4))
ROWS = Masked(BASE, dense(np.arange(8) % 2 == 0), 0)
FULL = Masked(BASE, dense(np.arange(32).reshape(8, 4) % 3 == 0), None, "2:4@0")


@pytest.mark.parametrize(
    ("weight", "kind"),
    [
        (BASE, "dense"),
        (ROWS, "rows"),
        (Transposed(ROWS, (1, 0)), "columns"),
        (Sliced(ROWS, 0, 2, 6), "rows"),
        (Sliced(ROWS, 1, 0, 2), "rows"),
        (Taken(ROWS, 0, (0, 1, 5)), "rows"),
        (Concatenated((ROWS, BASE), 0), "rows"),
        (Concatenated((ROWS, ROWS), 1), "rows"),
        (Concatenated((ROWS, BASE), 1), "unknown"),
        (Converted(ROWS, f16), "rows"),
        (Scaled(ROWS, Stored("s", f32, (4,)), 1), "rows"),
        (Quantised(Transposed(ROWS, (1, 0)), 8), "columns"),
        (Added(ROWS, BASE), "unknown"),
        (FULL, "n:m 2:4@0"),
        (Transposed(FULL, (1, 0)), "n:m 2:4@1"),
        (Sliced(FULL, 0, 1, 7), "unstructured"),
        (Masked(FULL, dense(np.arange(32).reshape(8, 4) % 5 != 0)), "n:m 2:4@0"),
        (Masked(ROWS, dense(np.arange(32).reshape(8, 4) % 5 != 0)), "rows"),
        (Masked(Masked(BASE, FULL.mask), dense(np.arange(32).reshape(8, 4) % 5 != 0)), "unstructured"),
        (Concatenated((FULL, FULL), 1), "unstructured"),
    ],
    ids=str,
)
def test_each_expression_keeps_what_it_can_of_a_pattern(weight: Weight, kind: str) -> None:
    found = sparsity_of(weight)
    assert str(found) == kind
    store = MemoryStore({"w": np.ones((8, 4), np.float32), "s": np.ones(4, np.float32)})
    if found.mask is not None:
        keep = found.mask.read(store)
        full = keep if keep.ndim == 2 else keep[:, None] if found.kind == "rows" else keep[None, :]
        assert not weight.read(store)[~np.broadcast_to(full, weight.shape)].any()
    assert found != UNKNOWN or kind == "unknown"


def test_patterns_survive_text_quantisation_and_conversion() -> None:
    graph = after("sparsify{pattern=2:4 keep=lm_head},prune-neurons,convert{dtype=f16}")
    text = str(graph)
    assert str(parse_graph(text, graph.store)) == text
    kinds = {sparsity_of(weight).kind for name, weight in layers(graph).items() if not name.startswith("lm_head")}
    assert kinds == {"n:m", "rows"}


@pytest.mark.parametrize("text", ["sparsify{pattern=3:2}", "sparsify{pattern=rows}", "prune-neurons{fraction=2}", "prune-heads{count=-1}"])
def test_options_that_mean_nothing_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Pipeline.parse(text)
