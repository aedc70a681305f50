"""How a logical tensor lies on a rectangle of PEs, as exact maps both ways.

Each tensor axis is cut along the grid's rows (so that PEs of different y hold different parts), cut along its columns, or whole in every
PE. A grid axis that cuts nothing holds replicas, or the tensor lies on one of its lines only. A cut is *blocked* (line ``i // block``)
or *cyclic* (line ``i % lines``). Ends are ragged: `Layout.extents` gives what of a PE's tile is valid, and the rest of a tile is zero
when scattered, which no step may rely on unless it says so.

Tiles are arrays ``[height, width, *local shape]``, stored with the grid axes innermost so that region-wide loops run along PEs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.faults import ProgramError

Array: TypeAlias = NDArray[Any]
Axis = Literal["rows", "columns"]


@dataclass(frozen=True)
class Cut:
    """One tensor axis cut along a grid axis: into blocks of ``block`` elements, or dealt out cyclically where ``block`` is 0."""

    along: Axis
    block: int = 0

    def __post_init__(self) -> None:
        if self.along not in ("rows", "columns") or self.block < 0:
            raise ProgramError("layout", f"a cut is along 'rows' or 'columns' in blocks of 0 or more, got {self.along!r} and {self.block}")


@dataclass(frozen=True)
class Layout:
    """A tensor of ``shape`` on ``height`` × ``width`` PEs. ``row`` (``column``), where not None, is the only grid line that holds it."""

    height: int
    width: int
    shape: tuple[int, ...]
    cuts: tuple[Cut | None, ...]
    row: int | None = None
    column: int | None = None

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or any(size < 0 for size in self.shape):
            raise ProgramError("layout", f"sizes must be positive, got {self.height} × {self.width} PEs for shape {self.shape}")
        if len(self.cuts) != len(self.shape):
            raise ProgramError("layout", f"{len(self.cuts)} cuts for a tensor of rank {len(self.shape)}")
        along = [cut.along for cut in self.cuts if cut is not None]
        if len(set(along)) != len(along):
            raise ProgramError("layout", "two tensor axes are cut along the same grid axis")
        for line, lines, name in ((self.row, self.height, "rows"), (self.column, self.width, "columns")):
            if line is not None and (name in along or not 0 <= line < lines):
                raise ProgramError("layout", f"line {line} of {lines} {name} cannot hold a tensor cut along {along or 'nothing'}")
        for size, cut in zip(self.shape, self.cuts, strict=True):
            if cut is not None and cut.block and math.ceil(size / cut.block) > self.lines(cut.along):
                raise ProgramError("layout", f"{size} elements in blocks of {cut.block} need more than {self.lines(cut.along)} {cut.along}")

    def lines(self, along: Axis) -> int:
        """Number of grid lines along that grid axis."""
        return self.height if along == "rows" else self.width

    def local_size(self, axis: int) -> int:
        """Elements of tensor axis ``axis`` in the largest tile."""
        cut = self.cuts[axis]
        if cut is None:
            return self.shape[axis]
        return cut.block or math.ceil(self.shape[axis] / self.lines(cut.along))

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Shape of the largest tile: what a buffer holds in every PE."""
        return tuple(self.local_size(axis) for axis in range(len(self.shape)))

    def of_rows(self, rows: int) -> Layout:
        """That of the first ``rows`` along the first axis."""
        return replace(self, shape=(rows, *self.shape[1:]))

    def cut_axis(self, along: Axis) -> int | None:
        """The tensor axis cut along that grid axis."""
        return next((axis for axis, cut in enumerate(self.cuts) if cut is not None and cut.along == along), None)

    def index_terms(self, axis: int) -> tuple[int, int]:
        """``(a, b)`` with logical index = ``a · line + b · local`` along a tensor axis."""
        cut = self.cuts[axis]
        if cut is None:
            return 0, 1
        return (cut.block, 1) if cut.block else (1, self.lines(cut.along))

    def extent(self, axis: int, line: int) -> int:
        """Valid elements of tensor axis ``axis`` on that grid line."""
        cut = self.cuts[axis]
        size = self.shape[axis]
        if cut is None:
            return size
        if cut.block:
            return min(max(size - line * cut.block, 0), cut.block)
        return max(0, math.ceil((size - line) / self.lines(cut.along)))

    def extents(self, x: int, y: int) -> tuple[int, ...]:
        """Shape of the valid part of the tile in PE (x, y): all zero where the PE does not hold the tensor."""
        if not self.holds(x, y):
            return tuple(0 for _ in self.shape)
        return tuple(self.extent(axis, 0 if cut is None else y if cut.along == "rows" else x) for axis, cut in enumerate(self.cuts))

    def holds(self, x: int, y: int) -> bool:
        """Whether the PE lies on the lines that the tensor lies on."""
        return (self.row is None or y == self.row) and (self.column is None or x == self.column)

    def locate(self, index: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        """``(x, y, local index)`` of an element, in its first replica. IndexError outside the tensor."""
        if len(index) != len(self.shape) or any(not 0 <= i < size for i, size in zip(index, self.shape, strict=True)):
            raise IndexError(f"{index} lies outside shape {self.shape}")
        x, y = self.column or 0, self.row or 0
        local: list[int] = []
        for i, cut in zip(index, self.cuts, strict=True):
            line, inner = self._divide(i, cut)
            local.append(inner)
            if cut is not None and cut.along == "rows":
                y = line
            elif cut is not None:
                x = line
        return x, y, tuple(local)

    def logical(self, x: int, y: int, local: tuple[int, ...]) -> tuple[int, ...] | None:
        """The element at a place, or None where the tile is padding there or the PE does not hold the tensor."""
        if not self.holds(x, y) or any(not 0 <= i < size for i, size in zip(local, self.local_shape, strict=True)):
            return None
        index: list[int] = []
        for axis, inner in enumerate(local):
            cut = self.cuts[axis]
            outer, step = self.index_terms(axis)
            line = 0 if cut is None else y if cut.along == "rows" else x
            index.append(outer * line + step * inner)
        return tuple(index) if all(i < size for i, size in zip(index, self.shape, strict=True)) else None

    def scatter(self, tensor: Array) -> Array:
        """Tiles ``[height, width, *local shape]`` of a tensor, every replica filled, padding and lines that do not hold it zero."""
        if tensor.shape != self.shape:
            raise ProgramError("layout", f"expected a tensor of shape {self.shape}, got {tensor.shape}")
        rank = len(self.shape)
        tiles = np.zeros((*self.local_shape, self.height, self.width), tensor.dtype)
        if tensor.size:
            indices, valid = self._indices()
            tiles[...] = tensor[tuple(np.minimum(index, size - 1) for index, size in zip(indices, self.shape, strict=True))]
            if not valid.all():
                np.copyto(tiles, np.zeros((), tensor.dtype), where=~valid)
        return np.moveaxis(tiles, (rank, rank + 1), (0, 1))

    def gather(self, tiles: Array) -> Array:
        """The tensor whose tiles these are, read from the first replica."""
        if tiles.shape != (self.height, self.width, *self.local_shape):
            raise ProgramError("layout", f"expected tiles {(self.height, self.width, *self.local_shape)}, got {tiles.shape}")
        rank = len(self.shape)
        y: Array | int = self.row or 0
        x: Array | int = self.column or 0
        local: list[Array] = []
        for axis, (size, cut) in enumerate(zip(self.shape, self.cuts, strict=True)):
            places = np.arange(size).reshape([-1 if other == axis else 1 for other in range(rank)])
            line, inner = self._divide(places, cut)
            local.append(inner)
            if cut is not None and cut.along == "rows":
                y = line
            elif cut is not None:
                x = line
        return np.asarray(tiles[(y, x, *local)])

    def _divide(self, index: Any, cut: Cut | None) -> tuple[Any, Any]:
        if cut is None:
            return index * 0, index
        if cut.block:
            return index // cut.block, index % cut.block
        lines = self.lines(cut.along)
        return index % lines, index // lines

    def _indices(self) -> tuple[list[Array], Array]:
        """Logical indices per tensor axis, broadcastable over ``[*local, height, width]``, and where they are valid."""
        rank = len(self.shape)
        rows = np.arange(self.height).reshape([1] * rank + [self.height, 1])
        columns = np.arange(self.width).reshape([1] * rank + [1, self.width])
        valid = np.ones([1] * (rank + 2), np.bool_)
        if self.row is not None:
            valid = valid & (rows == self.row)
        if self.column is not None:
            valid = valid & (columns == self.column)
        indices: list[Array] = []
        for axis, cut in enumerate(self.cuts):
            inner = np.arange(self.local_size(axis)).reshape([-1 if other == axis else 1 for other in range(rank + 2)])
            outer, step = self.index_terms(axis)
            index = step * inner + (0 if cut is None else outer * (rows if cut.along == "rows" else columns))
            valid = valid & (index < self.shape[axis])
            indices.append(index)
        return indices, valid


def blocked(size: int, along: Axis, lines: int) -> Cut:
    """The blocked cut that spreads ``size`` elements over as few lines as the smallest block allows."""
    return Cut(along, max(1, math.ceil(size / lines)))
