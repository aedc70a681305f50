"""Shrinking a graph that shows a failure to the few nodes that matter (Zeller and Hildebrandt's ddmin, on nodes).

A node is taken out by making its results inputs of the graph; what then feeds nothing goes too. Types stay as they are, so every smaller
graph is a valid one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cgptc.ir.graph import Graph, Node, Value


def reduce_graph(graph: Graph, fails: Callable[[Graph], bool], limit: int = 2000) -> Graph:
    """The smallest graph found for which ``fails`` still holds; ``graph`` itself stays as it is.

    ``fails`` is asked at most ``limit`` times and never twice about one candidate. Raises ValueError if it does not hold for ``graph``.
    """
    asked: dict[str, bool] = {}

    def holds(candidate: Graph) -> bool:
        text = str(candidate)
        if text not in asked:
            if len(asked) >= limit:
                return False
            asked[text] = fails(candidate)
        return asked[text]

    if not holds(graph):
        raise ValueError("the graph does not fail to begin with")
    current = _fewest_outputs(graph.clone(), holds)
    while True:
        before = current.node_count
        current = _earliest_output(current, holds)
        current = _fewest_nodes(current, holds)
        if current.node_count >= before:
            return current


def without(graph: Graph, indices: Iterable[int]) -> Graph:
    """A copy in which the nodes of these numbers are gone: their used results are inputs."""
    copy = graph.clone()
    chosen = set(indices)
    taken = {value.name for value in copy.inputs}
    for index, node in enumerate(list(copy.nodes)):
        if index not in chosen:
            continue
        for value in node.results:
            if value.use_count:
                copy.replace_uses(value, copy.add_input(_fresh(taken, value.name or f"cut_{index}"), value.type))
        copy.erase(node)
    return _cleaned(copy)


def _fresh(taken: set[str], name: str) -> str:
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def _cleaned(graph: Graph) -> Graph:
    """The graph without unused nodes and inputs."""
    for node in graph.reversed_nodes:
        if not any(value.use_count for value in node.results):
            graph.erase(node)
    for value in graph.inputs:
        if not value.use_count:
            graph.remove_input(value)
    return graph


def _with_outputs(graph: Graph, outputs: Sequence[tuple[str, Value]], nodes: dict[Value, tuple[int, int]]) -> Graph:
    """A copy that gives only these outputs; ``nodes`` says which result of which node each value is."""
    copy = graph.clone()
    twins = list(copy.nodes)
    copy.set_outputs((name, twins[nodes[value][0]].results[nodes[value][1]]) for name, value in outputs if value in nodes)
    return _cleaned(copy)


def _places(graph: Graph) -> dict[Value, tuple[int, int]]:
    return {value: (index, number) for index, node in enumerate(graph.nodes) for number, value in enumerate(node.results)}


def _fewest_outputs(graph: Graph, holds: Callable[[Graph], bool]) -> Graph:
    """One output if one is enough, else all."""
    places = _places(graph)
    for output in graph.outputs:
        if output[1] in places and len(graph.outputs) > 1:
            candidate = _with_outputs(graph, [output], places)
            if holds(candidate):
                return candidate
    return graph


def _earliest_output(graph: Graph, holds: Callable[[Graph], bool]) -> Graph:
    """The graph up to the earliest node that still shows the failure, found by bisection, then node by node."""
    places = _places(graph)
    nodes: list[Node] = list(graph.nodes)

    def up_to(index: int) -> Graph:
        outputs = [(f"y{number}", value) for number, value in enumerate(nodes[index].results)]
        return _with_outputs(graph, outputs, places)

    low, high, best = 0, len(nodes) - 1, graph
    while low <= high:
        middle = (low + high) // 2
        candidate = up_to(middle)
        if candidate.node_count and holds(candidate):
            best, high = candidate, middle - 1
        else:
            low = middle + 1
    return best


def _fewest_nodes(graph: Graph, holds: Callable[[Graph], bool]) -> Graph:
    """Take out ever smaller runs of nodes while the failure stays."""
    size = max(1, graph.node_count // 2)
    while True:
        start = 0
        while start < graph.node_count:
            candidate = without(graph, range(start, start + size))
            if candidate.node_count and candidate.node_count < graph.node_count and holds(candidate):
                graph = candidate
            else:
                start += size
        if size == 1:
            return graph
        size = max(1, min(size, graph.node_count) // 2)
