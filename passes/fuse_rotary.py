"""Rotary positions written out with cosines and sines become one `rotary`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, product
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import union
from cgptc.ir.ops.attention import Rotary
from cgptc.ir.ops.binary import Add, Mul, Sub
from cgptc.ir.ops.elementwise import Cast, Neg, Unary
from cgptc.ir.ops.shape import Concat, Expand, Reshape, Slice, Split, Transpose
from cgptc.passes.feature_sources import LEAD, Terms, UnknownError, Walk
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead
from cgptc.passes.table_entries import Tables

SUBJECT = "rotary"
TO_HEADS = (0, 2, 1, 3)
TABLE_DEPTH = 16
"""Nodes over which a cut of a table's columns may move up."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Columns:
    """``count`` columns of a table (its last ``rank`` axes flattened), each ``step``-th from ``start`` on, times ``sign``."""

    table: Value
    rank: int
    start: int
    step: int
    count: int
    sign: int


@dataclass(frozen=True)
class _Rotation:
    """Features ``[offset, offset + width)`` of ``source``, the first of them rotated in pairs by the angles of ``cos`` and ``sin``."""

    source: Value
    offset: int
    width: int
    interleaved: bool
    cos: Columns
    sin: Columns


@dataclass(frozen=True)
class FuseRotary(Pass, name="fuse-rotary"):
    """Fuse rotary positions, halves or interleaved, of all features or the first of each head.

    The tables of cosines and sines stay computed from the positions, each column once and once for all layers.
    """

    def run(self, graph: Graph, context: PassContext) -> bool:
        work = _Work(graph, context, Tables(graph.store))
        for node in graph.reversed_nodes:  # a rotation with its unrotated rest comes after the rotation
            context.count("nodes visited")
            if _may_end_rotation(node):
                work.fuse(node)
        for node, reason in work.misses:
            context.missed(SUBJECT, node.location, reason, node=node)
        return work.changed


def _may_end_rotation(node: Node) -> bool:
    """Whether a look is worth it: a sum of two products over heads, or features joined of which some are such sums."""
    if len(node.results) != 1 or node.result.type.rank != LEAD + 1 or not node.result.type.dtype.is_float:
        return False
    match node.op:
        case Add() | Sub():
            return all(isinstance(value.op, Mul) for value in node.inputs)
        case Concat(axis=axis):
            return axis == LEAD and any(isinstance(value.op, Add | Sub) for value in node.inputs)
        case Reshape():
            return isinstance(node.inputs[0].op, Concat) and node.inputs[0].type.rank == LEAD + 2
        case _:
            return False


@dataclass
class _Work:
    graph: Graph
    context: PassContext
    tables: Tables
    changed: bool = False
    misses: list[tuple[Node, str]] = field(default_factory=list)
    built: dict[tuple[Columns, tuple[Dim, ...]], Value] = field(default_factory=dict)

    def fuse(self, node: Node) -> None:
        """Replace the rotation that ends at ``node``, if one does."""
        if not any(result.use_count for result in node.results):
            return
        walk = Walk(self.tables)
        try:
            terms = walk.terms(node.result)
            if int(terms.entry.max(initial=0)) < 1:
                return
            found = _rotation(terms, self.tables)
            heads_axis = _heads_axis(found)
        except UnknownError as error:
            if any(self.tables.hold_angles(value) for each in walk.nodes if isinstance(each.op, Mul) for value in each.inputs):
                self.misses.append((node, str(error)))
            return
        if len({each.stage for each in walk.nodes}) > 1:
            self.misses.append((node, "it would merge two stages"))
        elif self.context.take_rewrite(SUBJECT, node.location):
            self._replace(node, list(walk.nodes), found, heads_axis)
            self.changed = True

    def _replace(self, node: Node, matched: list[Node], found: _Rotation, heads_axis: int) -> None:
        location = union(each.location for each in matched)
        build = Builder(self.graph, before=node, location=location, stage=node.stage)
        x = _features(build, found)
        if heads_axis == 2:
            x = build(Transpose(TO_HEADS), x)
        tables = [self._table(columns, x, heads_axis, node) for columns in (found.cos, found.sin)]
        result = build(Rotary(found.interleaved), x, *tables)
        if heads_axis == 2:
            result = build(Transpose(TO_HEADS), result)
        result.name = result.name or node.result.name
        self.graph.replace_uses(node.result, result)
        erase_dead(self.graph, [node])
        self.context.done(SUBJECT, location, node=result.producer, of=matched)

    def _table(self, columns: Columns, x: Value, heads_axis: int, node: Node) -> Value:
        """The columns as ``[batch or 1, length, count]``, made where the table stands so that every layer can use them."""
        batch = _lead(columns.table, columns.rank)[0]
        shape = (batch, x.type.shape[2], columns.count)
        key = (columns, shape)
        if key not in self.built:
            producer = columns.table.producer
            before = producer._next if producer is not None else next(self.graph.nodes, None)
            location = producer.location if producer is not None else node.location
            build = Builder(self.graph, before, location, producer.stage if producer is not None else node.stage)
            value = _selected(build, columns)
            value = build(Neg(), value) if columns.sign < 0 else value
            self.built[key] = build(Reshape(shape), value) if value.type.shape != shape else value
        return self.built[key]


