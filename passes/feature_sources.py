"""What each feature of a value is made of: a walk up views, signs and products along the trailing axes.

Rotary positions are spelled in many ways: slices and concatenations, splits, strided slices and stacks, two axes for the pairs. All of
them say, feature by feature, which features of one tensor are added with which entry of which table. `terms` finds that out.

The leading three axes of a value (batch, and heads and length in either order) pass through untouched; what follows them are the
features, on one axis or several.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cgptc.ir.graph import Node, Value
from cgptc.ir.ops.binary import Add, Mul, Sub
from cgptc.ir.ops.elementwise import Neg
from cgptc.ir.ops.shape import Concat, Reshape, Slice, Split, Transpose
from cgptc.passes.table_entries import Tables, of_positions

LEAD = 3
"""Axes before the features."""

DEPTH = 24
"""Nodes between a rotation's result and what it rotates, at most."""

Ints = NDArray[np.int64]


class UnknownError(Exception):
    """The walk met what it does not understand; the message says what."""


@dataclass(frozen=True)
class Features:
    """Each feature is ``sign`` times feature ``index`` of ``leaf`` (its trailing axes flattened)."""

    leaf: Value
    index: Ints
    sign: Ints


@dataclass(frozen=True)
class Terms:
    """Each feature is a sum over axis 0 of ``sign * table entry * feature index of leaf``; entry 0 is the number 1, -1 no term."""

    leaf: Value
    index: Ints
    sign: Ints
    entry: Ints


@dataclass
class Walk:
    """One look at a rotation; ``nodes`` are those walked over, root first."""

    tables: Tables
    nodes: dict[Node, None] = field(default_factory=dict)

    def terms(self, value: Value, depth: int = DEPTH) -> Terms:
        """The sums that a value's features are. Raises `UnknownError`."""
        node = value.producer
        if depth == 0 or node is None:
            return self._plain(value, depth)
        axis = getattr(node.op, "axis", None)
        match node.op:
            case Add() | Sub():
                self._note(node)
                left, right = (self._whole(operand, value) for operand in node.inputs)
                sign = -1 if isinstance(node.op, Sub) else 1
                return _sum(self.terms(left, depth - 1), self.terms(right, depth - 1), sign)
            case Mul():
                self._note(node)
                return self._product(node, value, depth)
            case Neg():
                self._note(node)
                inner = self.terms(node.inputs[0], depth - 1)
                return Terms(inner.leaf, inner.index, -inner.sign, inner.entry)
            case Concat() if isinstance(axis, int) and axis >= LEAD:
                self._note(node)
                return _joined([self.terms(part, depth - 1) for part in node.inputs], axis - LEAD + 1)
            case Reshape() if self._computes(node.inputs[0]) and _keeps_lead(node.inputs[0], value):
                self._note(node)
                inner = self.terms(node.inputs[0], depth - 1)
                shape = (len(inner.index), *_trailing(value))
                return Terms(inner.leaf, inner.index.reshape(shape), inner.sign.reshape(shape), inner.entry.reshape(shape))
            case _:
                return self._plain(value, depth)

    def features(self, value: Value, depth: int = DEPTH) -> Features:
        """Where a value's features come from, views and signs alone. Raises `UnknownError`."""
        node = value.producer
        if depth == 0 or node is None:
            return _leaf(value)
        axis = getattr(node.op, "axis", -1)
        match node.op:
            case Neg():
                inner = self.features(node.inputs[0], depth - 1)
                found = Features(inner.leaf, inner.index, -inner.sign)
            case Slice(start=int(start), stop=int(stop), step=step) if axis >= LEAD:
                inner = self.features(node.inputs[0], depth - 1)
                found = _cut(inner, axis, slice(start, stop, step))
            case Split(sizes=sizes) if axis >= LEAD and all(isinstance(size, int) for size in sizes):
                before = sum(size for size in sizes[: value.result_index] if isinstance(size, int))
                inner = self.features(node.inputs[0], depth - 1)
                found = _cut(inner, axis, slice(before, before + _int(sizes[value.result_index])))
            case Concat() if axis >= LEAD:
                parts = [self.features(part, depth - 1) for part in node.inputs]
                if any(part.leaf is not parts[0].leaf for part in parts):
                    return _leaf(value)
                index, sign = (np.concatenate([getattr(part, name) for part in parts], axis - LEAD) for name in ("index", "sign"))
                found = Features(parts[0].leaf, index, sign)
            case Reshape() if _keeps_lead(node.inputs[0], value):
                inner = self.features(node.inputs[0], depth - 1)
                found = Features(inner.leaf, inner.index.reshape(_trailing(value)), inner.sign.reshape(_trailing(value)))
            case Transpose(permutation=order) if order[:LEAD] == tuple(range(LEAD)):
                inner = self.features(node.inputs[0], depth - 1)
                turn = [place - LEAD for place in order[LEAD:]]
                found = Features(inner.leaf, inner.index.transpose(turn), inner.sign.transpose(turn))
            case _:
                return _leaf(value)
        self._note(node)
        return found

    def _note(self, node: Node) -> None:
        self.nodes[node] = None

    def _computes(self, value: Value) -> bool:
        """Whether sums stand above, so that a reshape belongs to the rotation and not to what is rotated."""
        for _ in range(4):
            node = value.producer
            if node is None or not isinstance(node.op, Reshape | Concat | Add | Sub):
                return False
            if isinstance(node.op, Add | Sub):
                return True
            value = node.inputs[0]
        return False

    def _plain(self, value: Value, depth: int) -> Terms:
        found = self.features(value, depth)
        return Terms(found.leaf, found.index[None], found.sign[None], np.zeros((1, *found.index.shape), np.int64))

    def _product(self, node: Node, value: Value, depth: int) -> Terms:
        left, right = node.inputs
        sides = [(table, rotated) for table, rotated in ((left, right), (right, left)) if rotated.type == value.type]
        if len(sides) > 1:
            # Of one head alone the features have the shape of a table that has the batch's axis.
            sides = [(table, rotated) for table, rotated in sides if of_positions(table) and not of_positions(rotated)]
        if len(sides) != 1:
            raise UnknownError("a product of two tensors of the same shape, neither or both a table by position, is no rotation")
        ((table, rotated),) = sides
        found = self.features(rotated, depth - 1)
        entry, sign = self.tables.entries(table, found.index.shape)
        return Terms(found.leaf, found.index[None], (found.sign * sign)[None], entry[None])

    def _whole(self, operand: Value, value: Value) -> Value:
        if operand.type != value.type:
            raise UnknownError("a sum that broadcasts is no rotation")
        return operand


