"""Rows dealt out to lines of PEs that all hold all of them: what is computed row by row is computed once, and not on every line.

Activations lie along one direction, the same on every line of the other. Taking own rows is then no message; putting rows together again is
one merge along the other direction, bit by bit: each row is on one line alone, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from cgptc.backends.wafer.affine import Affine, Extent, value_of, var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.kernels.assembly import renamed
from cgptc.backends.wafer.kernels.fragment import (
    CHAIN,
    Direction,
    Fragment,
    Kernel,
    OfRows,
    Reduction,
    Slot,
    buffer,
    coordinate,
    first,
    other,
    run,
)
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Buffer
from cgptc.backends.wafer.steps import Loop, Step, View, whole


@dataclass(frozen=True)
class Dealt:
    """``m`` rows with features along ``along``, dealt out round-robin to the ``lines`` of the other direction.

    An item has ``count`` of them where that is not None: a line then has as many fewer as all others, but for one.
    """

    m: int
    lines: int
    along: Direction
    dtype: str
    count: Affine | None = None

    @property
    def rows(self) -> int:
        """Rows that a line has room for, as many on each."""
        return -(-self.m // self.lines)

    @property
    def own(self) -> Affine | None:
        """Rows of a line where an item has fewer than there is room for."""
        return None if self.count is None else self.count.ceil_div(self.lines)

    @property
    def _all(self) -> Extent:
        return self.m if self.count is None else self.count

    @property
    def _own(self) -> Extent:
        return self.rows if self.own is None else self.own

    @property
    def _line(self) -> Affine:
        return coordinate(other(self.along))

    def numbers(self, prefix: str) -> tuple[Buffer, Buffer, list[Step]]:
        """Which rows are a line's own, the places of one row of each line, and the steps that write both down."""
        own, places = buffer(f"{prefix}.own_rows", "i32", self.rows), buffer(f"{prefix}.places", "i32", min(self.m, self.lines))
        steps: list[Step] = [
            run("index", first(own, self._own), form="i32", value=self._line + var("i0") * self.lines),
            run("index", whole(places.name, places.shape), form="i32", value=var("i0")),
        ]
        return own, places, steps

    def taken(self, x: str, own: str, numbers: Buffer, width: int) -> Step:
        """Own rows of ``x [m, width]``, zeros where there are no more."""
        rows, table = View(own, (self._own, width), (width, 1)), View(x, (self._all, width), (width, 1))
        return run("lookup", rows, table, first(numbers, self._own), form=self.dtype, first=Affine())

    def given(self, own: str, y: str, places: Buffer, width: int, reduction: Reduction) -> list[Step]:
        """All rows on every line: each puts its own among zeros, and they are merged."""

        step = self.lines * width

        def placed(number: Affine, at: Affine, lines: View) -> Step:
            """Each of these lines' row of that number, in the rows of y from an element on."""
            rows, mine = View(y, (*lines.shape, width), (width, 1), at), View(own, (1, width), (width, 1), number * width)
            return run("lookup", rows, mine, lines, form=self.dtype, first=self._line)

        all_rows, turn = View(y, (self._all, width), (width, 1)), var("turn")
        merged = reduction.step(other(self.along), all_rows, all_rows, "or")
        everywhere = placed(turn, turn * step, first(places, min(self.m, self.lines)))
        if self.count is None:
            full, rest = divmod(self.m, self.lines)
            turns = [Loop("turn", full, (everywhere,))] if full else []
            return [*turns, *([placed(Affine(full), Affine(full * step), first(places, rest))] if rest else []), merged]
        # The last row goes by itself: the line that has it has a row of the number that the rest are of, full or not.
        last = self.count - 1
        number, line = last // self.lines, last % self.lines
        turns = [Loop("turn", number, (everywhere,))] if self.m > self.lines else []
        alone = placed(number, last * width, View(places.name, (1,), (1,), line))
        return [*turns, placed(number, number * step, first(places, line)), alone, merged]

    def words(self, width: int) -> int:
        """Those of one merge of all rows that there is room for."""
        return format_of(self.dtype).words(self.m * width)

    def numbers_cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        sizes = (value_of(self._own, scalars), min(self.m, self.lines))
        return sum(machine.vector_cycles("i32", size) + machine.step_cycles for size in sizes)

    def taken_cycles(self, width: int, machine: Machine, scalars: Mapping[str, int]) -> int:
        return machine.vector_cycles(self.dtype, value_of(self._own, scalars) * width) + machine.step_cycles

    def given_cycles(self, width: int, reduction: Reduction, machine: Machine, scalars: Mapping[str, int]) -> int:
        count = value_of(self._all, scalars)
        full, rest = divmod(count - (self.count is not None), self.lines)
        counts = [self.lines] * full + ([rest] * (rest > 0) if self.count is None else [rest, 1])
        placed = sum(machine.vector_cycles(self.dtype, size * width) + machine.step_cycles for size in counts)
        words = format_of(self.dtype).words(count * width)
        return placed + reduction.pattern(self.lines).cycles(words, machine) + machine.step_cycles


@dataclass(frozen=True)
class OwnRows(OfRows):
    """What ``kernel`` gives for its rows, those of one line, for ``m`` rows of all lines; its inputs and its output lie along ``along``.

    Of an item's ``rows`` the kernel is for a line's part, `Dealt.own`.
    """

    kernel: Kernel
    m: int
    along: Direction
    dtype: str
    reduction: Reduction = CHAIN

    name: ClassVar[str] = "own-rows"

    def _dealt(self, one: Fragment) -> tuple[Dealt, int]:
        """How rows of the kernel's output are dealt out, and how wide they are on a PE."""
        layout = one.outputs[0].layout
        lines = layout.height if self.along == "x" else layout.width
        return Dealt(self.m, lines, self.along, self.dtype, self.rows), layout.local_shape[1]

    def fragment(self, prefix: str) -> Fragment:
        inner = self.kernel.fragment(prefix)
        dealt, width = self._dealt(inner)
        (result,) = inner.outputs
        inner = renamed(inner, {slot.buffer: f"{slot.buffer}.own" for slot in (*inner.inputs, result)})
        numbers, places, steps = dealt.numbers(prefix)
        buffers = [numbers, places, buffer(result.buffer, self.dtype, self.m, width)]
        inputs: list[Slot] = []
        for slot in inner.inputs:
            name, local = slot.buffer.removesuffix(".own"), slot.layout.local_shape[1]
            inputs.append(Slot(slot.role, name, replace(slot.layout, shape=(self.m, slot.layout.shape[1]))))
            buffers.append(buffer(name, self.dtype, self.m, local))
            steps.append(dealt.taken(name, slot.buffer, numbers, local))
        output = replace(result, layout=replace(result.layout, shape=(self.m, result.layout.shape[1])), rows=self.rows)
        steps += [*inner.steps, *dealt.given(f"{result.buffer}.own", result.buffer, places, width, self.reduction)]
        made = replace(inner, kernel=f"{inner.kernel}, {self.name}", inputs=tuple(inputs), outputs=(output,), steps=tuple(steps))
        return replace(made, buffers=(*inner.buffers, *buffers))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Taking rows apart, the kernel on a line's own, and putting them together."""
        one = self.kernel.fragment("one")
        dealt, width = self._dealt(one)
        taken = sum(dealt.taken_cycles(slot.layout.local_shape[1], machine, scalars) for slot in one.inputs)
        apart = dealt.numbers_cycles(machine, scalars) + taken
        return apart + self.kernel.cycles(machine, scalars) + dealt.given_cycles(width, self.reduction, machine, scalars)