def _rotation(terms: Terms, tables: Tables) -> _Rotation:
    """Read the sums as a rotation. Raises `UnknownError` saying which feature is not as it should be."""
    index, sign, entry = (array.reshape(len(terms.index), -1) for array in (terms.index, terms.sign, terms.entry))
    counts = (entry > 0).sum(axis=0)
    rotated = int((counts == 2).sum())
    if rotated == 0 or rotated % 2 or not (counts[:rotated] == 2).all() or (entry[:, :rotated] == 0).any():
        raise UnknownError("not every one of the first features is a sum of two products with the tables")
    width, pairs = index.shape[1], rotated // 2
    offset = int(index[:, :rotated][entry[:, :rotated] > 0].min())
    for place in range(rotated, width):
        rest = entry[:, place] == 0
        if rest.sum() != 1 or int(index[rest, place][0]) != offset + place or int(sign[rest, place][0]) != 1:
            raise UnknownError(f"feature {place} is neither rotated nor left as it is")
    interleaved = pairs > 1 and _partner(index, entry, 0, offset) == 1
    first = np.arange(pairs) * 2 if interleaved else np.arange(pairs)
    second = first + 1 if interleaved else first + pairs
    cos, sin = [], []
    for one, two in zip(first.tolist(), second.tolist(), strict=True):
        own, other = (_term(index, sign, entry, at, offset + at) for at in (one, two))
        from_second, from_first = (_term(index, sign, entry, at, offset + source) for at, source in ((one, two), (two, one)))
        if _content(tables, own) != _content(tables, other):
            raise UnknownError(f"features {one} and {two} are multiplied by different cosines")
        back, forth = _content(tables, from_second), _content(tables, from_first)
        if forth != (-back[0], *back[1:]):
            raise UnknownError(f"features {one} and {two} are multiplied by different sines")
        cos.append(own)
        sin.append(from_first)
    return _Rotation(terms.leaf, offset, width, interleaved, _columns(tables, cos), _columns(tables, sin))


def _partner(index: Ints, entry: Ints, at: int, offset: int) -> int:
    """The other feature that a feature is made of."""
    others = [int(source) - offset for source in index[entry[:, at] > 0, at] if int(source) - offset != at]
    return others[0] if others else -1


def _term(index: Ints, sign: Ints, entry: Ints, at: int, source: int) -> tuple[int, int]:
    """Sign and table entry with which feature ``source`` enters feature ``at``."""
    found = np.flatnonzero((index[:, at] == source) & (entry[:, at] > 0))
    if len(found) != 1:
        raise UnknownError(f"feature {at} is not made of a pair of features")
    return int(sign[found[0], at]), int(entry[found[0], at])


def _content(tables: Tables, term: tuple[int, int]) -> tuple[int, int, Dim, Dim, Dim]:
    """What decides that two terms multiply by the same: sign, column, and how the table lies along the lead axes."""
    sign, entry = term
    known = tables.known[entry - 1]
    return sign, known.content, *_lead(known.table, known.rank)


def _columns(tables: Tables, terms: list[tuple[int, int]]) -> Columns:
    """The columns as they lie in their table: it must be one table, and they evenly spaced."""
    entries = [tables.known[entry - 1] for _, entry in terms]
    places = [entry.place for entry in entries]
    step = places[1] - places[0] if len(places) > 1 else 1
    if any(entry.table is not entries[0].table for entry in entries) or step < 1:
        raise UnknownError("the tables are spread over several values")
    if any(place != places[0] + step * number for number, place in enumerate(places)):
        raise UnknownError("the tables' columns are in another order than the features")
    signs = {sign * entry.sign for (sign, _), entry in zip(terms, entries, strict=True)}
    if len(signs) > 1:
        raise UnknownError("some features turn one way, some the other")
    return Columns(entries[0].table, entries[0].rank, places[0], step, len(places), signs.pop())


