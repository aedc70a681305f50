"""The verifier accepts what the graph's methods build, and names each invariant that damage breaks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import VerifyError
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f16, f32, i64
from cgptc.ir.graph import Graph, Use, Value
from cgptc.ir.loc import Frame, Location
from cgptc.ir.op import Array
from cgptc.ir.ops import Add, Concat, Constant, Iota, LayerNorm, Neg
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.ir.weights import Stored, Weight, WeightStore

batch = Symbol("batch", 1, 8)


def sample() -> Graph:
    """``y = neg(x + x)``, ``z = layer_norm(y, w, _)``."""
    graph = Graph()
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (batch.dim, 4)))
    total = build(Add(), x, x)
    weight = build.weight(Stored("w", f32, (4,)))
    negative = build(Neg(), total)
    graph.add_output("y", negative)
    graph.add_output("z", build(LayerNorm(), negative, weight, None))
    return graph


def test_a_graph_built_by_its_methods_is_accepted() -> None:
    graph = sample()
    before = str(graph), graph.version
    verify(graph)
    assert (str(graph), graph.version) == before


@dataclass(frozen=True)
class Loose(Weight):
    """A weight whose type is not static."""

    @property
    def type(self) -> TensorType:
        return TensorType(f32, (batch.dim,))

    @property
    def key(self) -> str:
        return "loose"

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        raise KeyError(self.key)


def reverse_first_two(graph: Graph) -> None:
    add, constant, negative, _ = graph.nodes
    graph.move_before(negative, add)
    assert constant.alive


def hide_a_node(graph: Graph) -> None:
    add, constant, *_ = graph.nodes
    add._next = constant._next


def loop(graph: Graph) -> None:
    nodes = list(graph.nodes)
    nodes[-1]._next = nodes[-1]
    nodes[-1]._previous = nodes[-1]


def miscount(graph: Graph) -> None:
    graph._node_count += 1


def keep_an_erased_node(graph: Graph) -> None:
    next(graph.nodes).alive = False


def wrong_end(graph: Graph) -> None:
    graph._last = next(graph.nodes)


def forget_a_use(graph: Graph) -> None:
    del graph.inputs[0]._uses[Use(next(graph.nodes), 1)]


def invent_a_use(graph: Graph) -> None:
    graph.inputs[0]._uses[Use(next(graph.nodes), 2)] = None


def forget_an_output(graph: Graph) -> None:
    del graph.output("y")._uses[Use(None, 0)]


def foreign_operand(graph: Graph) -> None:
    graph.set_operand(next(graph.nodes), 0, sample().inputs[0])


def foreign_output(graph: Graph) -> None:
    graph.set_outputs([("y", sample().inputs[0])])


def wrong_producer(graph: Graph) -> None:
    add, _, negative, _ = graph.nodes
    add.results[0].producer = negative


def wrong_index(graph: Graph) -> None:
    next(graph.nodes).results[0].result_index = 1


def made_input(graph: Graph) -> None:
    graph.inputs[0].producer = next(graph.nodes)


def input_twice(graph: Graph) -> None:
    graph._inputs.append(graph.inputs[0])


def same_names(graph: Graph) -> None:
    graph.add_input("other", TensorType(f32)).name = "x"


def no_name(graph: Graph) -> None:
    graph.inputs[0].name = ""


def same_outputs(graph: Graph) -> None:
    graph._outputs[1] = ("y", graph._outputs[1][1])


def changed_type(graph: Graph) -> None:
    next(graph.nodes).results[0]._type = TensorType(f16, (batch.dim, 4))


def refused_type(graph: Graph) -> None:
    graph.set_input_type(graph.inputs[0], TensorType(i64, (batch.dim,)))
    for node in list(graph.nodes)[:1]:
        graph.set_operand(node, 1, graph.add_input("f", TensorType(f32, (3,))))


def missing_operand(graph: Graph) -> None:
    graph.set_operand(next(graph.nodes), 0, None)


def too_few_operands(graph: Graph) -> None:
    node = next(graph.nodes)
    value = node._operands.pop()
    assert value is not None
    del value._uses[Use(node, 1)]


def too_many_operands(graph: Graph) -> None:
    node = next(graph.nodes)
    node._operands.append(graph.inputs[0])
    graph.inputs[0]._uses[Use(node, 2)] = None


def numpy_attribute(graph: Graph) -> None:
    *_, norm = graph.nodes
    norm._op = LayerNorm(eps=np.float64(1e-5))


def loose_weight(graph: Graph) -> None:
    graph.set_op(list(graph.nodes)[1], Constant(Loose()))


def other_bounds(graph: Graph) -> None:
    graph.add_input("b", TensorType(f32, (Symbol("batch", 1, 9).dim,)))


def undetermined_symbol(graph: Graph) -> None:
    graph.insert(Iota(Symbol("seq", 1, 4).dim), [])


def undetermined_product(graph: Graph) -> None:
    seq, past = Symbol("seq", 1, 4).dim, Symbol("past", 0, 4).dim
    graph.add_input("b", TensorType(f32, (seq * past,)))


def negative_stage(graph: Graph) -> None:
    graph.set_stage(next(graph.nodes), -1)


def absolute_path(graph: Graph) -> None:
    graph.set_location(next(graph.nodes), Location((Frame("a", "/home/me/model.py", 3),)))


def absolute_windows_path(graph: Graph) -> None:
    graph.set_location(next(graph.nodes), Location((Frame("a", "C:\\model.py", 3),)))


DAMAGE: dict[Callable[[Graph], None], str] = {
    reverse_first_two: "dominance",
    hide_a_node: "links",
    loop: "links",
    miscount: "links",
    keep_an_erased_node: "links",
    wrong_end: "links",
    forget_a_use: "uses",
    invent_a_use: "uses",
    forget_an_output: "uses",
    foreign_operand: "dominance",
    foreign_output: "dominance",
    wrong_producer: "ownership",
    wrong_index: "ownership",
    made_input: "ownership",
    input_twice: "names",
    same_names: "names",
    no_name: "names",
    same_outputs: "names",
    changed_type: "types",
    refused_type: "types",
    missing_operand: "arity",
    too_few_operands: "arity",
    too_many_operands: "arity",
    numpy_attribute: "attributes",
    loose_weight: "weights",
    other_bounds: "symbols",
    undetermined_symbol: "symbols",
    undetermined_product: "symbols",
    negative_stage: "stages",
    absolute_path: "locations",
    absolute_windows_path: "locations",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_rejected_by_the_invariant_that_it_breaks(damage: Callable[[Graph], None]) -> None:
    graph = sample()
    damage(graph)
    with pytest.raises(VerifyError, match=f"^{DAMAGE[damage]}: "):
        verify(graph)


def test_an_error_shows_ten_nodes_on_either_side() -> None:
    graph = Graph()
    build = Builder(graph)
    value = graph.add_input("x", TensorType(f32, (2,)))
    for index in range(50):
        value = build(Neg(), value)
        value.name = f"v{index}"
    graph.set_stage(list(graph.nodes)[25], -3)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith("stages: stage -3 is negative")
    assert len(lines) == 21
    assert lines[10] == "-> %v25 = neg(%v24) : f32[2] @-3"


def test_a_sum_determines_its_last_unknown_symbol() -> None:
    graph = Graph()
    seq, past = Symbol("seq", 1, 4).dim, Symbol("past", 0, 4).dim
    graph.add_input("mask", TensorType(f32, (past + seq,)))
    graph.add_input("ids", TensorType(f32, (seq,)))
    graph.insert(Iota(past), [])
    verify(graph)


def test_an_erased_operand_is_not_mistaken_for_a_live_one() -> None:
    graph = Graph()
    x = graph.add_input("x", TensorType(f32, (2,)))
    kept = graph.insert(Neg(), [x])
    erased = graph.insert(Neg(), [x])
    graph.erase(erased)
    graph.set_operand(kept, 0, erased.result)
    with pytest.raises(VerifyError, match=r"^dominance"):
        verify(graph)


def test_variadic_operands_are_never_absent() -> None:
    graph = Graph()
    x: Value = graph.add_input("x", TensorType(f32, (2,)))
    node = graph.insert(Concat(axis=0), [x, x])
    graph.set_operand(node, 1, None)
    with pytest.raises(VerifyError, match=r"^arity"):
        verify(graph)
