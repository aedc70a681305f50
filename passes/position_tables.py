"""Spellings of the tokens' positions that need only their number become one: an iota over the new tokens.

Hand-written models slice a table to the length (``pe[:, :seq]``), slice a longer iota, or count ones. Each is a function of the
position alone, so that it has a form for tokens after a past; what runs backwards from the length, or mixes it in, is left as it is.
"""

from __future__ import annotations

import math

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol, product, symbols
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Add, Mul, Sub
from cgptc.ir.ops.constant import Constant, Iota
from cgptc.ir.ops.elementwise import Cast
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.reduction import CumSum
from cgptc.ir.ops.shape import Expand, Reshape, Slice, Transpose
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import reshaped, sliced, transposed
from cgptc.ir.weights import Weight, dense
from cgptc.passes.pattern import scalar_of
from cgptc.passes.rewrite import erase_dead

READ_SIZE = 1 << 24
"""Elements of a square table that may be read to see what it is a function of."""


def spell_positions_as_iota(graph: Graph, seq: Symbol) -> None:
    """Rewrite, each to exactly what it was, along axes of ``seq`` tokens:

    * ``slice(table, start, start + seq)`` of what knows neither inputs nor sizes → ``embedding(table[start:], iota(seq))``;
    * ``slice(iota(n), start, start + seq)`` → ``iota(seq) + start``;
    * ``cumsum(expand(1))`` → ``iota(seq) + 1``;
    * both of a square table's last axes sliced to ``seq`` → what it holds, by distance or position where it is known to hold the same at
      equal distances, in each row or in each column, else by pair of positions.
    """
    nodes = list(graph.nodes)
    fixed: set[Node] = set()
    for node in nodes:
        if _is_fixed(node, fixed):
            fixed.add(node)
    for spell in (_square, _spelled):
        for node in nodes:
            if not node.alive or node in fixed:
                continue
            spelled = spell(graph, node, fixed, seq)
            if spelled is not None:
                spelled.name = node.result.name
                graph.replace_uses(node.result, spelled)
                erase_dead(graph, [node])


def _is_fixed(node: Node, fixed: set[Node]) -> bool:
    """Whether the node computes the same whatever the inputs and their sizes."""
    dims = [dim for value in node.results for dim in value.type.shape]
    return not symbols(dims) and not node.op.attribute_symbols() and all(value.producer in fixed for value in node.inputs)


def _square(graph: Graph, node: Node, fixed: set[Node], seq: Symbol) -> Value | None:
    """A square table of which both axes are sliced, one slice upon the other."""
    outer, inner = node.op, node.inputs[0].producer if node.inputs else None
    if not isinstance(outer, Slice) or inner is None or not isinstance(inner.op, Slice):
        return None
    table = inner.inputs[0]
    rank = table.type.rank
    whole = all(each.start == 0 and each.stop == seq.dim and each.step == 1 for each in (outer, inner.op))
    if not whole or {outer.axis, inner.op.axis} != {rank - 2, rank - 1} or not isinstance(table.op, Constant):
        return None
    count = table.type.static_shape[-1]
    if table.type.shape[-2] != count:
        return None
    build = Builder(graph, before=node, location=node.location, stage=node.stage)
    rows, columns = (build(Reshape(shape), build(Iota(seq.dim))) for shape in ((seq.dim, 1), (1, seq.dim)))
    kind, held = _held(graph, table.op.weight, count)
    match kind:
        case "distance":
            index = build(Add(), build(Sub(), rows, columns), build.constant(count - 1, i64))
        case "column":
            index = columns
        case "row":
            index = rows
        case _:
            index = build(Add(), build(Mul(), rows, build.constant(count, i64)), columns)
    values = build(Embedding(), build.weight(transposed(held, (1, 0))), index)
    values = build(Expand((seq.dim, seq.dim, held.shape[0])), values)
    return build(Reshape(node.result.type.shape), build(Transpose((2, 0, 1)), values))


def _held(graph: Graph, table: Weight, count: int) -> tuple[str, Weight]:
    """What a table ``[…, count, count]`` is a function of, as far as it can be read, and its values ``[…, places]`` of that."""
    whole = math.prod(table.shape[:-2])
    pairs = reshaped(table, (whole, count * count))
    if math.prod(table.shape) > READ_SIZE:
        return "pair", pairs
    try:
        array = table.read(graph.store).reshape(whole, count, count)
    except KeyError:  # the weights are not there
        return "pair", pairs
    by_distance = np.concatenate([array[:, 0, :0:-1], array[:, :, 0]], axis=1)
    places = np.arange(count)
    if np.array_equal(array, by_distance[:, places[:, None] - places[None, :] + count - 1]):
        return "distance", dense(by_distance)
    if np.array_equal(array, np.broadcast_to(array[:, :1], array.shape)):
        return "column", dense(array[:, 0])
    if np.array_equal(array, np.broadcast_to(array[:, :, :1], array.shape)):
        return "row", dense(array[:, :, 0])
    return "pair", pairs


def _spelled(graph: Graph, node: Node, fixed: set[Node], seq: Symbol) -> Value | None:
    build = Builder(graph, before=node, location=node.location, stage=node.stage)
    match node.op:
        case Slice(axis, int() as start, stop, 1) if stop - start == seq.dim:
            (source,) = node.inputs
            if source.producer in fixed:
                return _row_by_position(build, source, axis, start, node.result.type, seq)
            if isinstance(source.op, Iota):
                return build(Add(), build(Iota(seq.dim, source.op.dtype)), build.constant(start, source.op.dtype))
        case CumSum(axis) if node.result.type.shape[axis] == seq.dim:
            return _counted(build, node.inputs[0], axis, node.result.type, seq)
    return None


def _row_by_position(build: Builder, source: Value, axis: int, start: int, result: TensorType, seq: Symbol) -> Value:
    """The rows ``start`` to ``start + seq`` along ``axis`` of a table of any rank, read one by one."""
    rest = tuple(place for place in range(source.type.rank) if place != axis)
    others = tuple(source.type.shape[place] for place in rest)
    turn = (axis, *rest)
    table = source if axis == 0 else build(Transpose(turn), source)
    table = build(Reshape((source.type.shape[axis], product(others))), table)
    if start:
        table = _from(build, table, start)
    rows = build(Embedding(), table, build(Iota(seq.dim)))
    rows = build(Reshape((seq.dim, *others)), rows)
    return build(Transpose(tuple(turn.index(place) for place in range(source.type.rank))), rows)


def _from(build: Builder, table: Value, start: int) -> Value:
    count = table.type.static_shape[0]
    if isinstance(table.op, Constant):
        return build.weight(sliced(table.op.weight, 0, start, count))
    return build(Slice(0, start, count), table)


def _counted(build: Builder, ones: Value, axis: int, result: TensorType, seq: Symbol) -> Value | None:
    """The running sum of 1 spread over the tokens."""
    source = ones
    while source.producer is not None and isinstance(source.op, Expand | Reshape | Cast):
        source = source.producer.inputs[0]
    if scalar_of(source) != 1:
        return None
    count = build(Add(), build(Iota(seq.dim, result.dtype)), build.constant(1, result.dtype))
    return build(Expand(result.shape), build(Reshape((seq.dim, *([1] * (result.rank - axis - 1)))), count))
