"""RMSNorm of every head of an attention's queries or keys, where they lie: a head's features may be cut over neighbouring lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.fragment import CHAIN, Fragment, Reduction, Slot, all_of, buffer, repeated, run
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Span, Step, View, Where


@dataclass(frozen=True)
class HeadNorm:
    """``y = x / sqrt(mean(x²) + eps) · weight`` over each head of ``x``, which is q of the attention, or k where ``keys``.

    ``weight`` has one number for each feature of all heads, in the order in which they lie. Statistics are added along a head's lines in
    at least f32.
    """

    attention: CachedAttention
    keys: bool = False
    eps: float = 1e-6
    weight: bool = True
    reduction: Reduction = CHAIN

    name: ClassVar[str] = "head-norm"

    @property
    def layout(self) -> Layout:
        """That of x and y."""
        return self.attention.kv_layout if self.keys else self.attention.q_layout

    @property
    def _shape(self) -> tuple[int, int, int]:
        """Tokens, heads on a line, and features of a head there."""
        one = self.attention
        return self.layout.local_shape[0], one.heads_per_line * (1 if self.keys else one.group), one.piece

    def fragment(self, prefix: str) -> Fragment:
        attention, (m, heads, piece) = self.attention, self._shape
        form = format_of(attention.dtype).wide.name
        x, y = (buffer(f"{prefix}.{role}", attention.dtype, m, heads * piece) for role in ("x", "y"))
        wide, sums = buffer(f"{prefix}.wide", form, m, heads, piece), buffer(f"{prefix}.sums", form, m, heads)
        weight = buffer(f"{prefix}.weight", attention.dtype, heads * piece)

        def cut(name: str) -> View:
            return View(name, (m, heads, piece), (heads * piece, piece, 1))

        steps: list[Step] = [
            run("mov", all_of(wide), cut(x.name), form=form),
            run("dot", all_of(sums), all_of(wide), all_of(wide), form=form),
        ]
        if attention.segment > 1:
            span = (Span(0, attention.lines_used),)
            where = Where(columns=span) if attention.along == "x" else Where(rows=span)
            steps.append(self.reduction.step(attention.along, all_of(sums), all_of(sums), "add", attention.segment, where))
        steps += [
            run("mul", all_of(sums), all_of(sums), 1.0 / attention.head_dim, form=form),
            run("add", all_of(sums), all_of(sums), self.eps, form=form),
            run("rsqrt", all_of(sums), all_of(sums), form=form),
            run("mul", all_of(wide) if self.weight else cut(y.name), all_of(wide), repeated(all_of(sums), 2, piece), form=form),
        ]
        if self.weight:
            steps.append(run("mul", cut(y.name), all_of(wide), View(weight.name, (m, heads, piece), (0, piece, 1)), form=form))
        parameters = Layout(self.layout.height, self.layout.width, self.layout.shape[1:], self.layout.cuts[1:])
        weights = (Slot("weight", weight.name, parameters),) if self.weight else ()
        buffers = (x, y, wide, sums, weight) if self.weight else (x, y, wide, sums)
        return Fragment(self.name, (Slot("x", x.name, self.layout),), (Slot("y", y.name, self.layout),), weights, (), buffers, tuple(steps))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Three or four operations over all elements, three over heads, and a line operation where heads are cut."""
        m, heads, piece = self._shape
        form, step = format_of(self.attention.dtype).wide, machine.step_cycles
        tile, row = machine.vector_cycles(form.name, m * heads * piece), machine.vector_cycles(form.name, m * heads)
        line = self.reduction.pattern(self.attention.segment).cycles(form.words(m * heads), machine) + step
        whole = (4 if self.weight else 3) * (tile + step)
        small = 2 * (row + step) + machine.scalar_map_cycles(m * heads, OPERATIONS["rsqrt"]) + step
        return whole + small + (line if self.attention.segment > 1 else 0)
