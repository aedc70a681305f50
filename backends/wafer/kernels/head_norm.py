"""RMSNorm of every head of an attention's queries or keys, where they lie: a head's features may be cut over neighbouring lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.affine import Extent, value_of
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.fragment import CHAIN, Fragment, Reduction, Slot, buffer, first, repeated, run
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Span, Step, View, Where


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
        """Most tokens, heads on a line, and features of a head there."""
        one = self.attention
        return self.layout.local_shape[0], one.heads_per_line * (1 if self.keys else one.group), one.piece

    @property
    def _rows(self) -> Extent:
        """Tokens of an item, as steps name them."""
        return self.attention.key_rows if self.keys else self.attention.query_rows

    def fragment(self, prefix: str) -> Fragment:
        attention, (m, heads, piece) = self.attention, self._shape
        form = format_of(attention.dtype).wide.name
        x, y = (buffer(f"{prefix}.{role}", attention.dtype, m, heads * piece) for role in ("x", "y"))
        wide, sums = buffer(f"{prefix}.wide", form, m, heads, piece), buffer(f"{prefix}.sums", form, m, heads)
        weight = buffer(f"{prefix}.weight", attention.dtype, heads * piece)

        rows = self._rows
        tile, row = first(wide, rows), first(sums, rows)

        def cut(name: str) -> View:
            return View(name, (rows, heads, piece), (heads * piece, piece, 1))

        steps: list[Step] = [
            run("mov", tile, cut(x.name), form=form),
            run("dot", row, tile, tile, form=form),
        ]
        if attention.segment > 1:
            span = (Span(0, attention.lines_used),)
            where = Where(columns=span) if attention.along == "x" else Where(rows=span)
            steps.append(self.reduction.step(attention.along, row, row, "add", attention.segment, where))
        steps += [
            run("mul", row, row, 1.0 / attention.head_dim, form=form),
            run("add", row, row, self.eps, form=form),
            run("rsqrt", row, row, form=form),
            run("mul", tile if self.weight else cut(y.name), tile, repeated(row, 2, piece), form=form),
        ]
        if self.weight:
            steps.append(run("mul", cut(y.name), tile, View(weight.name, (rows, heads, piece), (0, piece, 1)), form=form))
        parameters = Layout(self.layout.height, self.layout.width, self.layout.shape[1:], self.layout.cuts[1:])
        weights = (Slot("weight", weight.name, parameters),) if self.weight else ()
        buffers = (x, y, wide, sums, weight) if self.weight else (x, y, wide, sums)
        known = attention.keys if self.keys else attention.queries
        outputs = (Slot("y", y.name, self.layout, rows=known),)
        return Fragment(self.name, (Slot("x", x.name, self.layout),), outputs, weights, (), buffers, tuple(steps))

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Three or four operations over all elements, three over heads, and a line operation where heads are cut."""
        _, heads, piece = self._shape
        m = value_of(self._rows, scalars)
        form, step = format_of(self.attention.dtype).wide, machine.step_cycles
        tile, row = machine.vector_cycles(form.name, m * heads * piece), machine.vector_cycles(form.name, m * heads)
        line = self.reduction.pattern(self.attention.segment).cycles(form.words(m * heads), machine) + step
        whole = (4 if self.weight else 3) * (tile + step)
        small = 2 * (row + step) + machine.scalar_map_cycles(m * heads, OPERATIONS["rsqrt"]) + step
        return whole + small + (line if self.attention.segment > 1 else 0)
