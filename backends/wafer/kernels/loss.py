"""Losses over an axis cut along a line: local sums, allreduces of a few numbers per row, the result in every PE, statistics in f32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from cgptc.backends.wafer.affine import Extent, var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS
from cgptc.backends.wafer.faults import ProgramError
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
    inside,
    masked,
    repeated,
    run,
)
from cgptc.backends.wafer.kernels.softmax import LOWEST
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import ITEM, Buffer
from cgptc.backends.wafer.steps import Local, Step, View

Summary = Literal["mean", "sum", "none"]


def _result(grid: Grid, rows: int, summary: Summary) -> Layout:
    return grid.replicated((rows,) if summary == "none" else ())


@dataclass(frozen=True)
class CrossEntropy(OfRows):
    """``log Σ exp(x) − Σ p x`` per row of ``x [m, n]``, n along ``along``; p is the target's class, smoothed over all by ``smoothing``.

    ``target [m]`` are class numbers in the wide format (exact below 2**24). Rows whose target is ``ignore`` are 0 and count in no mean,
    which is NaN where all are ignored. ``running``: y ``[1, 1]`` is of all items so far; ``summary`` must be no "none".
    """

    m: int
    n: int
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    summary: Summary = "mean"
    ignore: int = -100
    smoothing: float = 0.0
    reduction: Reduction = CHAIN
    running: bool = False
    block: int = 0

    name: ClassVar[str] = "cross-entropy"

    @property
    def layout(self) -> Layout:
        return self.grid.spread((self.m, self.n), self.along, self.block)

    @property
    def y_layout(self) -> Layout:
        return self.grid.spread((1, 1), self.along) if self.running else _result(self.grid, self.m, self.summary)

    @property
    def form(self) -> str:
        return format_of(self.dtype).wide.name

    @property
    def _sums(self) -> int:
        """Numbers per row that travel together: of exponentials, of the target's logit, of all logits where these are smoothed over."""
        return 3 if self.smoothing else 2

    def fragment(self, prefix: str) -> Fragment:
        (m, local), form = self.layout.local_shape, self.form
        y_layout = self.y_layout
        x, y = buffer(f"{prefix}.x", self.dtype, m, local), buffer(f"{prefix}.y", self.dtype, *y_layout.shape)
        so_far = _so_far(prefix, form, self.summary) if self.running else ()
        target, valid = buffer(f"{prefix}.target", form, m), buffer(f"{prefix}.valid", form, m)
        tile, hit = buffer(f"{prefix}.tile", form, m, local), buffer(f"{prefix}.hit", form, m, local)
        sums, row = buffer(f"{prefix}.sums", form, self._sums, m), buffer(f"{prefix}.row", form, m)
        count = self.rows_of(m)
        exponentials, own, every = (View(sums.name, (count,), (1,), i * m) for i in range(3))
        packed = View(sums.name, (self._sums, count), (m, 1))
        ends = inside(self.layout, 1)
        shifted, rows, hits, wanted, counts = (first(one, count) for one in (tile, row, hit, target, valid))
        steps: list[Step] = [
            masked(shifted, first(x, count), float("-inf"), ends, form),
            run("largest", rows, shifted, form=form),
            self.reduction.step(self.along, rows, rows, "max"),
            run("max", rows, rows, LOWEST, form=form),
            run("sub", shifted, shifted, repeated(rows, 1, local), form=form),
            # 1 where the column's number is the target's.
            run("index", hits, form=form, value=coordinate(self.along) * local + var("i1")),
            run("sub", hits, hits, repeated(wanted, 1, local), form=form),
            run("abs", hits, hits, form=form),
            run("less", hits, hits, 0.5, form=form),
            run("select", hits, hits, shifted, 0.0, form=form),
            run("sum", own, hits, form=form),
        ]
        if self.smoothing:
            steps += [masked(hits, shifted, 0.0, ends, form), run("sum", every, hits, form=form)]
        steps += [
            run("exp", shifted, shifted, form=form),
            run("sum", exponentials, shifted, form=form),
            self.reduction.step(self.along, packed, packed, "add"),
            run("log", rows, exponentials, form=form),
            run("mul", own, own, 1.0 - self.smoothing, form=form),
            run("sub", rows, rows, own, form=form),
        ]
        if self.smoothing:
            steps += [run("mul", every, every, self.smoothing / self.n, form=form), run("sub", rows, rows, every, form=form)]
        steps += [
            run("sub", counts, wanted, float(self.ignore), form=form),
            run("abs", counts, counts, form=form),
            run("less", counts, 0.5, counts, form=form),
            run("select", rows, counts, rows, 0.0, form=form),
            *_summed(y.name, row.name, valid.name, count, self.summary, form, [one.name for one in so_far]),
        ]
        inputs = (Slot("x", x.name, self.layout), Slot("target", target.name, self.grid.replicated((m,))))
        buffers = (x, y, target, valid, tile, hit, sums, row, *so_far)
        return Fragment(self.name, inputs, (Slot("y", y.name, y_layout),), (), _states(self.grid, so_far), buffers, tuple(steps))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Operations over tiles and over rows, one exponential per element and one logarithm per row, two allreduces, the summary."""
        (most, local), form, step = self.layout.local_shape, format_of(self.form), machine.step_cycles
        m = self.row_count(most, scalars)
        tile, row = machine.vector_cycles(form.name, m * local), machine.vector_cycles(form.name, m)
        twice = machine.vector_cycles(form.name, m * local, 2.0)
        ends = twice if inside(self.layout, 1) else tile
        smooth = ends + tile + 2 * row + 4 * step if self.smoothing else 0
        pattern = self.reduction.pattern(self.grid.lines(self.along))
        lines = pattern.cycles(form.words(m), machine) + pattern.cycles(form.words(self._sums * m), machine)
        functions = machine.scalar_map_cycles(m * local, OPERATIONS["exp"]) + machine.scalar_map_cycles(m, OPERATIONS["log"])
        whole = ends + 8 * tile + twice + 6 * row + machine.vector_cycles(form.name, m, 2.0)
        summary = _summary_cycles(machine, form.name, m, self.summary, running=self.running)
        return whole + smooth + functions + lines + 21 * step + summary


def _so_far(prefix: str, form: str, summary: Summary) -> tuple[Buffer, ...]:
    """What stays between items: the sum, and for a mean the number of rows in it."""
    return tuple(buffer(f"{prefix}.{role}", form, 1) for role in (("total", "count") if summary == "mean" else ("total",)))


def _states(grid: Grid, buffers: Sequence[Buffer]) -> tuple[Slot, ...]:
    return tuple(Slot(one.name.rpartition(".")[2], one.name, grid.replicated((1,))) for one in buffers)


def _summed(y: str, row: str, valid: str, m: Extent, summary: Summary, form: str, so_far: Sequence[str] = ()) -> list[Step]:
    """The rows' losses as they are, their sum, or their sum over the number of rows that count, which ``valid`` ends up holding.

    Where buffers of sums ``so_far`` are given, they are of all items from the first on.
    """
    losses, total, result = View(row, (m,), (1,)), View(row, (), ()), View(y, (), ())
    if summary == "none":
        return [run("mov", View(y, (m,), (1,)), losses, form=form)]
    if summary == "sum":
        if not so_far:
            return [run("sum", result, losses, form=form)]
        kept = View(so_far[0], (), ())
        return [run("sum", total, losses, form=form), *_added(kept, total, form), run("mov", result, kept, form=form)]
    count = View(valid, (), ())
    steps: list[Step] = [run("sum", total, losses, form=form), run("sum", count, View(valid, (m,), (1,)), form=form)]
    kept = total
    if so_far:
        kept, counted = (View(one, (), ()) for one in so_far)
        steps += [*_added(kept, total, form), *_added(counted, count, form), run("mov", count, counted, form=form)]
    return [*steps, run("reciprocal", count, count, form=form), run("mul", result, kept, count, form=form)]


def _added(kept: View, value: View, form: str) -> list[Step]:
    """A number added to what is kept of the items before, which is nothing at the first."""
    return [
        Local("keep", kept, (kept, 0.0), form, (("where", (var(ITEM) - 1,)),)),
        run("add", kept, kept, value, form=form),
    ]


def _summary_cycles(machine: Machine, form: str, m: int, summary: Summary, *, running: bool = False) -> int:
    row, step, one = machine.vector_cycles(form, m), machine.step_cycles, machine.vector_cycles(form, 1)
    added = machine.vector_cycles(form, 1, 2.0) + one + 2 * step if running else 0
    moved = one + step if running else 0
    if summary == "mean":
        return 2 * (row + added) + moved + machine.scalar_map_cycles(1, OPERATIONS["reciprocal"]) + one + 4 * step
    return row + step + added + moved


@dataclass(frozen=True)
class SquaredError(OfRows):
    """``(x − z)²`` of ``x`` and ``z [m, n]``, n along ``along``: its mean or sum over all elements.

    ``running``: y ``[1, 1]`` is of all items so far, and with ``masked`` an input ``mask [m]`` is 0 at rows that do not count, else 1.
    """

    m: int
    n: int
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    summary: Summary = "mean"
    reduction: Reduction = CHAIN
    running: bool = False
    masked: bool = False
    block: int = 0

    name: ClassVar[str] = "squared-error"

    def __post_init__(self) -> None:
        if self.rows is not None and not self.running:
            raise ProgramError("kernel", "only sums that run on over items are of some of an item's rows")
        if (self.running and self.summary == "none") or (self.masked and not self.running):
            raise ProgramError("kernel", "only sums of squares run on over items, and only those leave rows out")

    @property
    def layout(self) -> Layout:
        return self.grid.spread((self.m, self.n), self.along, self.block)

    @property
    def y_layout(self) -> Layout:
        if self.running:
            return self.grid.spread((1, 1), self.along)
        return self.layout if self.summary == "none" else self.grid.replicated(())

    def fragment(self, prefix: str) -> Fragment:
        (m, local), form = self.layout.local_shape, format_of(self.dtype).wide.name
        x, z = (buffer(f"{prefix}.{role}", self.dtype, m, local) for role in ("x", "z"))
        y = buffer(f"{prefix}.y", self.dtype, *self.y_layout.local_shape)
        apart, sums, total = (
            buffer(f"{prefix}.apart", form, m, local),
            buffer(f"{prefix}.sums", form, m),
            buffer(f"{prefix}.all", form, 1),
        )
        mask, valid = buffer(f"{prefix}.mask", self.dtype, m), buffer(f"{prefix}.valid", form, m)
        so_far = _so_far(prefix, form, self.summary) if self.running else ()
        buffers = [x, z, y, apart, *so_far]
        inputs = [Slot("x", x.name, self.layout), Slot("z", z.name, self.layout)]
        rows = self.rows_of(m)
        tile, row, real, counts = (first(one, rows) for one in (apart, sums, mask, valid))
        steps: list[Step] = [run("sub", tile, first(x, rows), first(z, rows), form=form)]
        if self.summary == "none":
            steps.append(run("mul", first(y, rows), tile, tile, form=form))
        else:
            ends = inside(self.layout, 1)
            steps += [masked(tile, tile, 0.0, ends, form)] if ends else []
            steps.append(run("dot", row, tile, tile, form=form))
            buffers.append(sums)
            if self.running:
                if self.masked:
                    inputs.append(Slot("mask", mask.name, self.grid.replicated((m,))))
                    buffers.append(mask)
                    steps.append(run("select", row, real, row, 0.0, form=form))
                steps.append(self.reduction.step(self.along, row, row, "add"))
                if self.summary == "mean":
                    # Every row that counts stands for n numbers.
                    buffers.append(valid)
                    number = float(self.n)
                    counted = run("mul", counts, real, number, form=form)
                    steps.append(counted if self.masked else run("fill", counts, number, form=form))
                steps += _summed(y.name, sums.name, valid.name, rows, self.summary, form, [one.name for one in so_far])
            else:
                factor = 1.0 / (self.m * self.n) if self.summary == "mean" else 1.0
                one = View(total.name, (), ())
                steps += [
                    run("sum", one, row, form=form),
                    self.reduction.step(self.along, one, one, "add"),
                    run("mul", all_of(y), one, factor, form=form),
                ]
                buffers.append(total)
        outputs = (Slot("y", y.name, self.y_layout),)
        return Fragment(self.name, tuple(inputs), outputs, (), _states(self.grid, so_far), tuple(buffers), tuple(steps))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """The difference, its squares summed by rows, the rows' sum, and one allreduce of a number, or where it runs on of all rows."""
        form, step, m = format_of(self.dtype).wide, machine.step_cycles, self.row_count(self.m, scalars)
        size = m * self.layout.local_shape[1]
        tile, one = machine.vector_cycles(form.name, size), machine.vector_cycles(form.name, 1)
        if self.summary == "none":
            return 2 * (tile + step)
        ends = machine.vector_cycles(form.name, size, 2.0) + step if inside(self.layout, 1) else 0
        pattern = self.reduction.pattern(self.grid.lines(self.along))
        if self.running:
            chosen = machine.vector_cycles(form.name, m, 2.0) + step if self.masked else 0
            counted = machine.vector_cycles(form.name, m) + step if self.summary == "mean" else 0
            summary = _summary_cycles(machine, form.name, m, self.summary, running=True)
            return 2 * (tile + step) + ends + chosen + counted + pattern.cycles(form.words(m), machine) + step + summary
        return 2 * tile + ends + machine.vector_cycles(form.name, m) + pattern.cycles(form.words(1), machine) + one + 5 * step
