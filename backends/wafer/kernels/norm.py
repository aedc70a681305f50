"""LayerNorm and RMSNorm over an axis cut along a line: local sums, one allreduce, local scaling. Statistics in f32 (f64 for f64).

*packed* sends the sum and the sum of squares together: one allreduce of two numbers per row. *two-pass* sends the sum, then the sum of
squared distances from the mean: two allreduces, and no cancellation where the mean is large against the spread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

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
    all_of,
    buffer,
    first,
    inside,
    masked,
    reductions,
    repeated,
    run,
)
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Step, View

Statistics = Literal["packed", "two-pass", "rms"]


@dataclass(frozen=True)
class Norm(OfRows):
    """``(x − mean) · rsqrt(variance + eps) · weight + bias`` per row of ``x [m, d]``, d along ``along``; ``rms`` has no mean.

    ``block`` fixes the block of a line where a neighbour needs another than the smallest.
    """

    m: int
    d: int
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    statistics: Statistics = "packed"
    reduction: Reduction = CHAIN
    eps: float = 1e-5
    weight: bool = True
    bias: bool = True
    block: int = 0

    name: ClassVar[str] = "norm"

    @property
    def layout(self) -> Layout:
        return self.grid.spread((self.m, self.d), self.along, self.block)

    @property
    def form(self) -> str:
        """The format of statistics."""
        return format_of(self.dtype).wide.name

    def fragment(self, prefix: str) -> Fragment:
        m, local = self.layout.local_shape
        form = self.form
        x = buffer(f"{prefix}.x", self.dtype, m, local)
        y = buffer(f"{prefix}.y", self.dtype, m, local)
        wide = buffer(f"{prefix}.wide", form, m, local)
        sums = buffer(f"{prefix}.sums", form, 2, m)
        buffers = [x, y, wide, sums]
        rows = self.rows_of(m)
        sum_of, second = View(sums.name, (rows,), (1,)), View(sums.name, (rows,), (1,), m)
        both, tile, given, result = View(sums.name, (2, rows), (m, 1)), first(wide, rows), first(x, rows), first(y, rows)
        mask = inside(self.layout, 1)
        scale = 1.0 / self.d
        steps: list[Step] = [masked(tile, given, 0.0, mask, form)]
        if self.statistics == "packed":
            steps += [
                run("sum", sum_of, tile, form=form),
                run("dot", second, tile, tile, form=form),
                self.reduction.step(self.along, both, both, "add"),
                run("mul", both, both, scale, form=form),
                run("sub", tile, tile, repeated(sum_of, 1, local), form=form),
                run("mul", sum_of, sum_of, sum_of, form=form),
                run("sub", second, second, sum_of, form=form),
                run("max", second, second, 0.0, form=form),
            ]
        elif self.statistics == "two-pass":
            steps += [
                run("sum", sum_of, tile, form=form),
                self.reduction.step(self.along, sum_of, sum_of, "add"),
                run("mul", sum_of, sum_of, scale, form=form),
                run("sub", tile, tile, repeated(sum_of, 1, local), form=form),
                masked(tile, tile, 0.0, mask, form),
                run("dot", second, tile, tile, form=form),
                self.reduction.step(self.along, second, second, "add"),
                run("mul", second, second, scale, form=form),
            ]
        else:
            steps += [
                run("dot", second, tile, tile, form=form),
                self.reduction.step(self.along, second, second, "add"),
                run("mul", second, second, scale, form=form),
            ]
        steps += [
            run("add", second, second, self.eps, form=form),
            run("rsqrt", second, second, form=form),
        ]
        weights: list[Slot] = []
        target = tile if self.weight or self.bias else result
        steps.append(run("mul", target, tile, repeated(second, 1, local), form=form))
        parameters = self.grid.spread((self.d,), self.along, self.block)
        for role, instruction, present in (("weight", "mul", self.weight), ("bias", "add", self.bias)):
            if not present:
                continue
            one = buffer(f"{prefix}.{role}", self.dtype, local)
            buffers.append(one)
            weights.append(Slot(role, one.name, parameters))
            last = role == "bias" or not self.bias
            steps.append(run(instruction, result if last else tile, tile, repeated(all_of(one), 0, rows), form=form))
        return Fragment(
            self.name,
            (Slot("x", x.name, self.layout),),
            (Slot("y", y.name, self.layout, rows=self.rows),),
            tuple(weights),
            (),
            tuple(buffers),
            tuple(steps),
        )

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Vector operations over tiles and over rows, one rsqrt per row, and one or two allreduces."""
        most, local = self.layout.local_shape
        m = self.row_count(most, scalars)
        form = format_of(self.form)
        pattern = self.reduction.pattern(self.grid.lines(self.along))
        tile, row = machine.vector_cycles(form.name, m * local), machine.vector_cycles(form.name, m)
        masking = machine.vector_cycles(form.name, m * local, 2.0) if inside(self.layout, 1) else tile
        parameters = (int(self.weight) + int(self.bias)) * tile
        ends = masking + row + machine.scalar_map_cycles(m, OPERATIONS["rsqrt"]) + tile + parameters
        if self.statistics == "packed":
            middle = 3 * tile + machine.vector_cycles(form.name, 2 * m) + 3 * row + pattern.cycles(form.words(2 * m), machine)
            count = 8
        elif self.statistics == "two-pass":
            middle = 3 * tile + masking + 2 * row + 2 * pattern.cycles(form.words(m), machine)
            count = 8
        else:
            middle = tile + row + pattern.cycles(form.words(m), machine)
            count = 3
        return ends + middle + (count + 4 + int(self.weight) + int(self.bias)) * machine.step_cycles


def candidates(norm: Norm) -> Iterator[Norm]:
    """One variant per reduction worth pricing."""
    for reduction in reductions(norm.grid.lines(norm.along)):
        yield replace(norm, reduction=reduction)
