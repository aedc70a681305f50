"""Where two evaluations part: used to say which node of a rewritten graph is the first to be wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.printer import node_text, value_names


@dataclass(frozen=True)
class Difference:
    """A value of the second graph, in order the first that differs from its namesake in the first, and what differs."""

    value: Value
    text: str
    fault: str

    def __str__(self) -> str:
        producer = self.value.producer
        location = f"\n  from {producer.location}" if producer is not None and producer.location else ""
        return f"first difference: {self.text}{location}\n{self.fault}"


def first_difference(
    before: Graph,
    after: Graph,
    inputs: Mapping[str, Array],
    fault: Callable[[Array, Array], object | None],
    *,
    wide: bool = True,
) -> Difference | None:
    """The first value of ``after`` for which ``fault(expected, actual)`` gives something.

    Values correspond by name where a name is unique in both graphs and the types agree, and so do outputs; `name_values` before a rewrite
    gives every value a name that survives it. All values with a namesake are held in memory.
    """
    pairs = _namesakes(before, after)
    expected: dict[Value, Array] = {}
    wanted = set(pairs.values())

    def keep(value: Value, array: Array) -> None:
        if value in wanted:
            expected[value] = array

    evaluate_graph(before, inputs, wide=wide, on_value=keep)
    found: list[tuple[Value, object]] = []

    def compare(value: Value, array: Array) -> None:
        if not found and value in pairs and (what := fault(expected[pairs[value]], array)) is not None:
            found.append((value, what))

    evaluate_graph(after, inputs, wide=wide, on_value=compare)
    if not found:
        return None
    value, what = found[0]
    names = value_names(after)
    text = node_text(value.producer, names) if value.producer is not None else f"input {names[value]} : {value.type}"
    return Difference(value, text, str(what))


def _namesakes(before: Graph, after: Graph) -> dict[Value, Value]:
    """For values of ``after`` the value of ``before`` that they stand for."""
    old, new = _by_name(before), _by_name(after)
    pairs = {new[name]: old[name] for name in new if name in old and new[name].type == old[name].type}
    outputs = dict(before.outputs)
    for name, value in after.outputs:
        if name in outputs and outputs[name].type == value.type:
            pairs[value] = outputs[name]
    return pairs


def _by_name(graph: Graph) -> dict[str, Value]:
    values = [*graph.inputs, *(value for node in graph.nodes for value in node.results)]
    counts = Counter(value.name for value in values)
    return {value.name: value for value in values if value.name and counts[value.name] == 1}


def name_values(graph: Graph) -> None:
    """Give every value without a name, or with one that is taken, a name of its own, so that it can be found after a rewrite."""
    taken = {value.name for value in graph.inputs}
    number = 0
    for node in graph.nodes:
        for value in node.results:
            while not value.name or value.name in taken:
                value.name = f"v{number}"
                number += 1
            taken.add(value.name)


def graph_depth(graph: Graph) -> int:
    """Nodes on the longest path from an input or constant to any value; 0 for a graph without nodes."""
    depth = dict.fromkeys(graph.inputs, 0)
    for node in graph.nodes:
        level = 1 + max((depth[operand] for operand in node.inputs), default=0)
        depth.update(dict.fromkeys(node.results, level))
    return max(depth.values(), default=0)
