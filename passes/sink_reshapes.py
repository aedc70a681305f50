"""Reshapes that merge tokens move towards the outputs, where they meet the reshape that takes them apart again."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, product
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import union
from cgptc.ir.ops.binary import Binary, Comparison, Select
from cgptc.ir.ops.elementwise import Cast, Unary
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.shape import Reshape
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead

ROW_WISE = (Unary, Binary, Comparison, Select, Cast, Linear, LayerNorm, RmsNorm)
"""Operations that do to every row the same, and say nothing of how the rows are counted: broadcasting aligns the last axes."""


@dataclass(frozen=True)
class SinkReshapes(Pass, name="sink-reshapes"):
    """``f(reshape(x))`` becomes ``reshape(f(x))`` where the reshape merges ``[batch, seq, …]`` to ``[batch * seq, …]``, ``f`` row-wise.

    OPT and modules written by hand flatten tokens before an MLP. Without this the batch and the sequence are one axis there, which a cache
    cannot continue.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = False
        for node in list(graph.nodes):
            context.count("nodes visited")
            if isinstance(node.op, ROW_WISE) and _sink(graph, node):
                changed = True
        return changed


def _sink(graph: Graph, node: Node) -> bool:
    rows = node.inputs[:1] if isinstance(node.op, Linear | LayerNorm | RmsNorm) else node.inputs
    flat = {value: lead for value in rows if (lead := _merged(value)) is not None}
    if len(set(flat.values())) != 1:
        return False
    aligned = all(value in flat for value in rows if value.type.rank >= node.result.type.rank)
    producers = [value.producer for value in flat if value.producer is not None]
    if not aligned or any(value.type.rank != node.result.type.rank for value in flat) or {each.stage for each in producers} != {node.stage}:
        return False
    build = Builder(graph, before=node, location=node.location, stage=node.stage)
    result = build(node.op, *(_whole(value) if value is not None and value in flat else value for value in node.operands))
    build = Builder(graph, before=node, location=union(each.location for each in producers), stage=node.stage)
    merged = build(Reshape(node.result.type.shape), result)
    merged.name = node.result.name
    graph.replace_uses(node.result, merged)
    erase_dead(graph, [node])
    return True


def _merged(value: Value) -> tuple[Dim, ...] | None:
    """The leading axes that a reshape merged into the first of ``value``; None where it is no such reshape."""
    if not isinstance(value.op, Reshape):
        return None
    before, after = _whole(value).type.shape, value.type.shape
    tail = len(after) - 1
    if tail < 1 or len(before) <= len(after) or before[len(before) - tail :] != after[1:]:
        return None
    lead = before[: len(before) - tail]
    return lead if product(lead) == after[0] else None


def _whole(value: Value) -> Value:
    producer = value.producer
    assert producer is not None
    return producer.inputs[0]
