"""Sets of elements of a buffer on PEs of a region, told by kinds of grid lines and not by PE.

Rows for which nothing different was ever said are of one kind, and so are columns. A region all of whose PEs do the same is one row kind by
one column kind, whatever its size; a step on some lines parts the kinds that it cuts through.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.program import Rectangle
from cgptc.backends.wafer.resolve import Block, Placed

Array = NDArray[Any]

MOST_CELLS = 1 << 25
"""Row kinds × column kinds × elements of one buffer that are told apart."""


class Presence:
    """A set of pairs of a PE and an element of a buffer of ``size``, empty at first."""

    def __init__(self, box: Rectangle, size: int) -> None:
        self._kinds = [np.zeros(lines, np.intp) for lines in (box.height, box.width)]
        self._counts = [1, 1]
        self._cells: Array = np.zeros((1, 1, size), np.bool_)
        # Whether every pair is in the set, or none; None where cells tell.
        self._uniform: bool | None = False

    def put(self, block: Block, placed: Placed, inside: bool = True) -> None:
        """A view's elements on a block's PEs, in or out. Raises ProgramError where that takes too many kinds."""
        if self._uniform is inside or not placed.size or not block.area:
            return
        size = self._cells.shape[2]
        every = placed.size == size and placed.bounds == (0, size) and 0 not in placed.strides
        if every and block.area == self._kinds[0].size * self._kinds[1].size:
            self._uniform = inside
            return
        if self._uniform is not None:
            self._cells[...] = self._uniform
            self._uniform = None
        rows, columns = (self._parted(axis, lines) for axis, lines in enumerate((block.rows, block.columns)))
        self._cells[np.ix_(rows, columns, np.arange(size) if every else elements(placed))] = inside

    def has(self, block: Block, placed: Placed) -> bool:
        """Whether all of a view's elements are there, on all PEs of a block."""
        return self._uniform if self._uniform is not None else bool(self._at(block, elements(placed)).all())

    def meets(self, block: Block, some: Array) -> bool:
        """Whether any of these elements is there, on any PE of a block."""
        return self._uniform is not False and bool(some.size and block.area) and (self._uniform or bool(self._at(block, some).any()))

    def parts(self, at: Sequence[Block], placed: Placed) -> bool:
        """Whether any of a view's elements is there on some PEs of these blocks and not on others."""
        if self._uniform is not None:
            return False
        found = [self._at(block, elements(placed)) for block in at]
        some = np.logical_or.reduce([one.any((0, 1)) for one in found])
        return bool((some & ~np.logical_and.reduce([one.all((0, 1)) for one in found])).any())

    def _at(self, block: Block, some: Array) -> Array:
        rows, columns = self._of(0, block.rows), self._of(1, block.columns)
        return np.asarray(self._cells[rows][:, columns][:, :, some])

    def _of(self, axis: int, lines: range) -> Array | slice:
        """The kinds of these lines."""
        kinds = self._kinds[axis]
        return slice(self._counts[axis]) if len(lines) == len(kinds) else np.unique(kinds[_slice(lines)])

    def _parted(self, axis: int, lines: range) -> Array:
        """The kinds of these lines, once no other line is of any of them."""
        kinds, count = self._kinds[axis], self._counts[axis]
        if len(lines) == len(kinds):
            return np.arange(count)
        named = _slice(lines)
        within = np.bincount(kinds[named], minlength=count)
        cut = np.flatnonzero((within > 0) & (within < np.bincount(kinds, minlength=count)))
        if len(cut):
            renamed = np.arange(count)
            renamed[cut] = count + np.arange(len(cut))
            kinds[named] = renamed[kinds[named]]
            self._grow(axis, cut)
        return np.unique(kinds[named])

    def _grow(self, axis: int, parents: Array) -> None:
        """Further kinds that have what these have."""
        count, room, size = self._counts[axis], self._cells.shape[axis], self._cells.shape[2]
        wanted = count + len(parents)
        if wanted * self._counts[1 - axis] * size > MOST_CELLS:
            raise ProgramError("step-kinds", f"steps tell more than {MOST_CELLS} elements of one buffer apart by their PEs")
        if wanted > room:
            more = [(0, 0), (0, 0), (0, 0)]
            more[axis] = (0, max(wanted, 2 * room) - room)
            self._cells = np.pad(self._cells, more)
        along = self._cells if axis == 0 else self._cells.swapaxes(0, 1)
        along[count:wanted] = along[parents]
        self._counts[axis] = wanted


@lru_cache(maxsize=4096)
def _elements(shape: tuple[int, ...], strides: tuple[int, ...], offset: int) -> Array:
    total: Array = np.full((), offset)
    for size, stride in zip(shape, strides, strict=True):
        total = np.add.outer(total, np.arange(size) * stride)
    return total.reshape(-1)


def elements(placed: Placed) -> Array:
    """Numbers of the elements that a view names, as often as it names them."""
    return _elements(placed.shape, placed.strides, placed.offset)


def _slice(lines: range) -> slice:
    return slice(lines.start, lines.stop, lines.step)
