"""Giving a batch axis to values that had none: what positions need once each row of a batch has its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Role
from cgptc.ir.ops.attention import Rotary
from cgptc.ir.ops.binary import Binary, Comparison, Select
from cgptc.ir.ops.elementwise import Cast, Unary
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.matmul import Linear, MatMul
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.shape import Concat, Expand, Pad, Reshape, Slice, Transpose

ELEMENTWISE = (Unary, Binary, Comparison, Select)


def lift(
    graph: Graph,
    starts: Mapping[Value, Value],
    batch: Dim,
    length: Dim,
    refuse: Callable[[Node, str], Exception],
    among: Sequence[Node] | None = None,
) -> dict[Value, Value]:
    """Replace each start by its value, which has one more leading axis ``batch``, everywhere; gives what stands for each value changed.

    What is computed from it gets the axis too, until it meets a value over the batch: there the axes fall together. ``among`` are the
    nodes to look at, operands first, if not all. Raises what ``refuse`` gives for a node that has no form with the axis, or that lets one
    of the ``length`` tokens see another.
    """
    lifted = dict(starts)
    joined_ones: dict[Value, Value] = {}
    nodes = list(graph.nodes) if among is None else among
    same_in_rows = _same_in_rows(nodes)
    for node in nodes:
        if not any(operand in lifted for operand in node.inputs):
            continue
        if _sees_other_tokens(node, lifted, length):
            raise refuse(node, "it makes one token's position of another's")
        build = Builder(graph, before=node, location=node.location, stage=node.stage)
        joined = _join(build, node, lifted, same_in_rows, batch)
        if joined is not None:
            graph.replace_uses(node.result, joined)
            joined_ones[node.result] = joined
            continue
        raised = _raise(build, node, lifted, batch) if node in same_in_rows else None
        if raised is None:
            raise refuse(node, "it uses the tokens' positions in a way that has no form with one position per row")
        lifted[node.result] = raised
    for value in reversed(lifted):
        if value.producer is None or value in starts:
            continue
        if value.is_output:
            raise refuse(value.producer, "the tokens' positions reach an output without a batch axis")
    for node in reversed(nodes):
        if node.alive and any(operand in lifted for operand in node.inputs) and not any(r.use_count for r in node.results):
            graph.erase(node)
    return {**lifted, **joined_ones}


def _same_in_rows(nodes: Collection[Node]) -> set[Node]:
    """What no input goes into: it has no axis for the rows of a batch, whatever its shape."""
    same: set[Node] = set()
    for node in nodes:
        if all(value.producer in same for value in node.inputs):
            same.add(node)
    return same


def _sees_other_tokens(node: Node, lifted: Mapping[Value, Value], length: Dim) -> bool:
    parallel = [axis.operands for axis in node.op.axis_roles(*node.operand_types) if axis.role is Role.PARALLEL]
    return any(
        value in lifted and dim == length and not any(places[index] == axis for places in parallel)
        for index, value in enumerate(node.operands)
        if value is not None
        for axis, dim in enumerate(value.type.shape)
    )


def _join(build: Builder, node: Node, lifted: Mapping[Value, Value], same_in_rows: Collection[Node], batch: Dim) -> Value | None:
    """The node where its result is over the batch already: there lifted operands take the batch as that axis."""
    if len(node.results) != 1:
        return None
    shape = node.result.type.shape
    rank, place = len(shape), 0
    if isinstance(node.op, Rotary):
        if node.inputs[0] in lifted:
            return None
        rank = 3
    elif isinstance(node.op, (*ELEMENTWISE, Expand)):
        of_batch = [axis for axis, dim in enumerate(shape) if dim == batch and _brings_batch(node, axis, lifted, same_in_rows)]
        if not of_batch:
            return None
        place = of_batch[0]
    else:
        return None
    return build(node.op, *(_placed(build, value, lifted[value], rank, place) if value in lifted else value for value in node.inputs))


def _brings_batch(node: Node, axis: int, lifted: Mapping[Value, Value], same_in_rows: Collection[Node]) -> bool:
    """Whether lifted operands lack the axis of the result, and one that inputs go into has it, or the node itself makes it."""
    from_end = node.result.type.rank - axis
    sizes = {value: value.type.shape[-from_end] if value.type.rank >= from_end else 1 for value in node.inputs}
    if any(size != 1 for value, size in sizes.items() if value in lifted):
        return False
    size_of_result = node.result.type.shape[axis]
    others = [value for value in node.inputs if value not in lifted and value.producer not in same_in_rows]
    return isinstance(node.op, Expand) or any(value.type.rank >= from_end and sizes[value] == size_of_result for value in others)


def _placed(build: Builder, old: Value, value: Value, rank: int, place: int) -> Value:
    """The lifted ``[batch, …]`` of ``old`` in ``rank`` axes with the batch as axis ``place``, which ``old`` lacks or has as 1."""
    padded = (*([1] * (rank - old.type.rank)), *old.type.shape)
    shape = (value.type.shape[0], *padded[:place], *padded[place + 1 :])
    if value.type.shape != shape:
        value = build(Reshape(shape), value)
    return value if place == 0 else build(Transpose((*range(1, place + 1), 0, *range(place + 1, rank))), value)


def _with_rank(build: Builder, value: Value, rank: int) -> Value:
    """A lifted ``[batch, …]`` of ``rank`` axes: axes of size 1 come right after the batch."""
    batch, *rest = value.type.shape
    shape = (batch, *([1] * (rank - 1 - len(rest))), *rest)
    return value if value.type.shape == shape else build(Reshape(shape), value)


def _raise(build: Builder, node: Node, lifted: Mapping[Value, Value], batch: Dim) -> Value | None:
    """The node with one more leading axis, or None where there is no such form."""
    op = node.op
    operands = [lifted.get(value, value) for value in node.inputs]
    match op:
        case Cast():
            return build(op, operands[0])
        case Reshape():
            return build(Reshape((batch, *op.shape)), operands[0])
        case Expand():
            return build(Expand((batch, *op.shape)), _with_rank(build, operands[0], len(op.shape) + 1))
        case Transpose():
            return build(Transpose((0, *(axis + 1 for axis in op.permutation))), operands[0])
        case Slice():
            return build(dataclasses.replace(op, axis=op.axis + 1), operands[0])
        case Pad():
            return build(dataclasses.replace(op, low=(0, *op.low), high=(0, *op.high)), operands[0])
        case Concat():
            wide = [
                value if original in lifted else build(Expand((batch, *value.type.shape)), value)
                for original, value in zip(node.inputs, operands, strict=True)
            ]
            return build(Concat(op.axis + 1), *wide)
        case Linear() | LayerNorm() | RmsNorm() if not any(value in lifted for value in node.inputs[1:]):
            return build(op, operands[0], *node.operands[1:])
        case Embedding() if node.inputs[0] not in lifted:
            return build(op, *operands)
        case Gather() if op.axis == 0 and node.inputs[0] not in lifted:
            return build(op, *operands)
        case MatMul():
            rank = max(value.type.rank for value in node.inputs) + 1
            return build(
                op, *(_with_rank(build, value, rank) if o in lifted else value for o, value in zip(node.inputs, operands, strict=True))
            )
        case _ if isinstance(op, ELEMENTWISE):
            rank = node.result.type.rank + 1
            return build(
                op, *(_with_rank(build, value, rank) if o in lifted else value for o, value in zip(node.inputs, operands, strict=True))
            )
    return None
