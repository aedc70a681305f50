from __future__ import annotations

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops import Transpose
from cgptc.ir.types import TensorType
from cgptc.passes.manager import Pipeline
from cgptc.testing.tolerances import assert_t0


def test_two_turns_of_three_axes_are_one_turn() -> None:
    graph = Graph()
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (2, 3, 5)))
    graph.add_output("y", build(Transpose((0, 2, 1)), build(Transpose((1, 0, 2)), x)))
    merged = Pipeline.parse("canonicalize").run(graph.clone())
    assert [node.op for node in merged.nodes] == [Transpose((1, 2, 0))]
    inputs = {"x": np.arange(30, dtype=np.float32).reshape(2, 3, 5)}
    assert_t0(evaluate_graph(graph, inputs)["y"], evaluate_graph(merged, inputs)["y"])
