"""Slices move towards the inputs, so that what they drop is never computed."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import union
from cgptc.ir.op import Axis, Op, Role
from cgptc.ir.ops.binary import Binary, Comparison, Select
from cgptc.ir.ops.elementwise import Cast, Unary
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.matmul import Linear, MatMul
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.reduction import LogSoftmax, Softmax
from cgptc.ir.ops.shape import Expand, Reshape, Slice, Transpose
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead

SHAPELESS = (Unary, Binary, Comparison, Select, Cast, Linear, MatMul, LayerNorm, RmsNorm, Softmax, LogSoftmax, Embedding, Transpose)
"""Operations whose attributes do not mention the sizes of parallel axes."""


@dataclass(frozen=True)
class SinkSlices(Pass, name="sink-slices"):
    """``slice(f(x))`` becomes ``f(slice(x))`` where ``f`` is parallel along the axis and nothing else uses ``f(x)``.

    Equal slices of one value are one: a residual that is read by a norm and an addition sinks once both are sliced.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        visited, changed = sink(graph, [node for node in graph.reversed_nodes if isinstance(node.op, Slice)])
        context.count("nodes visited", visited)
        return changed


Slices: TypeAlias = dict[tuple[Value, Op, int | None], Node]
"""A slice by what it cuts, how, and its stage."""


def sink(graph: Graph, slices: Iterable[Node], others: Iterable[Node] = ()) -> tuple[int, bool]:
    """Move slices as far as they go; how many nodes were looked at, and whether anything changed. ``others`` stay, but where one equals
    one of the slices both are one.
    """
    queue = deque(slices)
    known: Slices = {_key(node): node for node in others}
    visited, changed = 0, False
    while queue:
        node = queue.popleft()
        if not node.alive:
            continue
        visited += 1
        one = _merged(graph, node, known)
        created = _sink(graph, one)
        queue.extend(created)
        changed = changed or bool(created) or one is not node
    return visited, changed


def _key(node: Node) -> tuple[Value, Op, int | None]:
    return node.inputs[0], node.op, node.stage


def _merged(graph: Graph, node: Node, known: Slices) -> Node:
    """The node, or one for it and an equal slice that was met before, right behind what they cut, so that it stands before every use."""
    twin = known.get(_key(node))
    if twin is None or twin is node or not twin.alive:
        known[_key(node)] = node
        return node
    (source,) = node.inputs
    build = Builder(graph, before=_next(graph, source), location=union((twin.location, node.location)), stage=node.stage)
    known[_key(node)] = one = build.node(node.op, source)
    for old in (twin, node):
        graph.replace_uses(old.result, one.result)
        graph.erase(old)
    return one


def _next(graph: Graph, value: Value) -> Node | None:
    return value.producer._next if value.producer is not None else next(graph.nodes, None)


def _sink(graph: Graph, node: Node) -> list[Node]:
    """Move one slice over its producer; the slices made, none where it cannot move."""
    assert isinstance(node.op, Slice)
    (source,) = node.inputs
    producer = source.producer
    if producer is None or source.use_count != 1 or len(producer.results) != 1 or producer.stage != node.stage:
        return []
    axis = _parallel_axis(producer, node.op.axis)
    if axis is None:
        return []
    build = Builder(graph, before=node, location=union((producer.location, node.location)), stage=node.stage)
    op = producer.op
    if isinstance(op, Reshape | Expand):
        shape = list(op.shape)
        shape[node.op.axis] = node.result.type.shape[node.op.axis]
        op = dataclasses.replace(op, shape=tuple(shape))
    created: list[Node] = []
    operands: list[Value | None] = []
    for operand, position in zip(producer.operands, axis.operands, strict=False):  # absent optional ones may be left off
        if operand is None or position is None:
            operands.append(operand)
            continue
        sliced = build.node(dataclasses.replace(node.op, axis=position), operand)
        created.append(sliced)
        operands.append(sliced.result)
    result = build(op, *operands)
    result.name = node.result.name or source.name
    graph.replace_uses(node.result, result)
    erase_dead(graph, [node])
    return created


def _parallel_axis(producer: Node, result_axis: int) -> Axis | None:
    """The producer's parallel axis that is this axis of its result, where the operation can be cut along it."""
    if not issubclass(type(producer.op), (*SHAPELESS, Reshape, Expand)):
        return None
    for axis in producer.op.axis_roles(*producer.operand_types):
        if axis.role is Role.PARALLEL and axis.results == (result_axis,) and any(position is not None for position in axis.operands):
            return axis
    return None
