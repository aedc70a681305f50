"""Chains of views become the shortest that does the same, past linear layers too."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from cgptc.ir import ops
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph, Value
from cgptc.ir.op import Op
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.passes.manager import Pipeline
from cgptc.testing import assert_equivalent

WIDTH, HEADS = 8, 4
BATCH, SEQ = Symbol("batch", 1, 3).dim, Symbol("seq", 1, 5).dim


def multihead(heads: int = HEADS) -> Graph:
    """What PyTorch's ``MultiheadAttention`` with ``batch_first`` exports."""
    graph = Graph()
    build = Builder(graph)
    draw = np.random.default_rng(1)

    def weight(*shape: int) -> Value:
        return build.constant(draw.standard_normal(shape).astype(np.float32))

    x = graph.add_input("x", TensorType(f32, (BATCH, SEQ, WIDTH)))
    packed = build(ops.Linear(), build(ops.Transpose((1, 0, 2)), x), weight(WIDTH, 3 * WIDTH), weight(3 * WIDTH))
    parts = build(ops.Transpose((3, 1, 2, 0, 4)), build(ops.Reshape((1, SEQ, BATCH, 3, WIDTH)), packed))
    parts = build(ops.Reshape((3, SEQ, BATCH, WIDTH)), parts)
    operands = []
    for number in range(3):
        part = build(ops.Slice(0, number, number + 1), parts)
        flat = build(ops.Reshape((SEQ, BATCH * heads, WIDTH // heads)), part)
        operands.append(build(ops.Reshape((BATCH, heads, SEQ, WIDTH // heads)), build(ops.Transpose((1, 0, 2)), flat)))
    y = build.all(ops.Attention(0.5), *operands)[0]
    merged = build(ops.Reshape((SEQ, BATCH, WIDTH)), build(ops.Transpose((2, 0, 1, 3)), y))
    graph.add_output("y", build(ops.Transpose((1, 0, 2)), build(ops.Linear(), merged, weight(WIDTH, WIDTH), weight(WIDTH))))
    return graph


def merged(graph: Graph) -> Graph:
    after = Pipeline.parse("merge-views").run(graph.clone())
    verify(after)
    assert_equivalent(graph, after)
    return after


def test_multihead_attention_keeps_only_the_views_of_its_heads() -> None:
    after = merged(multihead())
    counts = Counter(node.op.name for node in after.nodes if not isinstance(node.op, ops.Constant))
    assert counts == {"linear": 2, "split": 1, "reshape": 4, "transpose": 4, "attention": 1}
    assert all(node.op.permutation == (0, 2, 1, 3) for node in after.nodes if isinstance(node.op, ops.Transpose))


CHAINS: dict[str, tuple[tuple[Op, ...], list[str]]] = {
    "turned and back": ((ops.Transpose((1, 0, 2)), ops.Reshape((12, 2)), ops.Reshape((4, 3, 2)), ops.Transpose((1, 0, 2))), []),
    "divided, turned and joined": (
        (ops.Reshape((3, 2, 2, 2)), ops.Transpose((1, 0, 2, 3)), ops.Transpose((1, 0, 2, 3)), ops.Reshape((3, 8))),
        ["reshape"],
    ),
    "cut in front": ((ops.Reshape((3, 2, 2, 2)), ops.Slice(1, 1, 2), ops.Reshape((3, 2, 2))), ["slice"]),
    "cut behind": ((ops.Reshape((3, 2, 2, 2)), ops.Slice(2, 1, 2), ops.Reshape((3, 2, 2))), ["reshape", "slice", "reshape"]),
    "of other factors": ((ops.Transpose((2, 0, 1)), ops.Reshape((8, 3)), ops.Transpose((1, 0))), ["transpose", "reshape", "transpose"]),
}


@pytest.mark.parametrize("name", CHAINS)
def test_a_chain_is_as_short_as_its_factors_let_it_be(name: str) -> None:
    views, left = CHAINS[name]
    graph = Graph()
    build = Builder(graph)
    value = graph.add_input("x", TensorType(f32, (3, 4, 2)))
    for view in views:
        value = build(view, value)
    graph.add_output("y", value)
    assert [node.op.name for node in merged(graph).nodes] == left


def test_a_view_that_something_else_reads_stays() -> None:
    graph = Graph()
    build = Builder(graph)
    turned = build(ops.Transpose((1, 0)), graph.add_input("x", TensorType(f32, (3, 4))))
    graph.add_output("turned", turned)
    graph.add_output("y", build(ops.Reshape((2, 6)), turned))
    assert [node.op.name for node in merged(graph).nodes] == ["transpose", "reshape"]
