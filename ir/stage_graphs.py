"""One graph per stage, and the names by which they meet."""

from __future__ import annotations

from cgptc.ir.graph import Graph, Value
from cgptc.ir.staged import Staged


def edge_name(index: int) -> str:
    """The name of edge ``index`` of a staged graph, as an output of the stage that makes it and an input of those that take it."""
    return f"edge.{index}"


def stage_graph(staged: Staged, index: int) -> Graph:
    """Stage ``index`` as a graph of its own, over the same weight store.

    Its inputs are the graph inputs that it needs, then its edges from earlier stages; its outputs the graph outputs that it makes, then
    its edges to later ones. The nodes of the copy have no stage.
    """
    stage = staged.stages[index]
    names = {edge: edge_name(number) for number, edge in enumerate(staged.edges)}
    graph = Graph(f"{staged.graph.name}.stage{index}", staged.graph.store)
    values: dict[Value, Value] = {value: graph.add_input(value.name, value.type) for value in stage.inputs}
    for edge in stage.received:
        values[edge.value] = graph.add_input(names[edge], edge.value.type)
    for node in stage.nodes:
        twin = graph.insert(
            node.op, [values[operand] if operand is not None else None for operand in node.operands], location=node.location
        )
        for old, new in zip(node.results, twin.results, strict=True):
            new.name = old.name
            values[old] = new
    for name, value in stage.outputs:
        graph.add_output(name, values[value])
    for edge in stage.sent:
        graph.add_output(names[edge], values[edge.value])
    return graph
