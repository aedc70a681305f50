"""Matrix products of two tensors that both lie in tiles, rows of the left one along the grid's rows.

*SUMMA* broadcasts a panel of the left side along rows and one of the right side along columns, and multiplies them while the next panels
travel. *Transposed* is ``a @ b.T`` with b's rows along the grid's rows: only b is broadcast, partial sums are reduced along rows, nothing
is transposed on the mesh. Both cut the inner axis (outer axis of b) into as many panels as the least common multiple of the grid's sides,
so that a panel lies in one row and one column of PEs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.collectives import Pattern
from cgptc.backends.wafer.kernels.fragment import LINE_COLOURS, Fragment, Grid, OfRows, Slot, all_of, buffer, first, run
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Collective, Local, Loop, Step, View, Where, line


def product_cycles(machine: Machine, form: str, m: int, k: int, n: int, *, aligned: bool) -> int:
    """Cycles of one tile product, by rows or by columns, whichever is cheaper."""
    across = machine.mac_cycles(form, m * k, n, aligned=aligned)
    return min(across, machine.mac_cycles(form, k * n, m, aligned=aligned))


def broadcasts(size: int, words: int, machine: Machine) -> list[int]:
    """Cycles of a broadcast from each position of a line."""
    return [Pattern("broadcast", "multicast", size, root).cycles(words, machine) for root in range(size)]


@dataclass(frozen=True)
class Summa(OfRows):
    """``y [m, n] = a [m, k] @ b [k, n]``, all three in tiles, of whose rows each line may have fewer: ``rows``."""

    m: int
    k: int
    n: int
    grid: Grid
    dtype: str = "f32"
    accumulate: str = "f32"
    aligned: bool = True

    name: ClassVar[str] = "gemm-summa"

    @property
    def panels(self) -> int:
        return math.lcm(self.grid.height, self.grid.width)

    @property
    def panel(self) -> int:
        """Columns of a, rows of b, in one panel."""
        return max(1, math.ceil(self.k / self.panels))

    @property
    def a_layout(self) -> Layout:
        return self.grid.tiled((self.m, self.k), 0, 1, column_block=self.panel * (self.panels // self.grid.width))

    @property
    def b_layout(self) -> Layout:
        return self.grid.tiled((self.k, self.n), 0, 1, row_block=self.panel * (self.panels // self.grid.height))

    @property
    def y_layout(self) -> Layout:
        return self.grid.tiled((self.m, self.n), 0, 1)

    def fragment(self, prefix: str) -> Fragment:
        (m, n), size = self.y_layout.local_shape, self.panel
        a = buffer(f"{prefix}.a", self.dtype, *self.a_layout.local_shape)
        b = buffer(f"{prefix}.b", self.dtype, *self.b_layout.local_shape)
        y = buffer(f"{prefix}.y", self.dtype, m, n)
        total = y if self.accumulate == self.dtype else buffer(f"{prefix}.total", self.accumulate, m, n)
        left = buffer(f"{prefix}.left", self.dtype, m, size, copies=2)
        right = buffer(f"{prefix}.right", self.dtype, size, n, copies=2)
        panel = var("panel")
        wide, tall = self.panels // self.grid.width, self.panels // self.grid.height
        rows = self.rows_of(m)
        sums = first(total, rows)
        a_part = View(a.name, (rows, size), (a.shape[1], 1), panel % wide * size)
        b_part = View(b.name, (size, n), (n, 1), panel % tall * (size * n))
        left_now = View(left.name, (rows, size), (size, 1), panel % 2 * (m * size))
        right_now = View(right.name, (size, n), (n, 1), panel % 2 * (size * n))
        x_colour, y_colour = (LINE_COLOURS["x"][4],), (LINE_COLOURS["y"][4],)
        body = (
            Collective("broadcast", "multicast", "x", a_part, left_now, x_colour, root=panel // wide),
            Collective("broadcast", "multicast", "y", b_part, right_now, y_colour, root=panel // tall),
            run("gemm", sums, sums, left_now, right_now, form=self.accumulate, aligned=self.aligned),
        )
        steps: list[Step] = [run("fill", sums, 0.0, form=self.accumulate), Loop("panel", self.panels, body, ahead=1)]
        if total is not y:
            steps.append(run("mov", first(y, rows), sums, form=self.accumulate))
        return Fragment(
            self.name,
            (Slot("a", a.name, self.a_layout), Slot("b", b.name, self.b_layout)),
            (Slot("y", y.name, self.y_layout),),
            (),
            (),
            (a, b, y, left, right) if total is y else (a, b, y, left, right, total),
            tuple(steps),
        )

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """The first panels' broadcasts, then per panel the slower of product and next broadcasts, then the last product."""
        (most, n), size = self.y_layout.local_shape, self.panel
        m = self.row_count(most, scalars)
        form = format_of(self.dtype)
        wide, tall = self.panels // self.grid.width, self.panels // self.grid.height
        step = machine.step_cycles
        product = product_cycles(machine, self.accumulate, m, size, n, aligned=self.aligned) + step
        across = broadcasts(self.grid.width, form.words(m * size), machine)
        down = broadcasts(self.grid.height, form.words(size * n), machine)
        talk = [across[panel // wide] + down[panel // tall] + 2 * step for panel in range(self.panels)]
        loop = talk[0] + sum(max(product, one) for one in talk[1:]) + product
        ends = 1 if self.accumulate == self.dtype else 2
        return ends * (machine.vector_cycles(self.accumulate, m * n) + step) + loop


@dataclass(frozen=True)
class Transposed:
    """``y [m, n] = a [m, k] @ b [n, k].T``; k along columns, m and n of the operands along rows, n of y along columns."""

    m: int
    k: int
    n: int
    grid: Grid
    dtype: str = "f32"
    accumulate: str = "f32"
    aligned: bool = True

    name: ClassVar[str] = "gemm-transposed"

    @property
    def panels(self) -> int:
        return math.lcm(self.grid.height, self.grid.width)

    @property
    def panel(self) -> int:
        """Rows of b, columns of y, in one panel."""
        return max(1, math.ceil(self.n / self.panels))

    @property
    def a_layout(self) -> Layout:
        return self.grid.tiled((self.m, self.k), 0, 1)

    @property
    def b_layout(self) -> Layout:
        return self.grid.tiled((self.n, self.k), 0, 1, row_block=self.panel * (self.panels // self.grid.height))

    @property
    def y_layout(self) -> Layout:
        return self.grid.tiled((self.m, self.n), 0, 1, column_block=self.panel * (self.panels // self.grid.width))

    def fragment(self, prefix: str) -> Fragment:
        (m, k), size = self.a_layout.local_shape, self.panel
        a = buffer(f"{prefix}.a", self.dtype, m, k)
        b = buffer(f"{prefix}.b", self.dtype, *self.b_layout.local_shape)
        y = buffer(f"{prefix}.y", self.dtype, *self.y_layout.local_shape)
        rows = buffer(f"{prefix}.rows", self.dtype, size, k)
        partial = buffer(f"{prefix}.partial", self.accumulate, m, size)
        panel = var("panel")
        wide, tall = self.panels // self.grid.width, self.panels // self.grid.height
        b_part = View(b.name, (size, k), (k, 1), panel % tall * (size * k))
        across = View(rows.name, (k, size), (1, k))
        y_part = View(y.name, (m, size), (y.shape[1], 1), panel % wide * size)
        kept = Local("mov", y_part, (all_of(partial),), self.accumulate, where=Where(columns=line(panel // wide)))
        body = (
            Collective("broadcast", "multicast", "y", b_part, all_of(rows), (LINE_COLOURS["y"][4],), root=panel // tall),
            run("fill", all_of(partial), 0.0, form=self.accumulate),
            run("gemm", all_of(partial), all_of(partial), all_of(a), across, form=self.accumulate, aligned=self.aligned),
            Collective("reduce", "chain", "x", all_of(partial), all_of(partial), LINE_COLOURS["x"][:4], root=panel // wide),
            kept,
        )
        return Fragment(
            self.name,
            (Slot("a", a.name, self.a_layout), Slot("b", b.name, self.b_layout)),
            (Slot("y", y.name, self.y_layout),),
            (),
            (),
            (a, b, y, rows, partial),
            (Loop("panel", self.panels, body),),
        )

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Per panel a broadcast, a fill, a product, a reduction towards the panel's column, and a move there."""
        (m, k), size = self.a_layout.local_shape, self.panel
        words, back = format_of(self.dtype).words(size * k), format_of(self.accumulate).words(m * size)
        wide, tall = self.panels // self.grid.width, self.panels // self.grid.height
        down = broadcasts(self.grid.height, words, machine)
        across = [Pattern("reduce", "chain", self.grid.width, root).cycles(back, machine) for root in range(self.grid.width)]
        local = product_cycles(machine, self.accumulate, m, k, size, aligned=self.aligned) + 2 * machine.vector_cycles(
            self.accumulate, m * size
        )
        talk = sum(down[panel // tall] + across[panel // wide] for panel in range(self.panels))
        return talk + self.panels * (local + 5 * machine.step_cycles)
