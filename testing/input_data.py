"""Inputs for graphs: sizes for the symbols, then arrays that the graph's ops can take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cgptc.ir.binding import bind_symbols
from cgptc.ir.dims import Dim, bounds, evaluate
from cgptc.ir.dtypes import boolean
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Array
from cgptc.ir.ops import (
    Add,
    Cast,
    Concat,
    CrossEntropy,
    Embedding,
    Expand,
    Flip,
    Gather,
    GatherElements,
    GatherNd,
    Maximum,
    Minimum,
    Pad,
    Reshape,
    ScatterElements,
    ScatterNd,
    Select,
    Slice,
    Split,
    Sub,
    Transpose,
)
from cgptc.ir.weights import EMPTY_STORE, WeightStore
from cgptc.ir.whole_numbers import whole_number
from cgptc.testing.arrays import random_array, random_integers

_MOVING = (Cast, Concat, Expand, Flip, Maximum, Minimum, Pad, Reshape, Slice, Split, Transpose)
"""Ops whose results have the numbers of any operand: as they are, or nearer to where an index must be."""


def indexed_dims(node: Node, operand: int) -> list[Dim]:
    """The dimensions that an operand's numbers index, all of which they must stay below; none for an operand that is not an index."""
    op = node.op
    if operand != 1:
        return []
    match op:
        case Embedding():
            return [node.inputs[0].type.shape[0]]
        case Gather() | GatherElements() | ScatterElements():
            return [node.inputs[0].type.shape[op.axis]]
        case GatherNd() | ScatterNd():
            depth = node.inputs[1].type.shape[-1]
            assert isinstance(depth, int)
            first = op.batch_dims if isinstance(op, GatherNd) else 0
            return list(node.inputs[0].type.shape[first : first + depth])
        case CrossEntropy():
            return [node.inputs[0].type.shape[1]]
        case _:
            return []


@dataclass(frozen=True)
class Indices:
    """What the numbers of a tensor must be since they are used as indices: from ``low`` to ``high``. ``ignored`` are labels that a loss
    leaves out, where nothing but losses reads them.
    """

    low: int
    high: int
    ignored: int | None = None


def indices_of(value: Value, sizes: Mapping[str, int], store: WeightStore = EMPTY_STORE) -> Indices | None:
    """The range of an input whose numbers are used as indices, perhaps moved or shifted by a constant; None where they are not."""
    lows: list[int] = []
    highs: list[int] = []
    ignored: set[int | None] = set()
    pending, seen = [(value, 0)], {value}
    while pending:
        current, shift = pending.pop()
        for use in current.uses:
            if use.user is None:
                continue
            for dim in indexed_dims(use.user, use.index):
                lows.append(-shift)
                highs.append(evaluate(dim, sizes) - 1 - shift)
                ignored.add(use.user.op.ignore_index if isinstance(use.user.op, CrossEntropy) and not shift else None)
            moved = _shift(use.user, use.index, store)
            if moved is not None:
                pending += [(result, shift + moved) for result in use.user.results if result not in seen]
                seen.update(use.user.results)
    if not lows:
        return None
    low = max(lows)
    return Indices(low, max(low, min(highs)), ignored.pop() if len(ignored) == 1 else None)


def _shift(node: Node, operand: int, store: WeightStore) -> int | None:
    """What is added to an operand's numbers on their way into the results; None where they do not get there."""
    match node.op:
        case Gather() | GatherElements() | GatherNd():
            return 0 if operand == 0 else None
        case Select():
            return 0 if operand else None
        case Add():
            return whole_number(node.inputs[1 - operand], store)
        case Sub() if operand == 0:
            number = whole_number(node.inputs[1], store)
            return None if number is None else -number
        case _:
            return 0 if isinstance(node.op, _MOVING) else None


def random_sizes(graph: Graph, generator: np.random.Generator, largest: int = 5) -> dict[str, int]:
    """A size within its bounds for every symbol, at most ``largest`` where the bounds allow."""
    found = {}
    for name, symbol in graph.symbols.items():
        low, high = bounds(symbol.dim)
        found[name] = int(generator.integers(low, max(low, min(high, largest)), endpoint=True))
    return found


def random_inputs(
    graph: Graph, *, seed: int = 0, kind: str = "normal", sizes: Mapping[str, int] | None = None, ignored: float = 0.0
) -> dict[str, Array]:
    """An array for every input, all from one seed; numbers that are used as indices are in range.

    ``sizes`` gives symbols' sizes; those that it lacks are drawn small. About that share of the labels that only losses read is ``ignored``
    by them, never the first. Raises ValueError for sizes that the shapes do not give back.
    """
    generator = np.random.default_rng(seed)
    chosen = random_sizes(graph, generator) | dict(sizes or {})
    inputs = {}
    for value in graph.inputs:
        shape = tuple(evaluate(dim, chosen) for dim in value.type.shape)
        indices = None if value.type.dtype is boolean else indices_of(value, chosen, graph.store)
        if indices is None:
            inputs[value.name] = random_array(shape, value.type.dtype, generator, kind)
            continue
        drawn = random_integers(shape, value.type.dtype, generator, indices.low, indices.high)
        if ignored and indices.ignored is not None:
            drawn.reshape(-1)[1:][generator.random(max(drawn.size - 1, 0)) < ignored] = indices.ignored
        inputs[value.name] = drawn
    bound = bind_symbols(graph.inputs, {name: array.shape for name, array in inputs.items()})
    wrong = {name: size for name, size in bound.items() if chosen[name] != size}
    if wrong:
        raise ValueError(f"the inputs' shapes give {wrong}, chosen were {chosen}")
    return inputs
