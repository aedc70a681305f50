"""Rectangles on the wafer: shelves, filled to and fro, so that a stage's neighbour is the next stage."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import Machine

Place = tuple[int, int]


def pack(grids: Sequence[Grid], machine: Machine) -> list[Place] | None:
    """The north-west corner of each grid, in order; None where shelves do not fit, however they are filled.

    Shelves run eastward and westward in turn. A shelf is as high as its highest grid. It takes as many grids as it can, or where that is
    too high in the end as many as make all shelves lowest: so no larger machine, and no smaller grids, find less room.
    """
    counts = _filled(grids, machine)
    if counts is None or _height(grids, counts) > machine.height:
        counts = _lowest(grids, machine)
    if counts is None or _height(grids, counts) > machine.height:
        return None
    places: list[Place] = []
    top = start = 0
    for number, count in enumerate(counts):
        shelf = grids[start : start + count]
        x = 0 if number % 2 == 0 else machine.width
        for grid in shelf:
            x -= grid.width if number % 2 else 0
            places.append((x, top))
            x += 0 if number % 2 else grid.width
        top += max(grid.height for grid in shelf)
        start += count
    return places


def _height(grids: Sequence[Grid], counts: Sequence[int]) -> int:
    """Of shelves with so many grids each."""
    ends = list(accumulate(counts))
    return sum(max(grid.height for grid in grids[end - count : end]) for end, count in zip(ends, counts, strict=True))


def _filled(grids: Sequence[Grid], machine: Machine) -> list[int] | None:
    """Grids of each shelf where each takes as many as it can; None where one is too wide."""
    counts: list[int] = []
    used = machine.width
    for grid in grids:
        if grid.width > machine.width:
            return None
        if used + grid.width > machine.width:
            counts.append(0)
            used = 0
        counts[-1] += 1
        used += grid.width
    return counts


def _lowest(grids: Sequence[Grid], machine: Machine) -> list[int] | None:
    """Grids of each shelf for the least height in all; None where one is too wide."""
    heights = [0]
    last = [0]
    for end in range(1, len(grids) + 1):
        best, width, highest = (0, 0), 0, 0
        for start in range(end - 1, -1, -1):
            width += grids[start].width
            if width > machine.width:
                break
            highest = max(highest, grids[start].height)
            if not best[1] or heights[start] + highest <= best[0]:
                best = (heights[start] + highest, end - start)
        if not best[1]:
            return None
        heights.append(best[0])
        last.append(best[1])
    counts: list[int] = []
    end = len(grids)
    while end:
        counts.append(last[end])
        end -= last[end]
    return counts[::-1]
