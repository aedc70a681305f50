"""How the fast engine stores a buffer of a region: one plane of PEs per element, and lines that hold the same only once.

After an allreduce or a broadcast all PEs of a line hold the same; so do all on which a replicated tensor was loaded. Such a direction is
stored with one line, and steps whose operands are all the same along it run for one line. This changes no bit: what is the same for all
PEs is computed from the same values in the same order. It is given up for a buffer as soon as a step writes to part of the lines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from cgptc.backends.wafer.resolve import Block, Placed

Array = NDArray[Any]


class Planes:
    """Carrier values ``[elements, rows or 1, columns or 1]`` of one buffer in a region of ``height`` × ``width`` PEs."""

    def __init__(self, size: int, height: int, width: int, carrier: np.dtype[Any], filler: float) -> None:
        self.height = height
        self.width = width
        self.array: Array = np.full((size, 1, 1), filler, carrier)

    @property
    def same_rows(self) -> bool:
        """Whether all rows of PEs hold the same."""
        return bool(self.array.shape[1] == 1)

    @property
    def same_columns(self) -> bool:
        return bool(self.array.shape[2] == 1)

    def view(self, placed: Placed, block: Block) -> Array:
        """The view's elements in the PEs of a block, ``[rows, columns, *shape]``, sharing memory; lines stored once repeat."""
        _, rows, columns = self.array.shape
        item = self.array.itemsize
        row_stride, column_stride = (columns * item if rows > 1 else 0), (item if columns > 1 else 0)
        first = block.rows.start * (columns if rows > 1 else 0) + block.columns.start * (columns > 1)
        origin = self.array.reshape(-1)[placed.offset * rows * columns + first :]
        shape = (len(block.rows), len(block.columns), *placed.shape)
        strides = (
            block.rows.step * row_stride,
            block.columns.step * column_stride,
            *(one * rows * columns * item for one in placed.strides),
        )
        return as_strided(origin, shape, strides)

    def reserve(self, rows_same: bool, columns_same: bool, *, fresh: bool) -> None:
        """Prepare for writing something that is the same along those directions: ``fresh`` where nothing old needs to be kept."""
        rows, columns = (1 if rows_same else self.height), (1 if columns_same else self.width)
        if not fresh:
            rows, columns = max(rows, self.array.shape[1]), max(columns, self.array.shape[2])
        if (rows, columns) == self.array.shape[1:]:
            return
        shape = (len(self.array), rows, columns)
        self.array = np.empty(shape, self.array.dtype) if fresh else np.broadcast_to(self.array, shape).copy()

    def write(self, placed: Placed, block: Block, values: Array, rows_same: bool, columns_same: bool) -> None:
        """Store ``[rows or 1, columns or 1, *shape]`` in a block; ``…_same`` tells that all lines that way are covered and equal."""
        everywhere = len(block.rows) == self.height and len(block.columns) == self.width
        self.reserve(rows_same, columns_same, fresh=everywhere and covers(placed))
        self.view(placed, self.stored(block))[...] = values

    def stored(self, block: Block) -> Block:
        """The block with directions that are stored once cut to one line."""
        return Block(range(1) if self.same_rows else block.rows, range(1) if self.same_columns else block.columns)

    def tiles(self, size: int) -> Array:
        """The first ``size`` elements in all PEs, ``[size, rows, columns]``, lines stored once repeated."""
        return np.broadcast_to(self.array[:size], (size, self.height, self.width))


def covers(placed: Placed) -> bool:
    """Whether a view names every element of its buffer."""
    return placed.size == placed.buffer.size and placed.bounds == (0, placed.buffer.size)
