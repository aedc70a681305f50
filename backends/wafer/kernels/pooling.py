"""One vector out of an item's rows: their mean, their sum, their largest elements, or one of them. Every PE has all rows
of its features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from cgptc.backends.wafer.affine import Extent
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import Direction, Fragment, Grid, OfRows, Slot, all_of, buffer, first, repeated, run
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Step, View

Mode = Literal["mean", "sum", "max", "last", "row"]


@dataclass(frozen=True)
class Pool(OfRows):
    """``y [1, d]`` from ``x [m, d]``, d along ``along``.

    With ``masked`` an input ``mask [m]`` is 0 at padding, else 1: padding is in no mean, sum or maximum, and ``last`` is the last row of
    the one run of tokens. A mean of padding alone is 0, a maximum minus infinity. ``row`` takes row ``at``, such as 0 for a class token.
    """

    m: int
    d: int
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    mode: Mode = "mean"
    masked: bool = False
    at: Extent = 0
    block: int = 0

    name: ClassVar[str] = "pool"

    def __post_init__(self) -> None:
        if self.rows is not None and self.mode == "mean" and not self.masked:
            raise ProgramError("kernel", "a mean of some of an item's rows needs to be told which are real")

    @property
    def x_layout(self) -> Layout:
        return self.grid.spread((self.m, self.d), self.along, self.block)

    @property
    def y_layout(self) -> Layout:
        return self.grid.spread((1, self.d), self.along, self.block)

    @property
    def _weighted(self) -> bool:
        """Whether y is a weighted sum of rows."""
        return self.masked and self.mode in ("mean", "sum", "last")

    def fragment(self, prefix: str) -> Fragment:
        m, local = self.x_layout.local_shape
        form = format_of(self.dtype).wide.name
        x, y = buffer(f"{prefix}.x", self.dtype, m, local), buffer(f"{prefix}.y", self.dtype, 1, local)
        mask, share = buffer(f"{prefix}.mask", self.dtype, m), buffer(f"{prefix}.share", form, m)
        wide, row, count = (
            buffer(f"{prefix}.wide", form, m, local),
            buffer(f"{prefix}.row", form, local),
            buffer(f"{prefix}.count", form, 1),
        )
        result = View(y.name, (local,), (1,))
        rows = self.rows_of(m)
        columns = View(x.name, (local, rows), (1, local))
        inputs, buffers = [Slot("x", x.name, self.x_layout)], [x, y]
        if self.masked and self.mode != "row":
            inputs.append(Slot("mask", mask.name, self.grid.replicated((m,))))
            buffers.append(mask)
        steps: list[Step]
        if self.mode == "row" or (self.mode == "last" and not self.masked):
            start = (rows - 1) * local if self.mode == "last" else self.at * local
            steps = [run("mov", result, View(x.name, (local,), (1,), start), form=self.dtype)]
        elif self.mode == "max":
            steps = []
            if self.masked:
                buffers.append(wide)
                steps.append(
                    run("select", first(wide, rows), repeated(first(mask, rows), 1, local), first(x, rows), float("-inf"), form=form)
                )
                columns = View(wide.name, (local, rows), (1, local))
            steps.append(run("largest", result, columns, form=form))
        elif self._weighted:
            buffers += [share, row, count]
            steps = self._shares(mask.name, share.name, form)
            steps.append(run("dot", all_of(row), columns, repeated(first(share, rows), 0, local), form=form))
            if self.mode != "mean":
                steps.append(run("mov", result, all_of(row), form=form))
                buffers.remove(count)
            else:
                steps += [
                    run("sum", View(count.name, (), ()), first(share, rows), form=form),
                    run("max", all_of(count), all_of(count), 1.0, form=form),
                    run("reciprocal", all_of(count), all_of(count), form=form),
                    run("mul", result, all_of(row), View(count.name, (local,), (0,)), form=form),
                ]
        else:
            buffers.append(row)
            steps = [run("sum", all_of(row), columns, form=form)]
            steps.append(run("mul", result, all_of(row), 1.0 / m if self.mode == "mean" else 1.0, form=form))
        return Fragment(self.name, tuple(inputs), (Slot("y", y.name, self.y_layout),), (), (), tuple(buffers), tuple(steps))

    def _shares(self, mask: str, share: str, form: str) -> list[Step]:
        """How much of each row: all that are no padding, or of those the one that is followed by none."""
        rows = self.rows_of(self.m)
        steps: list[Step] = [run("mov", View(share, (rows,), (1,)), View(mask, (rows,), (1,)), form=form)]
        if self.mode == "last":
            before = View(share, (rows - 1,), (1,))
            steps += [
                run("sub", before, before, View(mask, (rows - 1,), (1,), 1), form=form),
                run("max", before, before, 0.0, form=form),
            ]
        return steps

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Operations over rows, over all elements, and over the mask."""
        most, local = self.x_layout.local_shape
        m = self.row_count(most, scalars)
        form, step = format_of(self.dtype).wide.name, machine.step_cycles
        row, tile = machine.vector_cycles(form, local), machine.vector_cycles(form, m * local)
        if self.mode == "row" or (self.mode == "last" and not self.masked):
            return machine.vector_cycles(self.dtype, local) + step
        if self.mode == "max":
            return tile + step + (machine.vector_cycles(form, m * local, 2.0) + step if self.masked else 0)
        if not self.masked:
            return tile + row + 2 * step
        mask = machine.vector_cycles(form, m)
        if self.mode == "sum":
            return mask + tile + row + 3 * step
        if self.mode == "last":
            return mask + 2 * machine.vector_cycles(form, m - 1) + tile + row + 5 * step
        scalar = machine.vector_cycles(form, 1) + machine.scalar_map_cycles(1, OPERATIONS["reciprocal"])
        return mask + tile + mask + scalar + row + 6 * step
