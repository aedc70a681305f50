"""Prices of the wafer target for passes that ask."""

from __future__ import annotations

from cgptc.backends.wafer.cost import AREA, WaferCostModel
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.ops.elementwise import Silu
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.staged import Staged
from cgptc.ir.types import TensorType
from cgptc.ir.weights import Stored
from cgptc.passes.manager import PassContext, Pipeline

MODEL = WaferCostModel()


def test_moving_a_value_takes_a_cycle_per_wavelet_and_line() -> None:
    start = MODEL.transfer(0).time
    assert MODEL.transfer(4 * 64).time == start + 1
    assert MODEL.transfer(4 * AREA).time == start + 64


def test_the_pass_cuts_equal_layers_evenly_by_these_prices() -> None:
    graph = Graph("layers")
    value = graph.add_input("x", TensorType(f32, (Symbol("seq", 1, 64).dim, 256)))
    build = Builder(graph)
    for layer in range(6):
        value = build(Silu(), build(Linear(), value, build.weight(Stored(f"w{layer}", f32, (256, 256))), None))
    graph.add_output("y", value)
    Pipeline.parse("pipeline{stages=3 seq=64}").run(graph, PassContext(cost_model=MODEL))
    linears = [sum(isinstance(node.op, Linear) for node in stage.nodes) for stage in Staged.of(graph).stages]
    assert linears == [2, 2, 2]
