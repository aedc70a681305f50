"""Slices and concatenations, of features over PEs and of rows within them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.affine import Affine, var
from cgptc.backends.wafer.arithmetic.formats import format_of
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
    run,
)
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Step, View, whole


@dataclass(frozen=True)
class Piece:
    """Elements ``start, start + step, …`` of an input's axis, ``count`` of them."""

    source: int
    start: int
    count: int
    step: int = 1


def pieces_of(elements: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
    """Elements ``(source, index)`` one after the other, as few pieces as there are runs of equal steps."""
    found: list[Piece] = []
    start = 0
    while start < len(elements):
        source, first = elements[start]
        end, step = start + 1, 1
        if end < len(elements) and elements[end][0] == source and elements[end][1] > first:
            step = elements[end][1] - first
            while end < len(elements) and elements[end] == (source, first + (end - start) * step):
                end += 1
        found.append(Piece(source, first, end - start, step))
        start = end
    return tuple(found)


def _check(pieces: tuple[Piece, ...], sizes: tuple[int, ...]) -> None:
    for one in pieces:
        if not 0 <= one.source < len(sizes) or one.count < 1:
            raise ProgramError("kernel", f"{one} is no piece of inputs of sizes {sizes}")
        for end in (one.start, one.start + (one.count - 1) * one.step):
            if not 0 <= end < sizes[one.source]:
                raise ProgramError("kernel", f"{one} leaves an input of {sizes[one.source]}")


def role_of(source: int) -> str:
    """The role of an input: x0, x1, …"""
    return f"x{source}"


@dataclass(frozen=True)
class JoinFeatures(OfRows):
    """``y [m, n]``: pieces of the features of inputs ``x0 [m, widths[0]]``, …, one after the other, all along one direction.

    Every PE puts what it holds of the result into an otherwise empty row, the rows are merged bit by bit along the line, and every PE
    keeps its own part. It costs a line operation over the whole result, and room for it. ``blocks`` of the inputs and ``y_block`` are 0 for
    the smallest.
    """

    m: int
    widths: tuple[int, ...]
    pieces: tuple[Piece, ...]
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    reduction: Reduction = CHAIN
    blocks: tuple[int, ...] = ()
    y_block: int = 0

    name: ClassVar[str] = "join-features"

    def __post_init__(self) -> None:
        _check(self.pieces, self.widths)

    @property
    def width(self) -> int:
        return sum(one.count for one in self.pieces)

    def x_layout(self, source: int) -> Layout:
        return self.grid.spread((self.m, self.widths[source]), self.along, self.blocks[source] if self.blocks else 0)

    @property
    def y_layout(self) -> Layout:
        return self.grid.spread((self.m, self.width), self.along, self.y_block)

    def fragment(self, prefix: str) -> Fragment:
        m, width, line = self.m, self.width, coordinate(self.along)
        inputs = [buffer(f"{prefix}.{role_of(i)}", self.dtype, *self.x_layout(i).local_shape) for i in range(len(self.widths))]
        local = self.y_layout.local_shape[1]
        y, row = buffer(f"{prefix}.y", self.dtype, m, local), buffer(f"{prefix}.row", self.dtype, width, m)
        ids, own = buffer(f"{prefix}.ids", "i32", width), buffer(f"{prefix}.own", "i32", local)
        count = self.rows_of(m)
        merged = View(row.name, (width, count), (m, 1))
        steps: list[Step] = []
        done = 0
        for one in self.pieces:
            held = inputs[one.source]
            size = held.shape[1]
            wanted = View(ids.name, (one.count,), (1,), done)
            target = View(row.name, (one.count, count), (m, 1), done * m)
            steps += [
                run("index", wanted, form="i32", value=var("i0") * one.step + one.start),
                run("lookup", target, View(held.name, (size, count), (1, size)), wanted, form=self.dtype, first=line * size),
            ]
            done += one.count
        steps += [
            self.reduction.step(self.along, merged, merged, "or"),
            run("index", all_of(own), form="i32", value=line * local + var("i0")),
            run("lookup", View(y.name, (local, count), (1, local)), merged, all_of(own), form=self.dtype, first=Affine()),
        ]
        slots = tuple(Slot(role_of(i), one.name, self.x_layout(i)) for i, one in enumerate(inputs))
        outputs = (Slot("y", y.name, self.y_layout, rows=self.rows),)
        return Fragment(self.name, slots, outputs, (), (), (*inputs, y, row, ids, own), tuple(steps))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Indices and a gather per piece, the line operation, and the own part's indices and gather."""
        m, local = self.row_count(self.m, scalars), self.y_layout.local_shape[1]
        counts = [*(one.count for one in self.pieces), local]
        gathers = sum(machine.vector_cycles("i32", count) + machine.vector_cycles(self.dtype, count * m) for count in counts)
        line = self.reduction.pattern(self.grid.lines(self.along)).cycles(format_of(self.dtype).words(self.width * m), machine)
        return gathers + line + (2 * len(counts) + 1) * machine.step_cycles


@dataclass(frozen=True)
class JoinRows:
    """``y [n, d]``: pieces of the rows of inputs ``x0 [rows[0], d]``, …, one after the other; nothing leaves a PE.

    ``block`` as in `Grid.spread`.
    """

    rows: tuple[int, ...]
    d: int
    pieces: tuple[Piece, ...]
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    block: int = 0

    name: ClassVar[str] = "join-rows"

    def __post_init__(self) -> None:
        _check(self.pieces, self.rows)

    def layout(self, rows: int) -> Layout:
        return self.grid.spread((rows, self.d), self.along, self.block)

    def fragment(self, prefix: str) -> Fragment:
        local = self.layout(1).local_shape[1]
        inputs = [buffer(f"{prefix}.{role_of(i)}", self.dtype, rows, local) for i, rows in enumerate(self.rows)]
        total = sum(one.count for one in self.pieces)
        y = buffer(f"{prefix}.y", self.dtype, total, local)
        steps: list[Step] = []
        done = 0
        for one in self.pieces:
            taken = View(inputs[one.source].name, (one.count, local), (one.step * local, 1), one.start * local)
            steps.append(run("mov", whole(y.name, (one.count, local), offset=done * local), taken, form=self.dtype))
            done += one.count
        slots = tuple(Slot(role_of(i), one.name, self.layout(rows)) for i, (one, rows) in enumerate(zip(inputs, self.rows, strict=True)))
        return Fragment(self.name, slots, (Slot("y", y.name, self.layout(total)),), (), (), (*inputs, y), tuple(steps))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        local = self.layout(1).local_shape[1]
        return sum(machine.vector_cycles(self.dtype, one.count * local) + machine.step_cycles for one in self.pieces)


@dataclass(frozen=True)
class ShiftRows(OfRows):
    """``y [m, d]``: the rows of ``x`` from row ``start`` on, and in the last places those before it, which nobody is to read."""

    m: int
    d: int
    start: int
    grid: Grid
    along: Direction = "x"
    dtype: str = "f32"
    block: int = 0

    name: ClassVar[str] = "shift-rows"

    @property
    def layout(self) -> Layout:
        return self.grid.spread((self.m, self.d), self.along, self.block)

    def fragment(self, prefix: str) -> Fragment:
        m, local = self.layout.local_shape
        x, y = buffer(f"{prefix}.x", self.dtype, m, local), buffer(f"{prefix}.y", self.dtype, m, local)
        left = self.rows_of(m) - self.start
        steps = (
            run("mov", first(y, left), View(x.name, (left, local), (local, 1), self.start * local), form=self.dtype),
            run("mov", View(y.name, (self.start, local), (local, 1), left * local), first(x, self.start), form=self.dtype),
        )
        outputs = (Slot("y", y.name, self.layout, rows=self.rows),)
        return Fragment(self.name, (Slot("x", x.name, self.layout),), outputs, (), (), (x, y), steps)

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        m, local = self.layout.local_shape
        counts = (self.row_count(m, scalars) - self.start, self.start)
        return sum(machine.vector_cycles(self.dtype, count * local) + machine.step_cycles for count in counts)
