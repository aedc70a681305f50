"""Editing graphs: use-lists stay exact, iteration survives, and nothing recurses over their size."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir.diagnostics import OpTypeError
from cgptc.ir.dtypes import f16, f32
from cgptc.ir.equality import graphs_equal
from cgptc.ir.graph import Graph, Node, Use, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.loc import Frame, Location
from cgptc.ir.ops import Add, Cast, Concat, Neg, Split, Tanh
from cgptc.ir.parser import parse_graph
from cgptc.ir.printer import print_graph
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify

SCALAR = TensorType(f32)


def chain(count: int) -> Graph:
    graph = Graph()
    value = graph.add_input("x", SCALAR)
    for _ in range(count):
        value = graph.insert(Neg(), [value]).result
    graph.add_output("y", value)
    return graph


def fan(count: int) -> Graph:
    """One value that ``count`` nodes use, all of which one node uses."""
    graph = Graph()
    x = graph.add_input("x", TensorType(f32, (1,)))
    graph.add_output("y", graph.insert(Concat(0), [graph.insert(Neg(), [x]).result for _ in range(count)]).result)
    return graph


def wide_interface(count: int) -> Graph:
    graph = Graph()
    values = [graph.add_input(f"x{index}", TensorType(f32, (1,))) for index in range(count)]
    for index, value in enumerate(values):
        graph.add_output(f"y{index}", value)
    graph.add_output("all", graph.insert(Concat(0), values).result)
    return graph


@given(st.data())
def test_use_lists_stay_exact_under_any_edits(data: st.DataObject) -> None:
    graph = chain(2)
    for _ in range(data.draw(st.integers(1, 12))):
        nodes = list(graph.nodes)
        before = graph.version
        edit = data.draw(st.sampled_from([insert, erase, replace, set_operand, move, set_op, outputs, rename]))
        if edit(data, graph, nodes):
            assert graph.version > before
        verify(graph)
        assert graph.node_count == len(list(graph.nodes))
        assert list(graph.nodes) == list(graph.reversed_nodes)[::-1]


def values_before(graph: Graph, node: Node | None) -> list[Value]:
    found = list(graph.inputs)
    for other in graph.nodes:
        if other is node:
            break
        found += other.results
    return found


def insert(data: st.DataObject, graph: Graph, nodes: list[Node]) -> bool:
    before = data.draw(st.sampled_from([None, *nodes]))
    known = st.sampled_from(values_before(graph, before))
    op, count = data.draw(st.sampled_from([(Neg(), 1), (Add(), 2)]))
    graph.insert(op, [data.draw(known) for _ in range(count)], before=before)
    return True


def erase(data: st.DataObject, graph: Graph, nodes: list[Node]) -> bool:
    if not nodes:
        return False
    node = data.draw(st.sampled_from(nodes))
    if node.result.use_count:
        with pytest.raises(ValueError, match="is still used"):
            graph.erase(node)
        return False
    graph.erase(node)
    assert not node.alive
    return True


def replace(data: st.DataObject, graph: Graph, nodes: list[Node]) -> bool:
    if not nodes:
        return False
    node = data.draw(st.sampled_from(nodes))
    new = data.draw(st.sampled_from(values_before(graph, node)))
    only_nodes = data.draw(st.booleans())
    graph.replace_uses(node.result, new, (lambda use: use.user is not None) if only_nodes else None)
    assert node.result.is_output <= only_nodes
    assert not node.result.users
    return True


def set_operand(data: st.DataObject, graph: Graph, nodes: list[Node]) -> bool:
    if not nodes:
        return False
    node = data.draw(st.sampled_from(nodes))
    graph.set_operand(node, data.draw(st.integers(0, len(node.operands) - 1)), data.draw(st.sampled_from(values_before(graph, node))))
    return True


def move(data: st.DataObject, graph: Graph, nodes: list[Node]) -> bool:
    """Move a node to the earliest place that its operands allow, if that is before it."""
    if not nodes:
        return False
    node = data.draw(st.sampled_from(nodes))
    made = [operand.producer for operand in node.inputs if operand.producer is not None]
    earliest = max((nodes.index(producer) + 1 for producer in made), default=0)
    target = nodes[data.draw(st.integers(earliest, nodes.index(node)))]
    graph.move_before(node, target)
    return False


def set_op(data: st.DataObject, graph: Graph, nodes: list[Node]) -> bool:
    unary = [node for node in nodes if len(node.operands) == 1]
    if not unary:
        return False
    graph.set_op(data.draw(st.sampled_from(unary)), data.draw(st.sampled_from([Neg(), Tanh()])))
    return True


def outputs(data: st.DataObject, graph: Graph, nodes: list[Node]) -> bool:
    known = values_before(graph, None)
    chosen = data.draw(st.lists(st.sampled_from(known), max_size=3))
    graph.set_outputs([(f"y{index}", value) for index, value in enumerate(chosen)])
    return True


def rename(data: st.DataObject, graph: Graph, nodes: list[Node]) -> bool:
    graph.add_input(f"x{graph.version}", SCALAR)  # removed inputs may leave any number behind
    unused = [value for value in graph.inputs if not value.use_count]
    if data.draw(st.booleans()) and unused:
        graph.remove_input(unused[0])
    return True


def test_iteration_goes_on_when_the_current_node_is_erased() -> None:
    graph = chain(6)
    seen = []
    for node in graph.nodes:
        seen.append(node)
        graph.replace_uses(node.result, node.inputs[0])
        graph.erase(node)
    assert len(seen) == 6
    assert graph.node_count == 0
    verify(graph)


def test_iteration_goes_on_when_the_next_nodes_are_erased() -> None:
    graph = chain(6)
    for seen, node in enumerate(graph.nodes):
        if seen == 1:
            for other in list(graph.nodes)[1:5]:
                graph.replace_uses(other.result, graph.inputs[0])
            for other in list(graph.nodes)[4:0:-1]:
                graph.erase(other)
        last = node
    assert seen == 2
    assert last is list(graph.nodes)[-1]


def test_nodes_inserted_after_the_current_one_are_visited_and_before_it_not() -> None:
    graph = chain(2)
    first, second = graph.nodes
    seen = []
    for node in graph.nodes:
        seen.append(node)
        if node is first:
            earlier = graph.insert(Tanh(), [graph.inputs[0]], before=first)
            later = graph.insert(Tanh(), [first.result], before=second)
    assert seen == [first, later, second]
    assert list(graph.nodes) == [earlier, first, later, second]


def test_reverse_iteration_goes_on_under_erasure() -> None:
    graph = chain(5)
    graph.set_outputs([])
    for node in graph.reversed_nodes:
        graph.erase(node)
    assert graph.node_count == 0


def test_a_node_replaced_by_several_leaves_iteration_at_what_followed() -> None:
    graph = chain(3)
    seen = 0
    for node in graph.nodes:
        seen += 1
        new = graph.insert(Tanh(), [graph.insert(Tanh(), node.inputs, before=node).result], before=node)
        graph.replace_uses(node.result, new.result)
        graph.erase(node)
    assert seen == 3
    assert [node.op.name for node in graph.nodes] == ["tanh"] * 6
    verify(graph)


def test_a_use_is_listed_once_per_operand() -> None:
    graph = Graph()
    x = graph.add_input("x", SCALAR)
    node = graph.insert(Add(), [x, x])
    assert x.uses == (Use(node, 0), Use(node, 1))
    assert x.users == (node,)
    assert (x.use_count, x.is_output, x.op) == (2, False, None)


def test_names_of_inputs_and_outputs_are_taken_once() -> None:
    graph = chain(1)
    with pytest.raises(ValueError, match="already has an input 'x'"):
        graph.add_input("x", SCALAR)
    with pytest.raises(ValueError, match="already has an output 'y'"):
        graph.add_output("y", graph.inputs[0])
    with pytest.raises(ValueError, match="input 'x' is still used"):
        graph.remove_input(graph.inputs[0])
    graph.remove_input(graph.add_input("z", SCALAR))
    graph.add_input("z", SCALAR)
    graph.set_outputs([("y", graph.inputs[0]), ("z", graph.inputs[0])])
    assert graph.output("z") is graph.input("x")
    for look in (graph.input, graph.output):
        with pytest.raises(KeyError):
            look("nothing")


def test_an_input_that_was_renamed_gives_its_name_back() -> None:
    graph = Graph()
    graph.add_input("x", SCALAR).name = "renamed"
    graph.add_input("x", SCALAR)
    verify(graph)
    assert graph.input("renamed").name == "renamed"


def test_a_wrong_operand_leaves_the_graph_as_it_was() -> None:
    graph = chain(1)
    text, version = str(graph), graph.version
    with pytest.raises(OpTypeError):
        graph.insert(Add(), [graph.inputs[0], graph.add_input("i", TensorType(f16))])
    graph.remove_input(graph.input("i"))
    assert str(graph) == text
    assert graph.version > version


def test_types_follow_when_asked_to_infer_again() -> None:
    graph = chain(1)
    (node,) = graph.nodes
    graph.set_input_type(graph.inputs[0], TensorType(f32, (3,)))
    graph.reinfer(node)
    assert node.result.type == TensorType(f32, (3,))
    graph.set_op(node, Cast(f16))
    assert node.result.type == TensorType(f16, (3,))
    verify(graph)


def test_the_result_of_a_node_with_several_is_an_error() -> None:
    graph = Graph()
    node = graph.insert(Split(0, (1, 2)), [graph.add_input("x", TensorType(f32, (3,)))])
    with pytest.raises(ValueError, match="too many values"):
        _ = node.result
    assert [value.result_index for value in node.results] == [0, 1]


def test_a_clone_keeps_names_locations_and_stages() -> None:
    graph = chain(2)
    node = next(graph.nodes)
    graph.set_stage(node, 3)
    graph.set_location(node, Location((Frame("a", "b.py", 1),)))
    node.result.name = "kept"
    copy = graph.clone()
    assert graphs_equal(graph, copy, hints=True)
    twin = next(copy.nodes)
    assert (twin.stage, str(twin.location), twin.result.name) == (3, "a (b.py:1)", "kept")


@contextmanager
def shallow_stack() -> Iterator[None]:
    """A recursion limit of 200 frames above the test's own."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 200)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("build", [chain, fan], ids=lambda build: build.__name__)