def _lead(table: Value, rank: int) -> tuple[Dim, Dim, Dim]:
    """Sizes along the three lead axes, 1 where a table lacks one."""
    shape = table.type.shape[: table.type.rank - rank]
    padded: tuple[Dim, ...] = (*[1] * (LEAD - len(shape)), *shape)
    return padded[0], padded[1], padded[2]


def _heads_axis(found: _Rotation) -> int:
    """The lead axis that the tables do not vary along. Raises `UnknownError` where none or both might be it."""
    leads = {_lead(columns.table, columns.rank)[1:] for columns in (found.cos, found.sin)}
    _, second, third = found.source.type.shape[:LEAD]
    match [axis for axis, lead in ((1, (1, third)), (2, (second, 1))) if leads == {lead}]:
        case [axis]:
            batches = {_lead(columns.table, columns.rank)[0] for columns in (found.cos, found.sin)}
            if batches <= {1, found.source.type.shape[0]}:
                return axis
    shown = " and ".join(str(columns.table.type) for columns in (found.cos, found.sin))
    raise UnknownError(f"tables {shown} do not lie along the positions of {found.source.type}")


def _features(build: Builder, found: _Rotation) -> Value:
    """The features that the rotation covers, with heads and length as they lie; a part that exists already is used."""
    source, start, stop = found.source, found.offset, found.offset + found.width
    lead = source.type.shape[:LEAD]
    if source.type.rank == LEAD + 1:
        for user in source.users:
            if isinstance(user.op, Split) and user.op.axis == LEAD:
                before: Dim = 0
                for result in user.results:
                    if before == start and result.type.shape[LEAD] == found.width and user.stage == build.stage:
                        return result
                    before = before + result.type.shape[LEAD]
    else:
        size = int(np.prod([dim for dim in source.type.shape[LEAD:] if isinstance(dim, int)]))
        source = build(Reshape((*lead, size)), source)
    whole = source.type.shape[LEAD] == found.width and start == 0
    return source if whole else build(Slice(LEAD, start, stop), source)


def _selected(build: Builder, columns: Columns) -> Value:
    """Columns of a table, cut as far up as it goes, so that what both halves of it repeat is computed once."""
    value, start, step, count = columns.table, columns.start, columns.step, columns.count
    if columns.rank > 1:
        lead = value.type.shape[: value.type.rank - columns.rank]
        value = build(Reshape((*lead, product(value.type.shape[len(lead) :]))), value)
    above: list[Unary | Cast | Reshape] = []
    for _ in range(TABLE_DEPTH):
        node, size, last = value.producer, value.type.shape[-1], value.type.rank - 1
        stop = start + step * (count - 1) + 1
        if node is None or not node.inputs or (start, step, count) == (0, 1, size):
            break
        source = node.inputs[0]
        match node.op:
            case Unary() | Cast():
                above.append(node.op)
            case Reshape() if source.type.rank and source.type.shape[-1] == size:
                above.append(Reshape((*value.type.shape[:-1], count)))
            case Reshape() if (once := _once(source)) is not None and once.type.shape[-2:] == (count, 1) and start < step == size // count:
                above.append(Reshape((*value.type.shape[:-1], count)))
                source, start, step = build(Reshape((*once.type.shape[:-2], count)), once), 0, 1
            case Slice(axis=axis, start=int(first), step=pace) if axis == last:
                start, step = first + start * pace, step * pace
            case Concat(axis=axis) if axis == last and (part := _part(node.inputs, start, stop)) is not None:
                source, start = part
            case _:
                break
        value = source
    if (start, step, count) != (0, 1, value.type.shape[-1]):
        value = build(Slice(value.type.rank - 1, start, start + step * (count - 1) + 1, step), value)
    for op in reversed(above):
        value = build(op, value)
    return value


def _once(value: Value) -> Value | None:
    """``[…, n, 1]`` where ``value`` repeats it to ``[…, n, m]``."""
    source = value.producer.inputs[0] if value.producer is not None and isinstance(value.op, Expand) else None
    repeats = source is not None and source.type.rank == value.type.rank and source.type.shape[:-1] == value.type.shape[:-1]
    return source if repeats else None


def _part(parts: tuple[Value, ...], start: int, stop: int) -> tuple[Value, int] | None:
    """The one part of a concatenation that holds columns ``[start, stop)``, and where they start in it."""
    before = 0
    for part in parts:
        size = part.type.shape[-1]
        if not isinstance(size, int):
            return None
        if before <= start and stop <= before + size:
            return part, start - before
        before += size
    return None
