"""The pass that cuts a graph into stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir.builder import Builder
from cgptc.ir.cost import Price
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.dims import Symbol, evaluate
from cgptc.ir.dtypes import DType, f32, i64
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops.binary import Add, Mul
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cos, Neg, Sin
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.shape import Transpose
from cgptc.ir.stage_graphs import stage_graph
from cgptc.ir.staged import Staged
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.ir.weight_expressions import Transposed
from cgptc.ir.weights import dense
from cgptc.passes.manager import PassContext, Pipeline

WIDTH, VOCABULARY = 4, 40


@dataclass(frozen=True)
class Prices:
    """A time per operation (1 for those not named), the bytes of values, and a cheap or dear way between stages."""

    times: Mapping[str, float]
    moving: float = 0.5
    slots: bool = True
    unit: str = "cycles"

    def price(self, nodes: Sequence[Node], dims: Mapping[str, int], area: int | None = None) -> Price:
        weights = [node for node in nodes if isinstance(node.op, Constant)]
        resident = sum(evaluate(node.result.type.bytes, dims) for node in weights)
        return Price(sum(self.times.get(node.op.name, 1.0) for node in nodes if node not in weights), resident, resident)

    def matmul(self, m: int, k: int, n: int, dtype: DType, sparsity: str = "dense") -> Price:
        return Price(0.0)

    def pick(self, rows: int, width: int, count: int) -> Price:
        return Price(0.0)

    def transfer(self, byte_count: int) -> Price:
        return Price(self.moving, peak_bytes=byte_count if self.slots else 8)


def staged(graph: Graph, options: str, prices: Prices | None = None) -> Staged:
    """The graph after the pass, held to give the same in stages as before."""
    inputs = {value.name: example(value) for value in graph.inputs}
    expected = evaluate_graph(graph, inputs)
    context = PassContext(cost_model=prices or Prices({}))
    Pipeline.parse(f"pipeline{{{options}}}").run(graph, context)
    verify(graph)
    found = Staged.of(graph)
    known: dict[str, Array] = dict(inputs)
    for index in range(len(found.stages)):
        part = stage_graph(found, index)
        verify(part)
        known |= evaluate_graph(part, {value.name: known[value.name] for value in part.inputs})
    for name, array in expected.items():
        np.testing.assert_array_equal(known[name], array)
    return found


def example(value: Value) -> Array:
    shape = tuple(evaluate(dim, {"seq": 3}) for dim in value.type.shape)
    return (np.arange(np.prod(shape)) % 7).reshape(shape).astype(value.type.dtype.numpy)


seq = Symbol("seq", 1, 8)


def model(layers: int) -> Graph:
    """Layers ``x + linear(x * wave)`` between an embedding and a head that share a table; ``wave`` is made from the ids."""
    graph = Graph("model")
    ids = graph.add_input("ids", TensorType(i64, (seq.dim,)))
    scale = graph.add_input("scale", TensorType(f32, (seq.dim, WIDTH)))
    build = Builder(graph)
    weight = dense(np.arange(VOCABULARY * WIDTH, dtype=np.float32).reshape(VOCABULARY, WIDTH) % 3)
    table = build.weight(weight)
    wave = build(Cos(), scale)
    value = build(Embedding(), table, ids)
    for layer in range(layers):
        inner = build(Linear(), build(Mul(), value, wave), build.constant(np.eye(WIDTH, dtype=np.float32) * (1 + layer / 8)), None)
        value = build(Add(), value, inner)
    graph.add_output("logits", build(Linear(), value, build.weight(Transposed(weight, (1, 0))), None))
    return graph


def op_names(found: Staged) -> list[list[str]]:
    return [[node.op.name for node in stage.nodes if not isinstance(node.op, Constant)] for stage in found.stages]


def test_stages_take_whole_layers_and_one_value_crosses_each_cut() -> None:
    found = staged(model(6), "stages=3", Prices({"cos": 0.25}))
    layer = ["mul", "linear", "add"]
    assert op_names(found) == [["cos", "embedding", *layer * 2], ["cos", *layer * 2], ["cos", *layer * 2, "linear"]]
    assert [(edge.producer, edge.consumers, edge.value.op) for edge in found.edges] == [(0, (1,), Add()), (1, (2,), Add())]


def test_a_value_that_is_dear_to_make_is_handed_on() -> None:
    found = staged(model(6), "stages=3", Prices({"cos": 2.0}))
    assert [names.count("cos") for names in op_names(found)] == [1, 0, 0]
    wave = next(edge for edge in found.edges if edge.value.op == Cos())
    assert (wave.consumers, wave.depth) == ((1, 2), 3)


def test_a_table_that_two_stages_need_is_in_both() -> None:
    found = staged(model(2), "stages=2")
    holding = [stage.index for stage in found.stages for node in stage.nodes if node.op == Constant(dense_table(found))]
    assert holding == [0]
    assert [isinstance(node.op, Constant) and isinstance(node.op.weight, Transposed) for node in found.stages[1].nodes].count(True) == 1


def dense_table(found: Staged) -> object:
    node = next(
        node for node in found.graph.nodes if isinstance(node.op, Constant) and node.result.type.static_shape == (VOCABULARY, WIDTH)
    )
    assert isinstance(node.op, Constant)
    return node.op.weight


def test_a_table_is_sent_where_two_copies_do_not_fit_and_the_way_is_narrow() -> None:
    both, layer = 2 * VOCABULARY * WIDTH * 4, 4 * WIDTH * WIDTH
    limit = f"stages=2 memory={(both + 7 * layer) // 2}"
    sent = staged(model(8), limit, Prices({}, slots=False))
    assert [edge.value.type.shape for edge in sent.edges].count((VOCABULARY, WIDTH)) == 1
    assert any(isinstance(node.op, Transpose) for node in sent.stages[1].nodes)
    with pytest.raises(CompileError):
        staged(model(8), limit, Prices({}))  # the buffer would be as large as the copy


def test_what_skips_stages_gets_room_for_each_of_them() -> None:
    graph = Graph("skip")
    build = Builder(graph)
    first = value = build(Neg(), graph.add_input("x", TensorType(f32, (4,))))
    for _ in range(6):
        value = build(Sin(), value)
    graph.add_output("y", build(Add(), value, first))
    found = staged(graph, "stages=4", Prices({}, moving=0.0))
    skipping = next(edge for edge in found.edges if edge.value is first)
    assert (skipping.producer, skipping.consumers[-1], skipping.depth) == (0, 3, 4)


@pytest.mark.parametrize(("layers", "count"), [(8, 8), (1, 1)])
def test_auto_takes_as_many_stages_as_keep_busy(layers: int, count: int) -> None:
    graph = Graph("chain")
    value = graph.add_input("x", TensorType(f32, (4,)))
    for _ in range(layers):
        value = Builder(graph)(Sin(), value)
    graph.add_output("y", value)
    assert len(staged(graph, "stages=auto", Prices({}, moving=0.0)).stages) == count


def test_auto_stops_where_handing_on_costs_more_than_it_saves() -> None:
    assert len(staged(model(8), "stages=auto", Prices({"cos": 0.1}, moving=20.0)).stages) == 1


def test_a_graph_with_too_few_cuts_is_refused_with_how_many_it_has() -> None:
    with pytest.raises(CompileError, match="9 stages need 8 cuts") as caught:
        staged(model(1), "stages=9 width=1", Prices({"cos": 0.1}))
    assert "ask for 3 or fewer" in caught.value.fix


def test_a_limit_that_no_cut_keeps_is_refused_with_what_it_would_take() -> None:
    with pytest.raises(CompileError, match="keeps each within 100 bytes") as caught:
        staged(model(2), "stages=2 memory=100")
    least = int(caught.value.fix.split("2 stages need ")[1].split()[0])
    assert len(staged(model(2), f"stages=2 memory={least}").stages) == 2


@pytest.mark.parametrize("options", ["stages=0", "stages=many"])
def test_a_number_of_stages_is_auto_or_positive(options: str) -> None:
    with pytest.raises(UsageError, match="is no number"):
        Pipeline.parse(f"pipeline{{{options}}}")


@given(st.integers(1, 5), st.integers(1, 4), st.floats(0.0, 2.0))
def test_any_cut_gives_the_same_numbers(layers: int, stages: int, cosine: float) -> None:
    assert len(staged(model(layers), f"stages={stages}", Prices({"cos": cosine})).stages) == stages


def test_layers_that_are_alike_are_priced_once() -> None:
    asked: list[int] = []

    class Counted(Prices):
        def price(self, nodes: Sequence[Node], dims: Mapping[str, int], area: int | None = None) -> Price:
            asked[-1] += 1
            return super().price(nodes, dims, area)

    for layers in (2, 8):
        asked.append(0)
        staged(model(layers), "stages=2", Counted({}))
    assert asked[0] == asked[1]


def test_a_long_chain_is_cut_in_time_that_grows_with_it() -> None:
    graph = Graph("chain")
    value = graph.add_input("x", TensorType(f32, (4,)))
    for _ in range(2_000):
        value = Builder(graph)(Sin(), value)
    graph.add_output("y", value)
    Pipeline.parse("pipeline{stages=4}").run(graph, PassContext(cost_model=Prices({}, moving=0.0)))
    assert [len(stage.nodes) for stage in Staged.of(graph).stages] == [500] * 4
