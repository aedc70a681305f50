"""How the fast engine moves an item of a stream: every element of every target PE from the one source PE that holds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.program import Stream

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class TileMap:
    """Index arrays over ``[rows, columns, *target local shape]`` (axes of size 1 where nothing depends on them)."""

    row: Array
    column: Array
    local: tuple[Array, ...]
    valid: Array

    def move(self, tiles: Array) -> Array:
        """Target tiles from source tiles ``[rows, columns, *source local shape]``; padding is zero."""
        moved = tiles[(self.row, self.column, *self.local)]
        return np.where(self.valid, moved, np.zeros((), tiles.dtype))


@lru_cache(maxsize=256)
def tile_map(stream: Stream) -> TileMap:
    """The map of a stream."""
    source, target = stream.source, stream.target
    rank = len(target.shape)
    row: Array = np.full([1] * (rank + 2), source.row or 0)
    column: Array = np.full([1] * (rank + 2), source.column or 0)
    valid: Array = np.ones([1] * (rank + 2), np.bool_)
    local: list[Array] = []
    for axis in range(rank):
        index = _logical(target, axis)
        inside = index < target.shape[axis]
        valid = valid & inside
        index = np.where(inside, index, 0)
        cut = source.cuts[axis]
        if cut is None:
            local.append(index)
            continue
        lines = source.lines(cut.along)
        line, inner = (index // cut.block, index % cut.block) if cut.block else (index % lines, index // lines)
        local.append(inner)
        if cut.along == "rows":
            row = line
        else:
            column = line
    for lines_name, line_number, position in (("rows", target.row, 0), ("columns", target.column, 1)):
        if line_number is not None:
            count = target.height if lines_name == "rows" else target.width
            held = np.arange(count) == line_number
            valid = valid & held.reshape([-1 if axis == position else 1 for axis in range(rank + 2)])
    return TileMap(row, column, tuple(local), valid)


def _logical(layout: Layout, axis: int) -> Array:
    """Logical indices of a tensor axis over ``[rows, columns, *local shape]``."""
    rank = len(layout.shape)
    cut = layout.cuts[axis]
    outer, step = layout.index_terms(axis)
    inner = np.arange(layout.local_size(axis)).reshape([-1 if other == axis + 2 else 1 for other in range(rank + 2)])
    if cut is None:
        return np.asarray(step * inner)
    position = 0 if cut.along == "rows" else 1
    lines = np.arange(layout.lines(cut.along)).reshape([-1 if other == position else 1 for other in range(rank + 2)])
    return np.asarray(step * inner + outer * lines)
