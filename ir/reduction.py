"""Shrinking a graph that shows a failure to the few nodes that matter.

A node is taken out by making its results inputs of the graph. Types stay as they are, so every smaller graph is a valid one.

Halving finds the shortest row of nodes, from the first one on, that shows the failure: its last node is needed. What else is needed is
mostly near by, so the others are asked about by their distance from there, few at first: the least number of them that is enough, found
by doubling and halving, ends in one that is needed; with that one given, again. That takes about ``k log n`` questions for ``k`` nodes
of ``n``, where what holds a graph that fails fails too; where it does not, what is left can still not spare any single node.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TypeVar

from cgptc.ir.graph import Graph, Node

Item = TypeVar("Item")


def reduce_graph(graph: Graph, fails: Callable[[Graph], bool], limit: int = 2000) -> Graph:
    """The smallest graph found for which ``fails`` still holds; ``graph`` itself stays as it is.

    ``fails`` is asked about at most ``limit`` smaller graphs, and never twice about the same nodes. Raises ValueError if it does not hold
    for ``graph``.
    """
    if not fails(graph):
        raise ValueError("the graph does not fail to begin with")
    whole = keeping(graph, range(graph.node_count))
    if str(whole) != str(graph) and not fails(whole):  # what it shows needs an input that nothing uses, or one that is an output
        return graph.clone()
    asked: dict[frozenset[int], bool] = {}

    def holds(indices: Iterable[int]) -> bool:
        chosen = frozenset(indices)
        if chosen and chosen not in asked and len(asked) < limit:
            asked[chosen] = fails(keeping(graph, chosen))
        return asked.get(chosen, False)

    low, high = 0, graph.node_count
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(range(middle)) else (middle, high)
    last, *others = _by_distance(list(graph.nodes)[:high])
    chosen = {last, *_enough(others, lambda some: holds([last, *some]))}
    return keeping(graph, _without_spare(chosen, holds))


def keeping(graph: Graph, indices: Collection[int]) -> Graph:
    """A copy with the nodes of these numbers alone. What they take from others are inputs. Outputs are those of the graph that they give,
    and all that a node gives to others alone.
    """
    copy = graph.clone()
    nodes = list(copy.nodes)
    kept = {nodes[index] for index in indices}
    outputs = [(name, value) for name, value in copy.outputs if value.producer in kept]
    taken = {name for name, _ in outputs}
    for index in sorted(indices):
        given = [value for value in nodes[index].results if value.use_count]
        if not any(use.user is None or use.user in kept for value in given for use in value.uses):
            outputs += [(_fresh(taken, value.name or f"given_{index}"), value) for value in given]
    copy.set_outputs(outputs)
    taken = {value.name for value in copy.inputs}
    for node in reversed(nodes):
        if node in kept:
            continue
        for value in node.results:
            if value.use_count:
                copy.replace_uses(value, copy.add_input(_fresh(taken, value.name or f"cut_{len(taken)}"), value.type))
        copy.erase(node)
    for value in copy.inputs:
        if not value.use_count:
            copy.remove_input(value)
    return copy


def _fresh(taken: set[str], name: str) -> str:
    candidate, count = name, 0
    while candidate in taken:
        count += 1
        candidate = f"{name}_{count}"
    taken.add(candidate)
    return candidate


def _by_distance(nodes: Sequence[Node]) -> list[int]:
    """Numbers of the nodes, from the last one on by how many edges lie between, whatever their direction; then those that none connects,
    from the last one on.
    """
    numbers = {node: number for number, node in enumerate(nodes)}
    found: dict[Node, None] = {}
    for start in reversed(nodes):
        if start in found:
            continue
        row = [start]
        found[start] = None
        for node in row:  # grows meanwhile: breadth first
            for other in _neighbours(node):
                if other in numbers and other not in found:
                    found[other] = None
                    row.append(other)
    return [numbers[node] for node in found]


def _neighbours(node: Node) -> Iterable[Node]:
    for value in node.inputs:
        if value.producer is not None:
            yield value.producer
    for value in node.results:
        yield from value.users


def _enough(items: Sequence[Item], suffices: Callable[[list[Item]], bool]) -> list[Item]:
    """Some of ``items``, which all together suffice, that still do; the least if more never suffice less."""
    needed: list[Item] = []
    rest = list(items)
    while rest:
        short, size = -1, 0
        while size < len(rest) and not suffices([*needed, *rest[:size]]):
            short, size = size, max(1, 2 * size)
        size = min(size, len(rest))
        while size - short > 1:
            middle = (short + size) // 2
            short, size = (short, middle) if suffices([*needed, *rest[:middle]]) else (middle, size)
        if size == 0:
            break
        needed.append(rest[size - 1])
        rest = rest[: size - 1]
    return needed


def _without_spare(chosen: set[int], holds: Callable[[Iterable[int]], bool]) -> set[int]:
    """The nodes less every one that can be spared alone."""
    while (spare := next((index for index in sorted(chosen) if holds(chosen - {index})), None)) is not None:
        chosen = chosen - {spare}
    return chosen
