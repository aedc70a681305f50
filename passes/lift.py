"""Giving a batch axis to values that had none: what positions need once each row of a batch has its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.attention import Rotary
from cgptc.ir.ops.binary import Binary, Comparison, Select
from cgptc.ir.ops.elementwise import Cast, Unary
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.shape import Concat, Expand, Reshape, Slice, Transpose

ELEMENTWISE = (Unary, Binary, Comparison, Select)


def lift(graph: Graph, old: Value, new: Value, batch: Dim, refuse: Callable[[Node, str], Exception]) -> None:
    """Replace ``old`` by ``new``, which has one more leading axis ``batch``, everywhere.

    What is computed from it gets the axis too, until it meets a value over the batch: there the axes fall together. Raises what
    ``refuse`` gives for a node that has no form with the axis.
    """
    lifted: dict[Value, Value] = {old: new}
    nodes = list(graph.nodes)
    for node in nodes:
        if not any(operand in lifted for operand in node.inputs):
            continue
        build = Builder(graph, before=node, location=node.location, stage=node.stage)
        joined = _join(build, node, lifted, batch)
        if joined is not None:
            graph.replace_uses(node.result, joined)
            continue
        raised = _raise(build, node, lifted, batch)
        if raised is None:
            raise refuse(node, "it uses the tokens' positions in a way that has no form with one position per row")
        lifted[node.result] = raised
    for value in reversed(lifted):
        if value.producer is None or value is old:
            continue
        if value.is_output:
            raise refuse(value.producer, "the tokens' positions reach an output without a batch axis")
    for node in reversed(nodes):
        if node.alive and any(operand in lifted for operand in node.inputs) and not any(r.use_count for r in node.results):
            graph.erase(node)


def _join(build: Builder, node: Node, lifted: dict[Value, Value], batch: Dim) -> Value | None:
    """The node where its result is over the batch already: lifted operands take the batch as their first axis."""
    shape = node.results[0].type.shape
    if not shape or shape[0] != batch or len(node.results) != 1:
        return None
    rank = len(shape)
    if isinstance(node.op, Expand):
        return build(node.op, _with_rank(build, lifted[node.inputs[0]], batch, rank))
    if isinstance(node.op, ELEMENTWISE):
        return build(node.op, *(_with_rank(build, lifted[value], batch, rank) if value in lifted else value for value in node.inputs))
    if isinstance(node.op, Rotary):
        return build(node.op, *(_with_rank(build, lifted[value], batch, 3) if value in lifted else value for value in node.inputs))
    return None


def _with_rank(build: Builder, value: Value, batch: Dim, rank: int) -> Value:
    """A lifted ``[batch, …]`` as ``[batch, …]`` of ``rank`` axes: axes of size 1 go, or come, right after the batch."""
    rest = value.type.shape[1:]
    while len(rest) > rank - 1 and rest[0] == 1:
        rest = rest[1:]
    shape = (batch, *([1] * (rank - 1 - len(rest))), *rest)
    return value if value.type.shape == shape else build(Reshape(shape), value)


def _raise(build: Builder, node: Node, lifted: dict[Value, Value], batch: Dim) -> Value | None:
    """The node with one more leading axis, or None where there is no such form."""
    op = node.op
    operands = [lifted.get(value, value) for value in node.inputs]
    match op:
        case Cast():
            return build(op, operands[0])
        case Reshape():
            return build(Reshape((batch, *op.shape)), operands[0])
        case Expand():
            return build(Expand((batch, *op.shape)), _with_rank(build, operands[0], batch, len(op.shape) + 1))
        case Transpose():
            return build(Transpose((0, *(axis + 1 for axis in op.permutation))), operands[0])
        case Slice():
            return build(dataclasses.replace(op, axis=op.axis + 1), operands[0])
        case Concat():
            wide = [
                value if original in lifted else build(Expand((batch, *value.type.shape)), value)
                for original, value in zip(node.inputs, operands, strict=True)
            ]
            return build(Concat(op.axis + 1), *wide)
        case Embedding() if node.inputs[0] not in lifted:
            return build(op, *operands)
        case Gather() if op.axis == 0 and node.inputs[0] not in lifted:
            return build(op, *operands)
        case MatMul():
            rank = max(value.type.rank for value in node.inputs) + 1
            return build(
                op,
                *(_with_rank(build, value, batch, rank) if o in lifted else value for o, value in zip(node.inputs, operands, strict=True)),
            )
        case _ if isinstance(op, ELEMENTWISE):
            rank = node.result.type.rank + 1
            return build(
                op,
                *(_with_rank(build, value, batch, rank) if o in lifted else value for o, value in zip(node.inputs, operands, strict=True)),
            )
    return None
