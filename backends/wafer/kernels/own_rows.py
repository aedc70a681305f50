"""Rows dealt out to lines of PEs that all hold all of them: what is computed row by row is computed once, and not on every line.

Activations lie along one direction, the same on every line of the other. Taking own rows is then no message; putting rows together again is
one merge along the other direction, bit by bit: each row is on one line alone, so that nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from cgptc.backends.wafer.affine import Affine, var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.kernels.assembly import renamed
from cgptc.backends.wafer.kernels.fragment import CHAIN, Direction, Fragment, Kernel, Reduction, Slot, buffer, coordinate, other, run
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Buffer, Loop, Step, View, whole


@dataclass(frozen=True)
class Dealt:
    """``m`` rows with features along ``along``, dealt out round-robin to the ``lines`` of the other direction."""

    m: int
    lines: int
    along: Direction
    dtype: str

    @property
    def rows(self) -> int:
        """Rows of a line, as many on each."""
        return -(-self.m // self.lines)

    @property
    def _line(self) -> Affine:
        return coordinate(other(self.along))

    def numbers(self, prefix: str) -> tuple[Buffer, Buffer, list[Step]]:
        """Which rows are a line's own, the places of one row of each line, and the steps that write both down."""
        own, places = buffer(f"{prefix}.own_rows", "i32", self.rows), buffer(f"{prefix}.places", "i32", min(self.m, self.lines))
        steps: list[Step] = [
            run("index", whole(own.name, own.shape), form="i32", value=self._line + var("i0") * self.lines),
            run("index", whole(places.name, places.shape), form="i32", value=var("i0")),
        ]
        return own, places, steps

    def taken(self, x: str, own: str, numbers: Buffer, width: int) -> Step:
        """Own rows of ``x [m, width]``, zeros where there are no more."""
        rows = whole(own, (self.rows, width))
        return run("lookup", rows, whole(x, (self.m, width)), whole(numbers.name, numbers.shape), form=self.dtype, first=Affine())

    def given(self, own: str, y: str, places: Buffer, width: int, reduction: Reduction) -> list[Step]:
        """All rows on every line: each puts its own among zeros, and they are merged."""
        full, rest = divmod(self.m, self.lines)

        def placed(number: Affine, count: int) -> Step:
            rows = View(y, (count, width), (width, 1), number * (self.lines * width))
            mine = View(own, (1, width), (width, 1), number * width)
            return run("lookup", rows, mine, View(places.name, (count,), (1,)), form=self.dtype, first=self._line)

        all_rows = whole(y, (self.m, width))
        steps: list[Step] = [Loop("turn", full, (placed(var("turn"), self.lines),))] if full else []
        steps += [placed(Affine(full), rest)] if rest else []
        return [*steps, reduction.step(other(self.along), all_rows, all_rows, "or")]

    def words(self, width: int) -> int:
        """Those of one merge."""
        return format_of(self.dtype).words(self.m * width)

    def numbers_cycles(self, machine: Machine) -> int:
        return sum(machine.vector_cycles("i32", size) + machine.step_cycles for size in (self.rows, min(self.m, self.lines)))

    def taken_cycles(self, width: int, machine: Machine) -> int:
        return machine.vector_cycles(self.dtype, self.rows * width) + machine.step_cycles

    def given_cycles(self, width: int, reduction: Reduction, machine: Machine) -> int:
        full, rest = divmod(self.m, self.lines)
        counts = [self.lines] * full + [rest] * (rest > 0)
        placed = sum(machine.vector_cycles(self.dtype, count * width) + machine.step_cycles for count in counts)
        return placed + reduction.pattern(self.lines).cycles(self.words(width), machine) + machine.step_cycles


@dataclass(frozen=True)
class OwnRows:
    """What ``kernel`` gives for its rows, those of one line, for ``m`` rows of all lines; its inputs and its output lie along ``along``."""

    kernel: Kernel
    m: int
    along: Direction
    dtype: str
    reduction: Reduction = CHAIN

    name: ClassVar[str] = "own-rows"

    def _dealt(self, one: Fragment) -> tuple[Dealt, int]:
        """How rows of the kernel's output are dealt out, and how wide they are on a PE."""
        layout = one.outputs[0].layout
        return Dealt(self.m, layout.height if self.along == "x" else layout.width, self.along, self.dtype), layout.local_shape[1]

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
        output = replace(result, layout=replace(result.layout, shape=(self.m, result.layout.shape[1])))
        steps += [*inner.steps, *dealt.given(f"{result.buffer}.own", result.buffer, places, width, self.reduction)]
        made = replace(inner, kernel=f"{inner.kernel}, {self.name}", inputs=tuple(inputs), outputs=(output,), steps=tuple(steps))
        return replace(made, buffers=(*inner.buffers, *buffers))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Taking rows apart, the kernel on a line's own, and putting them together."""
        one = self.kernel.fragment("one")
        dealt, width = self._dealt(one)
        taken = sum(dealt.taken_cycles(slot.layout.local_shape[1], machine) for slot in one.inputs)
        apart = dealt.numbers_cycles(machine) + taken
        return apart + self.kernel.cycles(machine, scalars) + dealt.given_cycles(width, self.reduction, machine)
