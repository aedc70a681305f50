from __future__ import annotations

import numpy as np

from cgptc.ir import ops
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.passes.manager import Pipeline
from cgptc.testing.tolerances import assert_t1

BATCH, SEQ = Symbol("batch", 1, 8).dim, Symbol("seq", 1, 8).dim


def flat_mlp(between: ops.Op | None = None) -> Graph:
    """``x + linear(relu(norm(x)))`` over flattened tokens, as OPT has it; ``between`` acts on them too."""
    graph = Graph()
    x, scale = graph.add_input("x", TensorType(f64, (BATCH, SEQ, 6))), graph.add_input("scale", TensorType(f64, (6,)))
    weight = graph.add_input("weight", TensorType(f64, (6, 6)))
    build = Builder(graph)
    flat = build(ops.Reshape((BATCH * SEQ, 6)), x)
    if between is not None:
        flat = build(between, flat)
    hidden: Value = build(ops.Relu(), build(ops.LayerNorm(), flat, scale))
    y = build(ops.Add(), flat, build(ops.Linear(), hidden, weight))
    graph.add_output("y", build(ops.Reshape((BATCH, SEQ, 6)), y))
    return graph


def test_flattened_tokens_stay_apart_and_mean_the_same() -> None:
    graph = flat_mlp()
    sunk = Pipeline.parse("sink-reshapes,canonicalize,dead-code").run(graph.clone())
    verify(sunk)
    assert [node.op.name for node in sunk.nodes] == ["layer_norm", "relu", "linear", "add"]
    generator = np.random.default_rng(0)
    inputs = {"x": generator.normal(size=(2, 3, 6)), "scale": generator.normal(size=6), "weight": generator.normal(size=(6, 6))}
    assert_t1(evaluate_graph(graph, inputs)["y"], evaluate_graph(sunk, inputs)["y"], depth=graph.node_count)


def test_what_mixes_rows_keeps_them_flat() -> None:
    graph = flat_mlp(ops.CumSum(0))
    before = str(graph)
    assert str(Pipeline.parse("sink-reshapes").run(graph)) == before


def test_a_table_of_rows_is_no_row() -> None:
    """An operand with an axis of its own for the merged rows cannot go with them."""
    graph = Graph()
    x, table = graph.add_input("x", TensorType(f64, (2, 3, 4))), graph.add_input("table", TensorType(f64, (6, 4)))
    build = Builder(graph)
    graph.add_output("y", build(ops.Add(), build(ops.Reshape((6, 4)), x), table))
    before = str(graph)
    assert str(Pipeline.parse("sink-reshapes").run(graph)) == before
