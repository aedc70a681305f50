"""A cache whose lines hold consecutive tokens, as many on each or one more: new ones enter at the last line, others pass their oldest up.

Dealing tokens out round-robin fills the lines as evenly and moves nothing, so that it costs less; shifting keeps the tokens in order along
the lines. With n tokens before it and L lines, a token makes line n mod L longer by one: the lines behind it pass their oldest one on and
keep their number.
"""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.backends.wafer.affine import Affine
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.collectives import Pattern
from cgptc.backends.wafer.kernels.fragment import LINE_COLOURS, Direction, run
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Collective, Local, Loop, Span, Step, View, Where, line


@dataclass(frozen=True)
class Shifting:
    """How a token enters after ``position`` others, on ``lines`` lines along ``along`` with room for ``slots`` of ``width`` each."""

    position: Affine
    along: Direction
    lines: int
    slots: int
    width: int
    dtype: str

    def steps(self, source: str, cache: str, incoming: str) -> list[Step]:
        """``source [width]`` enters ``cache [slots, width]``; ``incoming [width]`` holds what comes from the line behind."""
        n, lines = self.position, self.lines
        new, come = (View(name, (self.width,), (1,)) for name in (source, incoming))
        longer, behind = self._on(line(n % lines)), self._on((Span((n + 1) % lines, (-n - 1) % lines),))
        kept = (n - lines) // lines
        down, up = (View(cache, (kept, self.width), (self.width, 1), start * self.width) for start in (1, 0))
        shift = Collective(
            "shift", "neighbour", self.along, self._slot(cache, Affine()), come, LINE_COLOURS[self.along][2:4], hops=-1
        )  # fmt: skip
        return [
            Local("mov", self._slot(cache, n // lines), (new,), self.dtype, where=longer),
            Loop(
                "late",
                self._passes,
                (
                    shift,
                    Local("mov", self._slot(cache, n // lines), (come,), self.dtype, where=longer),
                    Local("mov", up, (down,), self.dtype, where=behind),
                    Local("mov", self._slot(cache, kept), (come,), self.dtype, where=behind),
                    run("mov", self._slot(cache, (n + 1 - lines) // lines), new, form=self.dtype, where=self._on(line(lines - 1))),
                ),
            ),
        ]

    @property
    def _passes(self) -> Affine:
        """Once where every line has a token already, else not at all."""
        return (self.position + (self.slots - 1) * self.lines) // (self.lines * self.slots)

    def _slot(self, cache: str, number: Affine) -> View:
        return View(cache, (self.width,), (1,), number * self.width)

    def _on(self, spans: tuple[Span, ...]) -> Where:
        return Where(columns=spans) if self.along == "x" else Where(rows=spans)

    def cycles(self, machine: Machine, tokens: int) -> int:
        """With so many tokens before it."""
        move = machine.vector_cycles(self.dtype, self.width) + machine.step_cycles
        if tokens < self.lines:
            return move
        shift = Pattern("shift", "neighbour", self.lines, hops=-1).cycles(format_of(self.dtype).words(self.width), machine)
        kept = machine.vector_cycles(self.dtype, (tokens // self.lines - 1) * self.width)
        behind = 0 if tokens % self.lines == self.lines - 1 else kept + machine.step_cycles + move
        return move + shift + machine.step_cycles + move + behind + move