def test_twenty_thousand_nodes_need_no_recursion(build: object) -> None:
    assert callable(build)
    with shallow_stack():
        graph: Graph = build(20_000)
        verify(graph)
        parsed = parse_graph(print_graph(graph))
        assert graphs_equal(graph, parsed, hints=True)
        copy = parsed.clone()
        inputs = {value.name: np.ones(value.type.static_shape, np.float32) for value in graph.inputs}
        assert abs(evaluate_graph(copy, inputs)["y"]).sum() == copy.output("y").type.size


def count_calls(graph: Graph, work: object) -> int:
    """Python calls that ``work(graph)`` makes: work that is counted, not timed."""
    assert callable(work)
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        work(graph)
    finally:
        sys.setprofile(None)
    return calls


WORK = {
    "verify": verify,
    "print": print_graph,
    "parse": lambda graph: parse_graph(print_graph(graph)),
    "clone": Graph.clone,
    "evaluate": lambda graph: evaluate_graph(graph, {value.name: np.ones(value.type.static_shape, np.float32) for value in graph.inputs}),
}


@pytest.mark.parametrize("work", WORK, ids=str)
@pytest.mark.parametrize("build", [chain, fan, wide_interface], ids=lambda build: build.__name__)
def test_work_is_linear_in_the_number_of_nodes(build: object, work: str) -> None:
    assert callable(build)
    counts = [count_calls(build(size), WORK[work]) for size in (20, 140, 380)]
    assert counts[2] - counts[1] < 1.1 * 2 * (counts[1] - counts[0])
