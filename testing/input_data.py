"""Inputs for graphs: sizes for the symbols, then arrays that the graph's ops can take."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cgptc.ir.binding import bind_symbols
from cgptc.ir.dims import Dim, bounds, evaluate
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.op import Array
from cgptc.ir.ops import (
    Cast,
    CrossEntropy,
    Embedding,
    Expand,
    Gather,
    GatherElements,
    GatherNd,
    Reshape,
    ScatterElements,
    ScatterNd,
    Slice,
    Transpose,
)
from cgptc.testing.arrays import random_array, random_integers

_MOVING = (Cast, Expand, Reshape, Slice, Transpose)
"""Ops whose result has the numbers of their first operand."""


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


def index_limit(value: Value, sizes: Mapping[str, int]) -> int | None:
    """What the numbers of ``value`` must stay below, since they are used as indices; None where they are not."""
    limits: list[int] = []
    pending, seen = [value], {value}
    while pending:
        for use in pending.pop().uses:
            if use.user is None:
                continue
            limits += [evaluate(dim, sizes) for dim in indexed_dims(use.user, use.index)]
            if isinstance(use.user.op, _MOVING) and use.user.result not in seen:
                seen.add(use.user.result)
                pending.append(use.user.result)
    return min(limits, default=None)


def random_sizes(graph: Graph, generator: np.random.Generator, largest: int = 5) -> dict[str, int]:
    """A size within its bounds for every symbol, at most ``largest`` where the bounds allow."""
    found = {}
    for name, symbol in graph.symbols.items():
        low, high = bounds(symbol.dim)
        found[name] = int(generator.integers(low, max(low, min(high, largest)), endpoint=True))
    return found


def random_inputs(graph: Graph, *, seed: int = 0, kind: str = "normal", sizes: Mapping[str, int] | None = None) -> dict[str, Array]:
    """An array for every input, all from one seed; numbers that are used as indices are in range.

    ``sizes`` gives symbols' sizes; those that it lacks are drawn small. Raises ValueError for sizes that the shapes do not give back.
    """
    generator = np.random.default_rng(seed)
    chosen = random_sizes(graph, generator) | dict(sizes or {})
    inputs = {}
    for value in graph.inputs:
        shape = tuple(evaluate(dim, chosen) for dim in value.type.shape)
        limit = index_limit(value, chosen) if value.type.dtype.is_integer else None
        if limit is None:
            inputs[value.name] = random_array(shape, value.type.dtype, generator, kind)
        else:
            inputs[value.name] = random_integers(shape, value.type.dtype, generator, 0, max(limit - 1, 0))
    bound = bind_symbols(graph.inputs, {name: array.shape for name, array in inputs.items()})
    wrong = {name: size for name, size in bound.items() if chosen[name] != size}
    if wrong:
        raise ValueError(f"the inputs' shapes give {wrong}, chosen were {chosen}")
    return inputs
