"""At which values of an entry's scalars, and in which iterations of its loops, steps are looked at."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.program import ITEM, Entry, Program
from cgptc.backends.wafer.resolve import iterations
from cgptc.backends.wafer.steps import Loop

MAX_ITERATIONS = 4096
"""Iterations of one loop that are looked at one by one; of longer loops the first and last so many."""


def corners(program: Program, entry: Entry) -> Iterator[dict[str, int]]:
    """Environments at the outermost admissible values of the scalars, each with the first and the last item.

    Where lowest and highest values together break a limit, one scalar after the other goes down as far as the limit asks.
    """
    ends = [sorted({scalar.low, scalar.high}) for scalar in entry.scalars]
    found: dict[tuple[int, ...], dict[str, int]] = {}
    for values in product(*ends):
        scalars = {scalar.name: value for scalar, value in zip(entry.scalars, values, strict=True)}
        for admissible in _within(entry, scalars):
            found[tuple(admissible.values())] = admissible
    for scalars in found.values():
        items = value_of(entry.items, scalars)
        for item in sorted({0, items - 1}):
            if item >= 0:
                yield {**scalars, ITEM: item}


def _within(entry: Entry, scalars: dict[str, int]) -> Iterator[dict[str, int]]:
    if entry.refusal(scalars) is None:
        yield scalars
        return
    for scalar in entry.scalars:
        low, high = scalar.low, scalars[scalar.name]
        if entry.refusal({**scalars, scalar.name: low}) is not None:
            continue
        # The largest value that the limits admit, by bisection: limits are affine, so what they admit is one range.
        while low < high:
            middle = (low + high + 1) // 2
            if entry.refusal({**scalars, scalar.name: middle}) is None:
                low = middle
            else:
                high = middle - 1
        yield {**scalars, scalar.name: low}


def looked_at(loop: Loop, environment: Mapping[str, int]) -> list[dict[str, int]]:
    """The iterations of a loop that the verifier looks at."""
    count = value_of(loop.count, environment)
    if count <= MAX_ITERATIONS:
        return list(iterations(loop, environment))
    half = MAX_ITERATIONS // 2
    return [{**environment, loop.variable: index} for index in (*range(half), *range(count - half, count))]
