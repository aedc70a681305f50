"""A vector that lies along one direction of the grid, laid along the other.

Every PE picks those elements of its own block that belong to its line of the other direction, zeros for the rest, and the lines merge them
bit by bit: each element is on one PE of the line alone, so nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.kernels.fragment import (
    CHAIN,
    Direction,
    Fragment,
    Grid,
    OfRows,
    Reduction,
    Slot,
    all_of,
    buffer,
    coordinate,
    first,
    other,
    run,
)
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import View


@dataclass(frozen=True)
class Turn(OfRows):
    """``y = x [m, d]``: x in blocks along ``along``, y in blocks along the other direction."""

    m: int
    d: int
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    reduction: Reduction = CHAIN
    x_block: int = 0
    y_block: int = 0

    name: ClassVar[str] = "turn"

    @property
    def x_layout(self) -> Layout:
        return self.grid.spread((self.m, self.d), self.along, self.x_block)

    @property
    def y_layout(self) -> Layout:
        return self.grid.spread((self.m, self.d), other(self.along), self.y_block)

    def fragment(self, prefix: str) -> Fragment:
        m, have = self.x_layout.local_shape
        want = self.y_layout.local_shape[1]
        x = buffer(f"{prefix}.x", self.dtype, m, have)
        y = buffer(f"{prefix}.y", self.dtype, m, want)
        ids = buffer(f"{prefix}.ids", "i32", want)
        # Features are the rows of the looked-up table, items its columns. What lies beyond the tensor belongs to no line.
        rows = self.rows_of(m)
        table = View(x.name, (have, rows), (1, have))
        picked = View(y.name, (want, rows), (1, want))
        steps = (
            run("index", all_of(ids), form="i32", value=coordinate(other(self.along)) * want + var("i0")),
            run("lookup", picked, table, all_of(ids), form=self.dtype, first=coordinate(self.along) * have),
            self.reduction.step(self.along, first(y, rows), first(y, rows), "or"),
        )
        slots = (Slot("x", x.name, self.x_layout),), (Slot("y", y.name, self.y_layout, rows=self.rows),)
        return Fragment(self.name, *slots, (), (), (x, y, ids), steps)

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Indices, the look-up, and one merge along a line."""
        most, want = self.y_layout.local_shape
        m = self.row_count(most, scalars)
        words = format_of(self.dtype).words(m * want)
        line = self.reduction.pattern(self.grid.lines(self.along)).cycles(words, machine)
        local = machine.vector_cycles("i32", want) + machine.vector_cycles(self.dtype, m * want)
        return local + line + 3 * machine.step_cycles
