"""Matrix product with few rows: the weight is cut along both axes, the vector along one, partial sums are added along a line.

``x [m, k]`` has k in blocks along one direction; each PE multiplies its part with its tile of the weight ``[k, n]``, whose n lies along the
other direction; an allreduce along the first gives ``y [m, n]`` with n along the other direction, on every line. The next linear layer
takes it from there with directions swapped, so that nothing is moved between layers. For m = 1 this is GEMV.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

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
    reductions,
    repeated,
    run,
)
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Step


@dataclass(frozen=True)
class Linear(OfRows):
    """``y = x @ weight (+ bias)``: k along ``along``, n along the other direction.

    ``accumulate`` is the format of products and sums, on the PE and along the line; ``aligned`` declares streaming multiply-accumulates.
    ``k_block`` and ``n_block`` fix the block of a line where a neighbour needs another than the smallest.
    """

    m: int
    k: int
    n: int
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    accumulate: str = "f32"
    reduction: Reduction = CHAIN
    bias: bool = False
    aligned: bool = True
    k_block: int = 0
    n_block: int = 0

    name: ClassVar[str] = "linear"

    @property
    def weight_layout(self) -> Layout:
        shape = (self.k, self.n)
        if self.along == "x":
            return self.grid.tiled(shape, 1, 0, row_block=self.n_block, column_block=self.k_block)
        return self.grid.tiled(shape, 0, 1, row_block=self.k_block, column_block=self.n_block)

    @property
    def x_layout(self) -> Layout:
        return self.grid.spread((self.m, self.k), self.along, self.k_block)

    @property
    def y_layout(self) -> Layout:
        return self.grid.spread((self.m, self.n), other(self.along), self.n_block)

    @property
    def bias_layout(self) -> Layout:
        return self.grid.spread((self.n,), other(self.along), self.n_block)

    def fragment(self, prefix: str) -> Fragment:
        x = buffer(f"{prefix}.x", self.dtype, *self.x_layout.local_shape)
        weight = buffer(f"{prefix}.weight", self.dtype, *self.weight_layout.local_shape)
        y = buffer(f"{prefix}.y", self.dtype, *self.y_layout.local_shape)
        total = y if self.accumulate == self.dtype else buffer(f"{prefix}.total", self.accumulate, *y.shape)
        buffers = [x, weight, y] if total is y else [x, weight, y, total]
        rows = self.rows_of(self.m)
        sums, result = first(total, rows), first(y, rows)
        steps: list[Step] = [
            run("fill", sums, 0.0, form=self.accumulate),
            run("gemm", sums, sums, first(x, rows), all_of(weight), form=self.accumulate, aligned=self.aligned),
            self.reduction.step(self.along, sums, sums, "add"),
        ]
        weights = [Slot("weight", weight.name, self.weight_layout)]
        if self.bias:
            bias = buffer(f"{prefix}.bias", self.dtype, *self.bias_layout.local_shape)
            buffers.append(bias)
            weights.append(Slot("bias", bias.name, self.bias_layout))
            steps.append(run("add", result, sums, repeated(all_of(bias), 0, rows), form=self.accumulate))
        elif total is not y:
            steps.append(run("mov", result, sums, form=self.accumulate))
        return Fragment(
            self.name,
            (Slot("x", x.name, self.x_layout),),
            (Slot("y", y.name, self.y_layout, rows=self.rows),),
            tuple(weights),
            (),
            tuple(buffers),
            tuple(steps),
        )

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """One fill, one tile product, one allreduce, and a bias addition or conversion where there is one."""
        k, n = self.x_layout.local_shape[1], self.y_layout.local_shape[1]
        m = self.row_count(self.m, scalars)
        size = m * n
        across = machine.mac_cycles(self.accumulate, m * k, n, aligned=self.aligned)
        product = min(across, machine.mac_cycles(self.accumulate, k * n, m, aligned=self.aligned))
        passes = 2 if self.bias or self.accumulate != self.dtype else 1
        words = format_of(self.accumulate).words(size)
        line = self.reduction.pattern(self.grid.lines(self.along)).cycles(words, machine)
        return passes * machine.vector_cycles(self.accumulate, size) + product + line + (passes + 2) * machine.step_cycles

    @property
    def macs(self) -> int:
        """Useful multiply-accumulates of one item, padding not counted."""
        return self.m * self.k * self.n


def candidates(m: int, k: int, n: int, grid: Grid, along: Direction, dtype: str, accumulate: str, *, bias: bool) -> Iterator[Linear]:
    """One variant per reduction worth pricing."""
    for reduction in reductions(grid.lines(along)):
        yield Linear(m, k, n, grid, along, dtype, accumulate, reduction, bias)
