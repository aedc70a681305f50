"""Softmax over an axis cut along a line, or its logarithm: maximum along the line, exponentials, sum along the line, division or
difference. Statistics in f32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS
from cgptc.backends.wafer.kernels.fragment import (
    CHAIN,
    Direction,
    Fragment,
    Grid,
    OfRows,
    Reduction,
    Slot,
    buffer,
    first,
    inside,
    masked,
    repeated,
    run,
)
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Step

LOWEST = -1e30
"""Maxima are at least this, so that a row without a valid element subtracts a number and gives zeros."""

SMALLEST = 1e-30
"""Sums are at least this: only that of a row without a valid element is less than 1."""


@dataclass(frozen=True)
class Softmax(OfRows):
    """``exp(x − max) / Σ exp(x − max)`` per row of ``x [m, n]``, n along ``along``; with ``log`` ``x − max − log Σ exp(x − max)``.

    A row of minus infinities gives zeros, and with ``log`` minus infinities.
    """

    m: int
    n: int
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    reduction: Reduction = CHAIN
    block: int = 0
    log: bool = False

    name: ClassVar[str] = "softmax"

    @property
    def layout(self) -> Layout:
        return self.grid.spread((self.m, self.n), self.along, self.block)

    def fragment(self, prefix: str) -> Fragment:
        m, local = self.layout.local_shape
        form = format_of(self.dtype).wide.name
        x, y = buffer(f"{prefix}.x", self.dtype, m, local), buffer(f"{prefix}.y", self.dtype, m, local)
        wide, row = buffer(f"{prefix}.wide", form, m, local), buffer(f"{prefix}.row", form, m)
        # The logarithm needs the differences again once their exponentials are added up.
        power = buffer(f"{prefix}.power", form, m, local) if self.log else wide
        count = self.rows_of(m)
        tile, rows, powers, given, result = (first(one, count) for one in (wide, row, power, x, y))
        last = "log" if self.log else "reciprocal"
        ends = inside(self.layout, 1)
        steps: tuple[Step, ...] = (
            masked(tile, given, float("-inf"), ends, form),
            run("largest", rows, tile, form=form),
            self.reduction.step(self.along, rows, rows, "max"),
            run("max", rows, rows, LOWEST, form=form),
            run("sub", tile, tile, repeated(rows, 1, local), form=form),
            run("exp", powers, tile, form=form),
            run("sum", rows, powers, form=form),
            self.reduction.step(self.along, rows, rows, "add"),
            run("max", rows, rows, SMALLEST, form=form),
            run(last, rows, rows, form=form),
            run("sub" if self.log else "mul", result, tile, repeated(rows, 1, local), form=form),
        )
        if self.log and ends:
            # Minus infinity times a weight's padding is no number.
            steps = (*steps, masked(result, result, 0.0, ends, form))
        buffers = (x, y, wide, row, power) if self.log else (x, y, wide, row)
        slots = (Slot("x", x.name, self.layout),), (Slot("y", y.name, self.layout, rows=self.rows),)
        return Fragment(f"log-{self.name}" if self.log else self.name, *slots, (), (), buffers, steps)

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        most, local = self.layout.local_shape
        m = self.row_count(most, scalars)
        form = format_of(self.dtype).wide
        tile, row = machine.vector_cycles(form.name, m * local), machine.vector_cycles(form.name, m)
        first = machine.vector_cycles(form.name, m * local, 2.0) if inside(self.layout, 1) else tile
        scalar = machine.scalar_map_cycles(m * local, OPERATIONS["exp"]) + machine.scalar_map_cycles(
            m, OPERATIONS["log" if self.log else "reciprocal"]
        )
        line = self.reduction.pattern(self.grid.lines(self.along)).cycles(form.words(m), machine)
        ends = first + machine.step_cycles if self.log and inside(self.layout, 1) else 0
        return first + 4 * tile + 2 * row + scalar + 2 * line + 11 * machine.step_cycles + ends
