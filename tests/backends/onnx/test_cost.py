"""Prices of the ONNX target."""

from __future__ import annotations

import pytest
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.backends.onnx.cost import NODE_SECONDS, OnnxCostModel
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32, i8
from cgptc.ir.graph import Graph
from cgptc.ir.ops.elementwise import Neg
from cgptc.ir.types import TensorType

MODEL = OnnxCostModel()


def test_more_tokens_cost_more() -> None:
    nodes = list(TinyGpt().graph().nodes)
    prices = [MODEL.price(nodes, {"batch": 1, "seq": seq, "past": past}) for seq, past in ((1, 0), (1, 30), (8, 0), (32, 0))]
    assert prices[0].time < prices[1].time
    assert prices[0].time < prices[2].time < prices[3].time
    assert len({price.resident_bytes for price in prices}) == 1


def test_faster_memory_and_arithmetic_never_cost_more() -> None:
    faster = OnnxCostModel(bytes_per_second=2 * MODEL.bytes_per_second, flops_per_second={"f32": 1e12})
    for m in (1, 512):
        assert faster.matmul(m, 768, 3072, f32).time <= MODEL.matmul(m, 768, 3072, f32).time


def test_one_row_is_bound_by_memory_and_many_by_arithmetic() -> None:
    one, many = MODEL.matmul(1, 768, 3072, f32).time - NODE_SECONDS, MODEL.matmul(512, 768, 3072, f32).time - NODE_SECONDS
    assert one == pytest.approx((768 * 3072 + 768 + 3072) * 4 / MODEL.bytes_per_second)
    assert MODEL.matmul(2, 768, 3072, f32).bytes_in == 2 * 768 * 4
    assert MODEL.matmul(2, 768, 3072, f32).bytes_out == 2 * 3072 * 4
    assert many == pytest.approx(2 * 512 * 768 * 3072 / MODEL.flops_per_second["f32"])


def test_zeros_inside_a_matrix_save_nothing_and_narrow_weights_do() -> None:
    dense = MODEL.matmul(1, 768, 3072, f32)
    assert MODEL.matmul(1, 768, 3072, f32, "2:4") == dense
    assert MODEL.matmul(1, 768, 3072, i8).time < dense.time


def test_traffic_is_what_enters_and_leaves() -> None:
    graph = Graph("chain")
    x = graph.add_input("x", TensorType(f32, (Symbol("seq", 1, 9).dim, 4)))
    build = Builder(graph)
    graph.add_output("y", build(Neg(), build(Neg(), x)))
    price = MODEL.price(list(graph.nodes), {"seq": 3})
    assert (price.bytes_in, price.bytes_out, price.resident_bytes) == (48, 48, 0)
    first = MODEL.price(list(graph.nodes)[:1], {"seq": 3})
    assert first.bytes_out == 48


def test_moving_more_costs_more() -> None:
    small, large = MODEL.transfer(1_000), MODEL.transfer(1_000_000)
    assert 0 < small.time < large.time
    assert (small.peak_bytes, large.peak_bytes) == (1_000, 1_000_000)
