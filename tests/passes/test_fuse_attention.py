from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.passes.attention_graphs import Spelling, decoder, token_inputs

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import bf16, boolean, f16, f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops import Add, Attention, Cast, MatMul, Reshape, Select, Softmax, Tanh, Transpose
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.testing.tolerances import assert_t1

FUSION = "canonicalize,fuse-linear,fuse-attention,canonicalize,cse,normalize-masks,canonicalize,cse,dead-code"
SPELLINGS = [
    *(
        Spelling(mask=mask, padding=padding)
        for mask, padding in itertools.product(("compare", "buffer", "additive"), ("none", "additive", "boolean"))
    ),
    Spelling(mask="buffer", window=3),
    Spelling(mask="compare", window=3, padding="boolean"),
    Spelling(groups=2, flat_tokens=True, layers=2),
    Spelling(positions="mask", padding="additive"),
]


@pytest.mark.parametrize("spelling", SPELLINGS, ids=str)
def test_every_spelling_fuses_and_keeps_its_meaning(spelling: Spelling) -> None:
    graph = decoder(spelling)
    fused = Pipeline.parse(FUSION).run(graph.clone())
    verify(fused)
    attentions = [node for node in fused.nodes if isinstance(node.op, Attention)]
    assert len(attentions) == spelling.layers
    for node in attentions:
        assert isinstance(node.op, Attention)
        assert (node.op.causal, node.op.window) == (True, spelling.window)
        assert (node.operands[3] is not None) == (spelling.padding != "none")
        assert node.operands[1] is not None
        assert node.operands[1].type.shape[1] == 2 // spelling.groups
    for batch, length in ((1, 1), (2, 5)):
        inputs = token_inputs(graph, batch, length)
        before, after = (evaluate_graph(each, inputs, wide=True)["logits"] for each in (graph, fused))
        assert_t1(before, after, depth=graph.node_count)


def test_scores_that_are_divided_have_the_reciprocal_as_their_scale() -> None:
    fused = Pipeline.parse("fuse-attention").run(decoder(Spelling()))  # canonicalize would make it a product
    assert [node.op.scale for node in fused.nodes if isinstance(node.op, Attention)] == [0.5]


def _scores(extra: bool) -> Graph:
    graph = Graph()
    build = Builder(graph)
    seq = Symbol("seq", 1, 8).dim
    query, key, value = (graph.add_input(name, TensorType(f32, (1, 2, seq, 4))) for name in "qkv")
    scores = build(MatMul(), query, build(Transpose((0, 1, 3, 2)), key))
    probabilities = build(Softmax(3), build(Tanh(), scores) if extra else scores)
    graph.add_output("y", build(MatMul(), probabilities, value))
    if not extra:
        graph.add_output("probabilities", build(Add(), probabilities, probabilities))
    return graph


@pytest.mark.parametrize(("extra", "says"), [(True, "'tanh' stands between"), (False, "used elsewhere too, by 'add'")])
def test_a_near_miss_says_which_predicate_failed(extra: bool, says: str) -> None:
    graph = _scores(extra)
    context = PassContext()
    Pipeline.parse("fuse-attention").run(graph, context)
    assert not any(isinstance(node.op, Attention) for node in graph.nodes)
    assert [event.kind for event in context.events] == ["missed"]
    assert says in context.events[0].reason


@pytest.mark.parametrize(("before", "wanted"), [("f16", "f16"), ("bf16", "bf16")])
def test_scores_that_are_widened_by_hand_fuse_in_the_values_type(before: str, wanted: str) -> None:
    """GPT-Neo and GPT-J widen queries and keys to f32 and multiply the narrowed weights with narrow values."""
    narrow = {"f16": f16, "bf16": bf16}[before]
    graph = Graph()
    q, k, v = (graph.add_input(name, TensorType(narrow, (2, 3, 5, 4))) for name in "qkv")
    build = Builder(graph)
    scores = build(MatMul(), build(Cast(f32), q), build(Transpose((0, 1, 3, 2)), build(Cast(f32), k)))
    graph.add_output("y", build(MatMul(), build(Cast(narrow), build(Softmax(3), scores)), v))
    fused = Pipeline.parse(FUSION).run(graph.clone())
    verify(fused)
    (attention,) = (node for node in fused.nodes if isinstance(node.op, Attention))
    assert {str(each.dtype) for each in attention.operand_types[:3] if each is not None} == {wanted}
    assert not any(isinstance(node.op, Cast) for node in fused.nodes)
    assert_same(graph, fused)


def test_scores_of_another_type_than_the_values_fuse_in_the_wider() -> None:
    graph = Graph()
    q, k = (graph.add_input(name, TensorType(f32, (2, 3, 5, 4))) for name in "qk")
    v = graph.add_input("v", TensorType(f16, (2, 3, 5, 4)))
    build = Builder(graph)
    scores = build(MatMul(), q, build(Transpose((0, 1, 3, 2)), k))
    graph.add_output("y", build(MatMul(), build(Cast(f16), build(Softmax(3), scores)), v))
    fused = Pipeline.parse(FUSION).run(graph.clone())
    verify(fused)
    assert [str(node.operand_types[2]) for node in fused.nodes if isinstance(node.op, Attention)] == ["f32[2, 3, 5, 4]"]
    assert_same(graph, fused)


def assert_same(graph: Graph, fused: Graph) -> None:
    """Both compute the same in float64 on drawn inputs."""
    draw = np.random.default_rng(0)
    inputs = {value.name: draw.normal(size=(2, 3, 5, 4)).astype(value.type.dtype.numpy) for value in graph.inputs}
    expected, actual = (evaluate_graph(each, inputs, wide=True)["y"] for each in (graph, fused))
    assert_t1(expected, actual, depth=graph.node_count)


def test_keys_that_a_vector_hides_are_padding() -> None:
    """PyTorch's ``key_padding_mask`` is true where attention is not to look."""
    graph = Graph()
    q, k, v = (graph.add_input(name, TensorType(f32, (2, 3, 5, 4))) for name in "qkv")
    hidden = graph.add_input("hidden", TensorType(boolean, (2, 5)))
    build = Builder(graph)
    scores = build(MatMul(), q, build(Transpose((0, 1, 3, 2)), k))
    masked = build(Select(), build(Reshape((2, 1, 1, 5)), hidden), build.constant(float("-inf")), scores)
    graph.add_output("y", build(MatMul(), build(Softmax(3), masked), v))
    fused = Pipeline.parse(FUSION).run(graph.clone())
    verify(fused)
    (attention,) = (node for node in fused.nodes if isinstance(node.op, Attention))
    assert [str(each) for each in attention.operand_types[3:]] == ["bool[2, 5]"]
    draw = np.random.default_rng(0)
    inputs = {name: draw.normal(size=(2, 3, 5, 4)).astype(np.float32) for name in "qkv"} | {"hidden": draw.random((2, 5)) < 0.5}
    expected, actual = (evaluate_graph(each, inputs, wide=True)["y"] for each in (graph, fused))
    assert_t1(expected, actual, depth=graph.node_count)
