"""The staged graph: a graph whose nodes are cut into stages, and what passes between them.

Values flow from a stage to later ones only. Graph inputs come to every stage that uses them from outside, graph outputs leave from the
stage that makes them; every other value that crosses a cut is an `Edge`, whose buffer holds ``depth`` items so that each stage may work
on an item of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from cgptc.ir.attributes import attributes
from cgptc.ir.binding import determined_symbols
from cgptc.ir.diagnostics import VerifyError
from cgptc.ir.dims import Dim, Expr, symbols
from cgptc.ir.graph import Graph, Node, Value


@dataclass(frozen=True)
class Edge:
    """A value that later stages than its producer's need. ``depth`` is how many items its buffer holds: one for the producer, and one
    for each stage from there to the last consumer.
    """

    value: Value
    producer: int
    consumers: tuple[int, ...]
    depth: int


@dataclass(frozen=True)
class Stage:
    """The nodes of one stage in order; the graph inputs it needs, if only for their sizes; the graph outputs it makes; its edges."""

    index: int
    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[tuple[str, Value], ...]
    received: tuple[Edge, ...]
    sent: tuple[Edge, ...]


@dataclass(frozen=True)
class Staged:
    """A graph with its stages in order, and the edges in order of what makes them. Valid until the graph is edited."""

    graph: Graph
    stages: tuple[Stage, ...]
    edges: tuple[Edge, ...]

    @classmethod
    def of(cls, graph: Graph) -> Staged:
        """The stages of a graph by its nodes' `Node.stage`. `VerifyError` where a node has none, or a number between has no node."""
        members: dict[int, list[Node]] = {}
        for node in graph.nodes:
            if node.stage is None:
                raise VerifyError(f"stages: {node!r} has none")
            members.setdefault(node.stage, []).append(node)
        count = max(members, default=-1) + 1
        if missing := [stage for stage in range(count) if stage not in members]:
            raise VerifyError(f"stages: there are {count}, and stage {missing[0]} has no node")
        edges = tuple(_edges(graph))
        stages = tuple(_stage(graph, index, members[index], edges) for index in range(count))
        return cls(graph, stages, edges)


def is_staged(graph: Graph) -> bool:
    """Whether the graph's nodes have stages."""
    first = next(graph.nodes, None)
    return first is not None and first.stage is not None


def stage_faults(graph: Graph) -> Iterator[tuple[Node, str]]:
    """What is wrong with the stages of a graph, and at which node: either all nodes have one or none has, and no value flows backwards."""
    staged = is_staged(graph)
    for node in graph.nodes:
        if node.stage is not None and node.stage < 0:
            yield node, f"stage {node.stage} is negative"
        elif (node.stage is not None) != staged:
            yield node, f"{node!r} has {'no' if staged else 'a'} stage, those before it have {'one' if staged else 'none'}"
        elif node.stage is not None:
            for operand in node.inputs:
                made = operand.producer.stage if operand.producer is not None else None
                if made is not None and made > node.stage:
                    yield node, f"{node!r} of stage {node.stage} uses a value of stage {made}"


def _edges(graph: Graph) -> Iterator[Edge]:
    for node in graph.nodes:
        assert node.stage is not None
        for value in node.results:
            stages = {user.stage for user in value.users if user.stage is not None} - {node.stage}
            if stages:
                consumers = tuple(sorted(stages))
                yield Edge(value, node.stage, consumers, consumers[-1] - node.stage + 1)


def _stage(graph: Graph, index: int, nodes: list[Node], edges: tuple[Edge, ...]) -> Stage:
    received = tuple(edge for edge in edges if index in edge.consumers)
    sent = tuple(edge for edge in edges if edge.producer == index)
    outputs = tuple((name, value) for name, value in graph.outputs if _maker(value) == index)
    used = {operand for node in nodes for operand in node.inputs} | {value for _, value in outputs}
    inputs = {value for value in graph.inputs if value in used or (index == 0 and not value.use_count)}
    wanted = _symbols_of(nodes)
    for value in graph.inputs:
        known = determined_symbols(dim for one in (*inputs, *(edge.value for edge in received)) for dim in one.type.shape)
        if wanted <= known:
            break
        if value not in inputs and set(symbols(value.type.shape)) & (wanted - known):
            inputs.add(value)
    return Stage(index, tuple(nodes), tuple(value for value in graph.inputs if value in inputs), outputs, received, sent)


def _maker(value: Value) -> int | None:
    """The stage that gives an output; an input that is one is passed through by the first."""
    return value.producer.stage if value.producer is not None else 0


def _symbols_of(nodes: Iterable[Node]) -> set[str]:
    dims: list[Dim] = []
    for node in nodes:
        dims += (dim for value in node.results for dim in value.type.shape)
        for attribute in attributes(type(node.op)):
            value = getattr(node.op, attribute.name)
            dims += (item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, Expr))
    return set(symbols(dims))
