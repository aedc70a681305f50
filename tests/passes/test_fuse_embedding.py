from __future__ import annotations

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops import Embedding, Expand, GatherElements, Reshape
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.passes.manager import Pipeline
from cgptc.testing.tolerances import assert_t0


def repeated_lookup(table_last: bool = False) -> Graph:
    """Rows of a table [5, 4] repeated for the batch, read at positions repeated for each feature, as GPT-J reads its angles."""
    graph = Graph()
    build = Builder(graph)
    batch, seq = Symbol("batch", 1, 4).dim, Symbol("seq", 1, 5).dim
    positions = graph.add_input("positions", TensorType(i64, (batch, seq)))
    table = build.constant(np.arange(20, dtype=np.float32).reshape(5, 4))
    inner = (1, 5, 1, 4) if not table_last else (5, 1, 1, 4)
    outer = (batch, 5, 1, 4) if not table_last else (5, batch, 1, 4)
    rows = build(Reshape((batch, 5, 4)), build(Expand(outer), build(Reshape(inner), table)))
    places = build(Reshape((batch, seq, 4)), build(Expand((batch, seq, 4)), build(Reshape((batch, seq, 1)), positions)))
    graph.add_output("y", build(GatherElements(1), rows, places))
    return graph


def test_a_lookup_in_a_table_repeated_for_each_row_is_an_embedding() -> None:
    graph = repeated_lookup()
    fused = Pipeline.parse("fuse-embedding,canonicalize,dead-code").run(graph.clone())
    verify(fused)
    assert [node.op.name for node in fused.nodes] == ["constant", "embedding"]
    positions = np.random.default_rng(0).integers(0, 5, (3, 5))
    before, after = (evaluate_graph(each, {"positions": positions})["y"] for each in (graph, fused))
    assert_t0(before, after)


def test_a_table_that_is_not_the_same_for_each_row_of_the_batch_stays() -> None:
    fused = Pipeline.parse("fuse-embedding").run(repeated_lookup(table_last=True))
    assert not any(isinstance(node.op, Embedding) for node in fused.nodes)
