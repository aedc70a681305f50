"""What stands in each column of a table of cosines or sines, so that two columns can be seen to be equal.

A rotary table often holds each angle twice, ``cos(concat(angles, angles))``. `Tables` gives every column a number that two columns share
exactly where they are computed the same way from the same columns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Binary
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Cos, Neg, Sin, Unary
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.shape import Concat, Expand, Reshape, Slice, Split, Transpose
from cgptc.ir.weights import WeightStore

DEPTH = 16
"""Nodes that are looked at above a table."""

NODE_LIMIT = 64
"""Nodes that are looked at to tell a table from features."""

READ_SIZE = 1 << 20
"""Elements of a constant table that may be read to compare its columns."""

MADE_OF = (Unary, Cast, Binary, Concat, Slice, Split, Transpose, Reshape, Expand, MatMul, Embedding, Gather)
"""What turns positions into a table."""

Ints = NDArray[np.int64]


def of_positions(value: Value) -> bool:
    """Whether a value is computed from constants and whole numbers alone, by what tables are made with."""
    seen: set[Value] = set()
    stack = [value]
    while stack:
        current = stack.pop()
        if current in seen or not current.type.dtype.is_float or isinstance(current.op, Constant):
            continue
        if current.producer is None or not isinstance(current.op, MADE_OF) or len(seen) > NODE_LIMIT:
            return False
        seen.add(current)
        stack += current.producer.inputs
    return True


@dataclass(frozen=True)
class Entry:
    """Column ``place`` of ``table`` (its last ``rank`` axes flattened) is ``sign`` times what number ``content`` stands for."""

    table: Value
    rank: int
    place: int
    sign: int
    content: int


@dataclass
class Tables:
    """The columns of the tables of one graph. ``entries`` numbers uses, ``known[number - 1]`` says which column of which table."""

    store: WeightStore
    known: list[Entry] = field(default_factory=list)
    _used: dict[tuple[Value, int], Ints] = field(default_factory=dict)
    _numbers: dict[Hashable, int] = field(default_factory=dict)
    _contents: dict[tuple[Value, int], Ints] = field(default_factory=dict)
    _angular: set[int] = field(default_factory=set)

    def entries(self, table: Value, features: tuple[int, ...]) -> tuple[Ints, Ints]:
        """Numbers of the entries that a product with ``table`` uses, broadcast to ``features``, and signs, which are taken out."""
        rank = min(len(features), table.type.rank)
        content = self.columns(table, rank)
        flat = content.reshape(-1)
        if (table, rank) not in self._used:
            first = len(self.known) + 1
            self.known += [Entry(table, rank, place, int(np.sign(number)), abs(int(number))) for place, number in enumerate(flat)]
            self._used[table, rank] = np.arange(first, first + flat.size, dtype=np.int64)
        numbers = self._used[table, rank].reshape(content.shape)
        return np.broadcast_to(numbers, features), np.broadcast_to(np.sign(content), features)

    def hold_angles(self, table: Value) -> bool:
        """Whether a value that `entries` was asked about holds cosines or sines computed in the graph."""
        return any(entry.table is table and entry.content in self._angular for entry in self.known)

    def columns(self, value: Value, rank: int, depth: int = DEPTH) -> Ints:
        """Numbers of the columns on the last ``rank`` axes, negative where a column is the negation of one."""
        key = (value, rank)
        if key not in self._contents:
            self._contents[key] = self._columns(value, rank, depth)
        return self._contents[key]

    def _columns(self, value: Value, rank: int, depth: int) -> Ints:
        shape = value.type.shape[value.type.rank - rank :]
        if not all(isinstance(dim, int) for dim in shape):
            return np.full([1] * rank, self._number(("whole", value, rank)), np.int64)
        sizes = tuple(dim for dim in shape if isinstance(dim, int))
        node = value.producer
        if node is None or depth == 0:
            return self._leaf(value, sizes)
        first = value.type.rank - rank  # of the trailing axes
        axis = getattr(node.op, "axis", -1)
        source = node.inputs[0] if node.inputs else value
        match node.op:
            case Neg():
                return -self.columns(source, rank, depth - 1)
            case Unary() | Cast():
                return self._wrapped(self.columns(source, rank, depth - 1), node.op, isinstance(node.op, Cos | Sin))
            case Binary():
                return self._binary(node.op, node.inputs[0], node.inputs[1], sizes, depth)
            case Concat() if axis >= first:
                return np.concatenate([self.columns(part, rank, depth - 1) for part in node.inputs], axis - first)
            case Slice(start=int(start), stop=int(stop), step=step) if axis >= first:
                where = (*[slice(None)] * (axis - first), slice(start, stop, step))
                return self.columns(source, rank, depth - 1)[where]
            case Slice():
                return self._wrapped(self.columns(source, rank, depth - 1), (node.op, value.type.rank))
            case Split(sizes=parts) if axis >= first and all(isinstance(part, int) for part in parts):
                ends = np.cumsum([0, *parts])
                where = (*[slice(None)] * (axis - first), slice(ends[value.result_index], ends[value.result_index + 1]))
                return self.columns(source, rank, depth - 1)[where]
            case Transpose(permutation=order) if order[first:] == tuple(range(first, value.type.rank)):
                return self._wrapped(self.columns(source, rank, depth - 1), node.op)
            case Reshape():
                kept = _suffix(source, int(np.prod(sizes)))
                if kept is not None:
                    lead = ("lead", value.type.shape[:first])
                    return self._wrapped(self.columns(source, kept, depth - 1).reshape(sizes), lead)
            case Expand():
                inner = self.columns(source, min(rank, source.type.rank), depth - 1)
                return self._wrapped(np.broadcast_to(inner, sizes), ("lead", value.type.shape[:first]))
            case Embedding() if rank == 1:
                return self._rows(*node.inputs)
            case Gather() if rank == 1 and node.op.axis == 0 and source.type.rank == 2:
                return self._rows(*node.inputs)
            case _:
                pass
        return self._leaf(value, sizes)

    def _binary(self, op: Binary, left: Value, right: Value, sizes: tuple[int, ...], depth: int) -> Ints:
        sides = []
        for side in (left, right):
            inner = self.columns(side, min(len(sizes), side.type.rank), depth - 1)
            sides.append(np.broadcast_to(inner, sizes).reshape(-1).tolist())
        numbers = [self._number((op, *pair)) for pair in zip(*sides, strict=True)]
        self._angular.update(
            number
            for number, pair in zip(numbers, zip(*sides, strict=True), strict=True)
            if any(abs(part) in self._angular for part in pair)
        )
        return np.asarray(numbers, np.int64).reshape(sizes)

    def _rows(self, table: Value, indices: Value) -> Ints:
        """Rows of a table: their columns are the table's, whoever holds it."""
        return self._wrapped(self.columns(table, 1), ("rows", indices))

    def _leaf(self, value: Value, sizes: tuple[int, ...]) -> Ints:
        count = int(np.prod(sizes))
        columns = self._constant_columns(value, count)
        keys: list[Hashable] = list(columns) if columns is not None else [(value, count, place) for place in range(count)]
        return np.asarray([self._number(key) for key in keys], np.int64).reshape(sizes)

    def _constant_columns(self, value: Value, count: int) -> list[Hashable] | None:
        """Columns of a small constant by content; None where it is none, or its content is not at hand."""
        weight = value.op.weight if isinstance(value.op, Constant) else None
        if weight is None or not 0 < int(np.prod(weight.shape)) <= READ_SIZE:
            return None
        try:
            array = weight.read(self.store)
        except KeyError:
            return None
        columns = np.ascontiguousarray(array.reshape(-1, count).T)
        return [("column", value.type.shape[:-1], str(weight.dtype), hashlib.sha256(row.tobytes()).hexdigest()) for row in columns]

    def _wrapped(self, inner: Ints, by: Hashable, angular: bool = False) -> Ints:
        numbers = {number: self._number((by, number)) for number in set(inner.reshape(-1).tolist())}
        for number, wrapped in numbers.items():
            if angular or abs(number) in self._angular:
                self._angular.add(wrapped)
        flat = [numbers[number] for number in inner.reshape(-1).tolist()]
        return np.asarray(flat, np.int64).reshape(inner.shape)

    def _number(self, key: Hashable) -> int:
        return self._numbers.setdefault(key, len(self._numbers) + 1)


def _suffix(value: Value, size: int) -> int | None:
    """How many trailing axes hold ``size`` elements; None where no number of them does."""
    product = 1
    for count, dim in enumerate(reversed(value.type.shape), start=1):
        if not isinstance(dim, int):
            return None
        product *= dim
        if product == size:
            return count
        if product > size:
            return None
    return None
