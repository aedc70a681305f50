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
    Reduction,
    Slot,
    all_of,
    buffer,
    inside,
    masked,
    reductions,
    repeated,
    run,
)
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Step, View

Statistics = Literal["packed", "two-pass", "rms"]


@dataclass(frozen=True)
class Norm:
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
        first = View(sums.name, (m,), (1,))
        second = View(sums.name, (m,), (1,), m)
        both = all_of(sums)
        mask = inside(self.layout, 1)
        scale = 1.0 / self.d
        steps: list[Step] = [masked(all_of(wide), all_of(x), 0.0, mask, form)]
        if self.statistics == "packed":
            steps += [
                run("sum", first, all_of(wide), form=form),
                run("dot", second, all_of(wide), all_of(wide), form=form),
                self.reduction.step(self.along, both, both, "add"),
                run("mul", both, both, scale, form=form),
                run("sub", all_of(wide), all_of(wide), repeated(first, 1, local), form=form),
                run("mul", first, first, first, form=form),
                run("sub", second, second, first, form=form),
                run("max", second, second, 0.0, form=form),
            ]
        elif self.statistics == "two-pass":
            steps += [
                run("sum", first, all_of(wide), form=form),
                self.reduction.step(self.along, first, first, "add"),
                run("mul", first, first, scale, form=form),
                run("sub", all_of(wide), all_of(wide), repeated(first, 1, local), form=form),
                masked(all_of(wide), all_of(wide), 0.0, mask, form),
                run("dot", second, all_of(wide), all_of(wide), form=form),
                self.reduction.step(self.along, second, second, "add"),
                run("mul", second, second, scale, form=form),
            ]
        else:
            steps += [
                run("dot", second, all_of(wide), all_of(wide), form=form),
                self.reduction.step(self.along, second, second, "add"),
                run("mul", second, second, scale, form=form),
            ]
        steps += [
            run("add", second, second, self.eps, form=form),
            run("rsqrt", second, second, form=form),
        ]
        weights: list[Slot] = []
        target = all_of(wide) if self.weight or self.bias else all_of(y)
        steps.append(run("mul", target, all_of(wide), repeated(second, 1, local), form=form))
        parameters = self.grid.spread((self.d,), self.along, self.block)
        for role, instruction, present in (("weight", "mul", self.weight), ("bias", "add", self.bias)):
            if not present:
                continue
            one = buffer(f"{prefix}.{role}", self.dtype, local)
            buffers.append(one)
            weights.append(Slot(role, one.name, parameters))
            last = role == "bias" or not self.bias
            steps.append(run(instruction, all_of(y) if last else all_of(wide), all_of(wide), repeated(all_of(one), 0, m), form=form))
        return Fragment(
            self.name,
            (Slot("x", x.name, self.layout),),
            (Slot("y", y.name, self.layout),),
            tuple(weights),
            (),
            tuple(buffers),
            tuple(steps),
        )

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Vector operations over tiles and over rows, one rsqrt per row, and one or two allreduces."""
        m, local = self.layout.local_shape
        form = format_of(self.form)
        pattern = self.reduction.pattern(self.grid.lines(self.along))
        tile, row = machine.vector_cycles(form.name, m * local), machine.vector_cycles(form.name, m)
        first = machine.vector_cycles(form.name, m * local, 2.0) if inside(self.layout, 1) else tile
        parameters = (int(self.weight) + int(self.bias)) * tile
        ends = first + row + machine.scalar_map_cycles(m, OPERATIONS["rsqrt"]) + tile + parameters
        if self.statistics == "packed":
            middle = 3 * tile + machine.vector_cycles(form.name, 2 * m) + 3 * row + pattern.cycles(form.words(2 * m), machine)
            count = 8
        elif self.statistics == "two-pass":
            middle = 3 * tile + first + 2 * row + 2 * pattern.cycles(form.words(m), machine)
            count = 8
        else:
            middle = tile + row + pattern.cycles(form.words(m), machine)
            count = 3
        return ends + middle + (count + 4 + int(self.weight) + int(self.bias)) * machine.step_cycles


def candidates(norm: Norm) -> Iterator[Norm]:
    """One variant per reduction worth pricing."""
    for reduction in reductions(norm.grid.lines(norm.along)):
        yield replace(norm, reduction=reduction)