def _int(size: object) -> int:
    assert isinstance(size, int)
    return size


def _trailing(value: Value) -> tuple[int, ...]:
    shape = value.type.shape[LEAD:]
    if not shape or not all(isinstance(dim, int) for dim in shape):
        raise UnknownError(f"the features of {value.type} are not static")
    return tuple(_int(dim) for dim in shape)


def _keeps_lead(source: Value, value: Value) -> bool:
    rest = source.type.shape[LEAD:]
    return bool(rest) and source.type.shape[:LEAD] == value.type.shape[:LEAD] and all(isinstance(dim, int) for dim in rest)


def _leaf(value: Value) -> Features:
    shape = _trailing(value)
    index = np.arange(int(np.prod(shape)), dtype=np.int64).reshape(shape)
    return Features(value, index, np.ones_like(index))


def _cut(inner: Features, axis: int, part: slice) -> Features:
    where = (*[slice(None)] * (axis - LEAD), part)
    return Features(inner.leaf, inner.index[where], inner.sign[where])


def _sum(left: Terms, right: Terms, sign: int) -> Terms:
    if left.leaf is not right.leaf:
        raise UnknownError("it mixes features of two tensors")
    return Terms(
        left.leaf,
        np.concatenate([left.index, right.index]),
        np.concatenate([left.sign, sign * right.sign]),
        np.concatenate([left.entry, right.entry]),
    )


def _joined(parts: list[Terms], axis: int) -> Terms:
    if any(part.leaf is not parts[0].leaf for part in parts):
        raise UnknownError("it joins features of two tensors")
    count = max(len(part.index) for part in parts)
    padded = [
        np.concatenate([np.concatenate([array, np.full((count - len(array), *array.shape[1:]), fill)]) for array in arrays], axis)
        for fill, arrays in (
            (0, [part.index for part in parts]),
            (0, [part.sign for part in parts]),
            (-1, [part.entry for part in parts]),
        )
    ]
    return Terms(parts[0].leaf, *padded)
