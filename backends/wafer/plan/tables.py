"""What depends on positions alone is a table: worked out once for every position, whatever the model writes it with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cgptc.backends.wafer.axis_kinds import TIME
from cgptc.backends.wafer.plan.held import Held, Item, Places, RefusedError, Relation, Table, TooLongError
from cgptc.ir.dims import Expr, evaluate, symbols
from cgptc.ir.dtypes import f64, from_numpy
from cgptc.ir.graph import Node
from cgptc.ir.interpreter import evaluate_op
from cgptc.ir.op import Array
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.shape import Reshape, Slice, Split, Transpose
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import concatenated, converted, sliced, widened
from cgptc.ir.weights import Dense, Weight

if TYPE_CHECKING:
    from cgptc.backends.wafer.plan.lift import Lift

MOVES = (Reshape, Slice, Split, Transpose)
"""What stays an expression of weights where these do not depend on positions."""

LARGEST = 1 << 24
"""Elements that a table may have while it is worked out."""


def tabulate(lift: Lift, node: Node) -> tuple[Item, ...] | None:
    """The results of a node whose operands depend on positions alone, in float64, or on nothing, as a constant; None where another rule is
    to read it.
    """
    items = [lift.items[value] for value in node.inputs]
    if any(isinstance(item, Relation) and item.padding is not None for item in items):
        return None
    if not items or not all(isinstance(item, (Places, Table, Relation, Held)) for item in items) or _looks_up(items):
        return None
    if (
        isinstance(node.op, MOVES)
        and all(isinstance(item, Held) for item in items)
        and not any(_is_symbolic(value.type) for value in node.results)
    ):
        return None
    sequences = {item.sequence for item in items if isinstance(item, (Places, Table, Relation))}
    if len(sequences) > 1 or not sequences.isdisjoint(lift.bases):
        return None
    sequence = next(iter(sequences), TIME)
    length = lift.length(sequence)
    counted = any(isinstance(item, Places) for item in items)
    kept = isinstance(node.op, Reshape) and lift.tokens_of(node.op.shape) is None and node.op.shape != (lift.batch * length,)
    if counted and not kept and any(not value.type.dtype.is_float for value in node.results):
        return None
    if not isinstance(length, Expr):
        return None
    (time,) = symbols([length])
    sizes = {name: 1 for value in (*node.inputs, *node.results) for name in symbols(value.type.shape)}
    sizes |= dict.fromkeys(symbols([lift.past]), 0) | {time: lift.tokens(sequence)}
    operands = tuple(_array(lift, value.type, lift.items[value]) if value is not None else None for value in node.operands)
    _require_rows(node, operands, lift.tokens(sequence))
    found: list[Item] = []
    arrays = evaluate_op(node.op.bind(sizes).widened(), operands)
    _require_same(node, sizes, time, operands, arrays)
    for value, array in zip(node.results, arrays, strict=True):
        if array.size > LARGEST:
            rows = f"rows of {lift.tokens(sequence)} tokens"
            raise RefusedError(
                f"what it makes of all positions together is too large to be worked out for {rows}: give a smaller --context"
            )
        axes = [axis for axis, dim in enumerate(value.type.shape) if time in symbols([dim])]
        if len(axes) > 1:
            found.append(Relation(_dense(array), sequence))
            continue
        if not axes and value.type.dtype.is_float and not _is_symbolic(value.type):
            found.append(Held(converted(_dense(array), value.type.dtype)))
            continue
        found.append(Table(_dense(array), axes[0] if axes else -1, 0, sequence))
    return tuple(found)


def _require_same(node: Node, sizes: Mapping[str, int], time: str, operands: Sequence[Array | None], arrays: Sequence[Array]) -> None:
    """RefusedError where shorter rows have other numbers than the first of longer ones: no table holds those of every length."""
    types = [value.type if value is not None else None for value in node.operands]
    for count in sorted({(sizes[time] + 1) // 2, sizes[time] - 1} - {0, sizes[time]}):
        shorter = {**sizes, time: count}
        given = tuple(
            _first(type_, array, shorter) if type_ is not None and array is not None else None
            for type_, array in zip(types, operands, strict=True)
        )
        found = evaluate_op(node.op.bind(shorter).widened(), given)
        for value, short, whole in zip(node.results, found, arrays, strict=True):
            expected = _first(value.type, whole, shorter)
            near = np.allclose(short, expected, rtol=1e-9, atol=1e-9, equal_nan=True) if short.shape == expected.shape else False
            if not near:
                raise RefusedError("what it makes of a row's positions depends on how many there are")


def _first(type_: TensorType, array: Array, sizes: Mapping[str, int]) -> Array:
    """The part of an array that is that of a shorter row."""
    return array[tuple(slice(evaluate(dim, sizes)) if isinstance(dim, Expr) else slice(None) for dim in type_.shape)]


def _is_symbolic(type_: TensorType) -> bool:
    return any(isinstance(dim, Expr) for dim in type_.shape)


def _require_rows(node: Node, operands: Sequence[Array | None], tokens: int) -> None:
    """TooLongError where positions leave a table that they are to be looked up in."""
    if not isinstance(node.op, (Embedding, Gather)) or operands[0] is None or operands[1] is None:
        return
    axis = node.op.axis if isinstance(node.op, Gather) else 0
    beyond = int(operands[1].max(initial=0)) + 1 - operands[0].shape[axis]
    if 0 < beyond < tokens:
        raise TooLongError(tokens - beyond)


def _looks_up(items: list[Item]) -> bool:
    """A row of a constant by position stays a reference to the constant."""
    return len(items) == 2 and isinstance(items[0], Held) and isinstance(items[1], Places) and len(items[0].weight.shape) == 2


def _array(lift: Lift, type_: TensorType, item: Item) -> Array:
    match item:
        case Places(offset, sequence):
            count = lift.tokens(sequence)
            row = np.arange(count, dtype=type_.dtype.numpy) + type_.dtype.numpy.type(offset)
            length = lift.length(sequence)
            shape = [count if isinstance(dim, Expr) and dim in (length, lift.past + length) else 1 for dim in type_.shape]
            return np.asarray(row.reshape(shape))
        case Table(weight, axis, offset, sequence):
            count = lift.tokens(sequence)
            rows = weight if not offset else sliced(weight, len(weight.shape) - 2, offset, offset + count)
            array = _content(lift, rows)
            if axis == 1 and array.ndim < type_.rank:
                array = array[:count].reshape((*(1 for _ in range(type_.rank - array.ndim)), count, *array.shape[1:]))
            return array
        case Held(weight) | Relation(weight):
            return _content(lift, weight)
        case _:
            raise RefusedError("it depends on more than positions")


def _content(lift: Lift, weight: Weight) -> Array:
    """The numbers, in float64 where they are numbers.

    Where only shapes are known, which no artifact is written from, numbers of which no two neighbours are equal: nothing is planned to be
    simpler than it may be.
    """
    wide = widened(weight)
    try:
        return wide.read(lift.graph.store)
    except KeyError:
        count = np.arange(math.prod(wide.shape)) % 251 + 1 if wide.dtype.is_float else np.zeros(math.prod(wide.shape))
        return (count / 256).astype(wide.dtype.numpy).reshape(wide.shape)


def _dense(array: Array) -> Dense:
    return Dense(from_numpy(array.dtype), array.shape, np.ascontiguousarray(array).tobytes())


def angle_table(cosines: Weight, sines: Weight, head_dim: int, piece: int, heads: int) -> Weight:
    """Cosines and sines ``[positions, pairs]`` as the lines of an attention hold them, as `kernels.rotary.Rotary.table` has them.

    ``piece`` features of a head are on a line, ``heads`` heads beside one another. What is not rotated has cosine 1 and sine 0.
    """
    rows, pairs = cosines.shape
    rest = head_dim // 2 - pairs
    sides = []
    for weight, number in ((cosines, 1.0), (sines, 0.0)):
        side = converted(weight, f64)
        sides.append(concatenated([side, _dense(np.full((rows, rest), number))], 1) if rest else side)
    size = piece // 2
    lines = [sliced(side, 1, start, start + size) for start in range(0, head_dim // 2, size) for side in sides]
    return concatenated(lines * heads, 1)
