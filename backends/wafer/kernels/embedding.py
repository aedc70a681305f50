"""Rows of a table by index: the table is cut along both axes, the PEs that hold a row give it, all others zeros, merged bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.affine import Affine, var
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
    first,
    other,
    run,
)
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Step, View


@dataclass(frozen=True)
class Embedding(OfRows):
    """``y [m, d] = table [v, d][ids]``, d along ``along`` and v along the other direction; exact, zeros of either sign included.

    ``ids [m]`` come to every PE; where ``position`` is given they are ``position, position + 1, …`` instead (learned positions).
    ``block`` fixes the features of a line where they must be other than the smallest number (`Rotary`). A ``shared`` table is the weight
    ``[d, v]`` of a linear layer whose tiles lie the same way: it is read where it is, its rows across those of the weight.
    """

    m: int
    v: int
    d: int
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    reduction: Reduction = CHAIN
    position: Affine | None = None
    block: int = 0
    shared: bool = False

    name: ClassVar[str] = "embedding"

    @property
    def table_layout(self) -> Layout:
        shape = (self.v, self.d)
        if self.along == "x":
            return self.grid.tiled(shape, 0, 1, column_block=self.block)
        return self.grid.tiled(shape, 1, 0, row_block=self.block)

    @property
    def y_layout(self) -> Layout:
        return self.grid.spread((self.m, self.d), self.along, self.block)

    def fragment(self, prefix: str) -> Fragment:
        rows, features = self.table_layout.local_shape
        held = buffer(f"{prefix}.table", self.dtype, *((features, rows) if self.shared else (rows, features)))
        table = View(held.name, (rows, features), (1, rows)) if self.shared else all_of(held)
        ids = buffer(f"{prefix}.ids", "i32", self.m)
        y = buffer(f"{prefix}.y", self.dtype, *self.y_layout.local_shape)
        line = var("row" if self.along == "x" else "column")
        count = self.rows_of(self.m)
        wanted, found = first(ids, count), first(y, count)
        steps: list[Step] = []
        if self.position is not None:
            steps.append(run("index", wanted, form="i32", value=self.position + var("i0")))
        steps += [
            run("lookup", found, table, wanted, form=self.dtype, first=line * rows),
            self.reduction.step(other(self.along), found, found, "or"),
        ]
        inputs = (Slot("ids", ids.name, self.grid.replicated((self.m,))),) if self.position is None else ()
        weights = () if self.shared else (Slot("table", held.name, self.table_layout),)
        return Fragment(self.name, inputs, (Slot("y", y.name, self.y_layout, rows=self.rows),), weights, (), (held, ids, y), tuple(steps))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        form = format_of(self.dtype)
        most, local = self.y_layout.local_shape
        m = self.row_count(most, scalars)
        size = m * local
        ids = 0 if self.position is None else machine.vector_cycles("i32", m) + machine.step_cycles
        line = self.reduction.pattern(self.grid.lines(other(self.along))).cycles(form.words(size), machine)
        return ids + machine.vector_cycles(form.name, size) + line + 2 * machine.step_cycles
