"""Rectangles on the wafer: shelves, filled to and fro, so that a stage's neighbour is the next stage."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import Machine

Place = tuple[int, int]


def pack(grids: Sequence[Grid], machine: Machine) -> list[Place] | None:
    """The north-west corner of each grid, in order; None where they do not fit.

    Shelves run eastward and westward in turn. A shelf is as high as its highest grid.
    """
    places: list[Place] = []
    top = 0
    start = 0
    eastward = True
    while start < len(grids):
        end, used = start, 0
        while end < len(grids) and used + grids[end].width <= machine.width:
            used += grids[end].width
            end += 1
        if end == start:
            return None
        height = max(grid.height for grid in grids[start:end])
        if top + height > machine.height:
            return None
        x = 0 if eastward else machine.width
        for grid in grids[start:end]:
            places.append((x, top) if eastward else (x - grid.width, top))
            x += grid.width if eastward else -grid.width
        top += height
        start, eastward = end, not eastward
    return places
