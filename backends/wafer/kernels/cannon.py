"""Cannon's matrix product on a square grid: tiles of both sides move one place per step, multiplication goes on meanwhile.

On a plain ring one shift in each step goes the whole line back. On the interleaved ring (MeshGEMM) even positions pass to the next even one
and odd positions back along the odd ones, so that no shift is longer than two hops. Before the first step row i of a is turned by i's place
on the ring, and column j of b by j's, so that every PE meets the tiles of one inner block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from cgptc.backends.wafer.affine import Extent, var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.collectives import Pattern
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import LINE_COLOURS, Direction, Fragment, Grid, OfRows, Slot, all_of, buffer, first, run
from cgptc.backends.wafer.kernels.gemm import product_cycles
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Buffer
from cgptc.backends.wafer.steps import Collective, Loop, Span, Step, View, Where


@dataclass(frozen=True)
class Cannon(OfRows):
    """``y [m, n] = a [m, k] @ b [k, n]``, all three in tiles of a square grid, of whose rows each line may have fewer: ``rows``."""

    m: int
    k: int
    n: int
    grid: Grid
    ring: Literal["neighbour", "interleaved"] = "interleaved"
    dtype: str = "f32"
    accumulate: str = "f32"
    aligned: bool = True

    name: ClassVar[str] = "gemm-cannon"

    def __post_init__(self) -> None:
        if self.grid.height != self.grid.width:
            raise ProgramError("kernel", f"Cannon needs a square grid, got {self.grid.height} × {self.grid.width}")

    @property
    def side(self) -> int:
        return self.grid.width

    @property
    def a_layout(self) -> Layout:
        return self.grid.tiled((self.m, self.k), 0, 1)

    @property
    def b_layout(self) -> Layout:
        return self.grid.tiled((self.k, self.n), 0, 1)

    @property
    def y_layout(self) -> Layout:
        return self.grid.tiled((self.m, self.n), 0, 1)

    def _shift(self, along: Direction, source: View, target: View, where: Where) -> Collective:
        ring = self.ring == "neighbour"
        colours = LINE_COLOURS[along][: 3 if ring else 4]
        return Collective("shift", self.ring, along, source, target, colours, hops=-1, ring=ring, where=where)

    def _turn(self, along: Direction, tile: View) -> list[Step]:
        """Turn line i of the other direction by i's place on the ring, one place at a time."""

        def lines(*spans: Span) -> Where:
            return Where(rows=spans) if along == "x" else Where(columns=spans)

        side = self.side
        turn = var("turn")
        if self.ring == "neighbour":
            return [Loop("turn", side - 1, (self._shift(along, tile, tile, lines(Span(turn + 1, side - 1 - turn))),))]
        evens, odds = math.ceil(side / 2), side // 2
        # An even position 2 e is e places along the ring; odd ones come back from the far end, 1 last of all.
        both: tuple[Span, ...] = (Span(2 * turn + 2, evens - 1 - turn, 2), *([Span(1, odds, 2)] if odds else []))
        late: tuple[Extent, Extent] = (1, odds - 1 - turn)
        return [
            Loop("turn", evens, (self._shift(along, tile, tile, lines(*both)),)),
            Loop("turn", max(odds - 1, 0), (self._shift(along, tile, tile, lines(Span(*late, 2))),)),
        ]

    def fragment(self, prefix: str) -> Fragment:
        (m, n), k = self.y_layout.local_shape, self.a_layout.local_shape[1]
        a, b = buffer(f"{prefix}.a", self.dtype, m, k), buffer(f"{prefix}.b", self.dtype, k, n)
        y = buffer(f"{prefix}.y", self.dtype, m, n)
        total = y if self.accumulate == self.dtype else buffer(f"{prefix}.total", self.accumulate, m, n)
        left = buffer(f"{prefix}.left", self.dtype, m, k, copies=2)
        right = buffer(f"{prefix}.right", self.dtype, k, n, copies=2)
        rows = self.rows_of(m)
        sums = first(total, rows)
        steps: list[Step] = [
            run("fill", sums, 0.0, form=self.accumulate),
            run("mov", first(left, rows), first(a, rows), form=self.dtype),
            run("mov", all_of(right), all_of(b), form=self.dtype),
            *self._turn("x", first(left, rows)),
            *self._turn("y", all_of(right)),
        ]
        step = var("step")
        left_now, right_now = _copy(left, step, rows), _copy(right, step, k)
        body = (
            run("gemm", sums, sums, left_now, right_now, form=self.accumulate, aligned=self.aligned),
            self._shift("x", left_now, _copy(left, step + 1, rows), Where()),
            self._shift("y", right_now, _copy(right, step + 1, k), Where()),
        )
        last = self.side - 1
        steps += [
            Loop("step", last, body, ahead=0),
            run("gemm", sums, sums, _copy(left, last, rows), _copy(right, last, k), form=self.accumulate, aligned=self.aligned),
        ]
        if total is not y:
            steps.append(run("mov", first(y, rows), sums, form=self.accumulate))
        return Fragment(
            f"{self.name}-{self.ring}",
            (Slot("a", a.name, self.a_layout), Slot("b", b.name, self.b_layout)),
            (Slot("y", y.name, self.y_layout),),
            (),
            (),
            (a, b, y, left, right) if total is y else (a, b, y, left, right, total),
            tuple(step for step in steps if not (isinstance(step, Loop) and step.count == 0)),
        )

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Copies, the turning of both sides, then per step the slower of product and shifts, and the last product."""
        (most, n), k = self.y_layout.local_shape, self.a_layout.local_shape[1]
        m = self.row_count(most, scalars)
        form, side, step = format_of(self.dtype), self.side, machine.step_cycles
        product = product_cycles(machine, self.accumulate, m, k, n, aligned=self.aligned) + step
        shifts = 0
        if side > 1:
            pattern = Pattern("shift", self.ring, side, hops=-1, ring=self.ring == "neighbour")
            shifts = sum(pattern.cycles(words, machine) + step for words in (form.words(m * k), form.words(k * n)))
        copies = machine.vector_cycles(self.dtype, m * k) + machine.vector_cycles(self.dtype, k * n) + 2 * step
        ends = 1 if self.accumulate == self.dtype else 2
        local = ends * (machine.vector_cycles(self.accumulate, m * n) + step)
        return copies + local + (side - 1) * shifts + (side - 1) * max(product, shifts) + product


def _copy(one: Buffer, number: Extent, count: Extent) -> View:
    """So many rows of the tile in the copy that an even or odd number selects."""
    rows, columns = one.shape
    offset = number % 2 * (rows * columns)
    return View(one.name, (count, columns), (columns, 1), offset)
