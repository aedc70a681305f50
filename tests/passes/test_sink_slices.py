from __future__ import annotations

import pytest
from tests.passes.attention_graphs import Spelling, decoder, token_inputs
from tests.passes.test_fuse_attention import FUSION

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops import LayerNorm, Linear, Neg, Slice
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.passes.instruments import HonestyCheck, VerifyEach
from cgptc.passes.manager import Pipeline
from cgptc.testing.tolerances import assert_t1

LAST = FUSION + ",last-token-logits,sink-slices,canonicalize,cse,dead-code"


@pytest.mark.parametrize("spelling", [Spelling(layers=2), Spelling(padding="additive", flat_tokens=True)], ids=str)
def test_the_last_tokens_logits_are_those_of_the_whole(spelling: Spelling) -> None:
    graph = decoder(spelling)
    last = Pipeline.parse(LAST).run(graph.clone())
    verify(last)
    for length in (1, 5):
        inputs = token_inputs(graph, 2, length)
        whole = evaluate_graph(graph, inputs, wide=True)["logits"]
        assert_t1(whole[:, -1:], evaluate_graph(last, inputs, wide=True)["logits"], depth=graph.node_count)


def test_what_only_the_last_token_needs_runs_over_the_last_token() -> None:
    graph = Pipeline.parse(LAST).run(decoder(Spelling(layers=2)))
    linears = [node for node in graph.nodes if isinstance(node.op, Linear)]
    lengths = [node.result.type.shape[1] for node in linears]
    # The head and the last block's output projection shrink; what feeds attention does not.
    assert [length == 1 for length in lengths] == [False, False, False, True, True]
    norms = [node for node in graph.nodes if isinstance(node.op, LayerNorm)]
    assert norms[-1].result.type.shape[1] == 1


def test_a_slice_stays_where_the_whole_is_used_too() -> None:
    graph = decoder(Spelling())
    whole = graph.output("logits")
    Pipeline.parse("last-token-logits{output=logits}").run(graph)
    graph.add_output("all", whole)
    before = str(graph)
    assert str(Pipeline.parse("sink-slices").run(graph)) == before
    assert sum(isinstance(node.op, Slice) for node in graph.nodes) == 1


def test_equal_slices_become_one_where_they_cannot_move_too() -> None:
    graph = Graph()
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (4, 2)))
    for number in range(3):
        graph.add_output(f"y{number}", build(Neg(), build(Slice(0, 1, 3), x)))
    Pipeline.parse("sink-slices").run(graph, instruments=[VerifyEach(), HonestyCheck()])
    assert [type(node.op) for node in graph.nodes] == [Slice, Neg, Neg, Neg]


def test_equal_slices_of_one_value_become_one() -> None:
    graph = Pipeline.parse(LAST).run(decoder(Spelling(layers=1)))
    slices = [(node.op, node.operands) for node in graph.nodes if isinstance(node.op, Slice)]
    assert len(slices) == len(set(slices))
