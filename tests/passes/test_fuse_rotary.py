from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.passes.rotary_graphs import CONTEXT, HEADS, Spelling, rotation, with_transposed_heads

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph, Node
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops import Concat, Cos, Mul, Rotary, Sin, Slice, Transpose
from cgptc.ir.verify import verify
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.testing.tolerances import assert_t1

FUSION = "canonicalize,cse,fuse-rotary,canonicalize,cse,dead-code"

spellings = st.builds(
    Spelling,
    form=st.sampled_from(["rotate", "parts", "rotate-pairs", "pairs", "stacked"]),
    table=st.sampled_from(["once", "twice", "stored"]),
    width=st.sampled_from([2, 4, 6, 10]),
    rest=st.sampled_from([0, 1, 4]),
    tokens_first=st.booleans(),
    split=st.booleans(),
    reverse=st.booleans(),
    packed=st.booleans(),
    heads=st.sampled_from([1, HEADS]),
)


def inputs(graph: Graph, batch: int, length: int, seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    size = graph.input("x").type.shape
    shape = tuple(dim if isinstance(dim, int) else batch if axis == 0 else length for axis, dim in enumerate(size))
    return {"x": random.standard_normal(shape, np.float32), "positions": random.integers(0, CONTEXT, (batch, length))}


def rotaries(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if isinstance(node.op, Rotary)]


@given(spellings, st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_every_spelling_fuses_and_keeps_its_meaning(spelling: Spelling, batch: int, length: int, seed: int) -> None:
    graph = rotation(spelling)
    fused = Pipeline.parse(FUSION).run(graph.clone())
    verify(fused)
    (node,) = rotaries(fused)
    assert node.op == Rotary(spelling.interleaved and spelling.width > 2)
    assert node.operands[0] is not None
    assert node.operands[0].type.shape[1] == spelling.heads
    assert not any(isinstance(each.op, Mul) and each.result.type.rank == 4 for each in fused.nodes)
    arrays = inputs(graph, batch, length, seed)
    before, after = (evaluate_graph(each, arrays, wide=True)["y"] for each in (graph, fused))
    assert_t1(before, after, depth=graph.node_count, seed=seed)
    text = str(fused)
    assert str(Pipeline.parse("fuse-rotary").run(fused)) == text


def test_each_angle_is_computed_once() -> None:
    fused = Pipeline.parse(FUSION).run(rotation(Spelling("rotate", "once", 8)))
    tables = [node.result.type.shape[-1] for node in fused.nodes if isinstance(node.op, Cos | Sin)]
    assert tables == [4, 4]


def test_rotations_share_their_tables() -> None:
    fused = Pipeline.parse(FUSION).run(rotation(Spelling("rotate", twice=True)))
    first, second = rotaries(fused)
    assert first.operands[1:] == second.operands[1:]
    assert sum(isinstance(node.op, Cos | Sin) for node in fused.nodes) == 2


def test_heads_behind_the_positions_meet_the_transpose_of_attention() -> None:
    fused = Pipeline.parse(FUSION).run(with_transposed_heads(rotation(Spelling("rotate-pairs", tokens_first=True))))
    assert sum(isinstance(node.op, Transpose) for node in fused.nodes) == 1


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("cosine", "different cosines"),
        ("sine", "different sines"),
        ("pair", "not made of a pair"),
    ],
)
def test_a_rotation_that_is_none_stays_and_says_why(damage: str, says: str) -> None:
    graph = rotation(Spelling("rotate", "once", 4))
    products = [node for node in graph.nodes if isinstance(node.op, Mul) and node.result.type.rank == 4]
    straight, turned = products
    if damage == "pair":
        graph.set_operand(turned, 0, straight.inputs[0])
    else:
        node = straight if damage == "cosine" else turned
        flipped = Builder(graph, before=node)
        table = node.inputs[1]
        half = [flipped(Slice(3, start, start + 2), table) for start in (0, 2)]
        graph.set_operand(node, 1, flipped(Concat(3), half[0], flipped(Cos(), half[1])))
    context = PassContext()
    Pipeline.parse("canonicalize,cse,fuse-rotary").run(graph, context)
    assert not rotaries(graph)
    assert [event.kind for event in context.events] == ["missed"]
    assert says in context.events[0].reason
