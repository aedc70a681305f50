"""Rotary positions on queries or keys whose head features are cut over PEs. No messages: both features of a pair lie in one PE.

A score sums over a head's features, so q and k may hold them in any order that they share. In `pair_order` the features of a pair are
neighbours, whichever of the two conventions the model follows; the order is laid on the weights that make q and k, once. Angles are rows of
a table by position, which `Embedding` fetches along the other direction; one fetch serves the queries and keys of all layers of a region.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.affine import Affine, Extent, value_of
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.embedding import Embedding
from cgptc.backends.wafer.kernels.fragment import CHAIN, Fragment, Reduction, Slot, buffer, first, run
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import View


def pair_order(head_dim: int, rotated: int, *, interleaved: bool) -> tuple[int, ...]:
    """For each place of a head the model's feature there: pair after pair of the first ``rotated`` features, then the rest.

    Pairs are (2i, 2i + 1) where ``interleaved``, else (i, i + rotated / 2). Raises ProgramError for odd sizes.
    """
    if rotated % 2 or head_dim % 2 or not 0 <= rotated <= head_dim:
        raise ProgramError("kernel", f"{rotated} of {head_dim} features are not pairs")
    half = rotated // 2
    first = [i for pair in range(half) for i in ((2 * pair, 2 * pair + 1) if interleaved else (pair, pair + half))]
    return (*first, *range(rotated, head_dim))


@dataclass(frozen=True)
class Rotary:
    """``(a, b) → (a cos − b sin, b cos + a sin)`` for each pair of features, in at least f32, rounded once per sum at the end.

    ``x`` is q (or k where ``keys``) of an attention with ``unit`` 2 in `pair_order`; ``angles [m, width]`` hold on a line the cosines of
    its pairs, then their sines. Features that are not rotated have cosine 1 and sine 0.
    """

    attention: CachedAttention
    keys: bool = False

    name: ClassVar[str] = "rotary"

    def __post_init__(self) -> None:
        if self.attention.piece % 2:
            raise ProgramError("kernel", f"lines of {self.attention.piece} features cut pairs apart", fix="give the attention unit=2")

    @property
    def layout(self) -> Layout:
        """That of x and y."""
        return self.attention.kv_layout if self.keys else self.attention.q_layout

    @property
    def _rows(self) -> Affine | None:
        """Rows of x and y where they are not all."""
        return self.attention.keys if self.keys else self.attention.queries

    @property
    def width(self) -> int:
        """Columns of the table of angles: those of one head where a head is cut, repeated for every one; else a head's on every line."""
        return self.attention.lines_used * self.attention.piece

    @property
    def angles_layout(self) -> Layout:
        attention = self.attention
        return attention.grid.spread((attention.m, self.width), attention.along, attention.piece)

    def angles(self, positions: int, position: Affine | None, reduction: Reduction = CHAIN, rows: Affine | None = None) -> Embedding:
        """The kernel that gives ``angles`` from a table of ``positions`` rows, by ``position`` or from ids, for ``rows`` of m tokens."""
        one = self.attention
        return Embedding(one.m, positions, self.width, one.grid, one.along, one.dtype, reduction, position, one.piece, rows=rows)

    def table(self, cosines: NDArray[Any], sines: NDArray[Any]) -> NDArray[Any]:
        """The table ``[positions, width]`` for ``cosines`` and ``sines [positions, rotated / 2]``."""
        positions, pairs = cosines.shape
        one = self.attention
        cosine, sine = np.ones((positions, one.head_dim // 2), cosines.dtype), np.zeros((positions, one.head_dim // 2), sines.dtype)
        cosine[:, :pairs], sine[:, :pairs] = cosines, sines
        size = one.piece // 2
        lines = [part[:, start : start + size] for start in range(0, one.head_dim // 2, size) for part in (cosine, sine)]
        return np.concatenate(lines * (one.lines_used // one.segment), axis=1)

    @property
    def _heads(self) -> int:
        """Heads of x on a line."""
        return self.attention.heads_per_line * (1 if self.keys else self.attention.group)

    def fragment(self, prefix: str) -> Fragment:
        m, heads, piece = self.attention.m, self._heads, self.attention.piece
        count: Extent = m if self._rows is None else self._rows
        pairs, row = piece // 2, heads * piece
        form = format_of(self.attention.dtype).wide.name
        x, y = (buffer(f"{prefix}.{role}", self.attention.dtype, m, row) for role in ("x", "y"))
        angles = buffer(f"{prefix}.angles", self.attention.dtype, m, piece)
        minus = buffer(f"{prefix}.minus", self.attention.dtype, m, pairs)
        products = buffer(f"{prefix}.products", form, m, heads, pairs)

        def side(name: str, which: int) -> View:
            return View(name, (count, heads, pairs), (row, piece, 2), which)

        def angle(name: str, width: int, start: int) -> View:
            return View(name, (count, heads, pairs), (width, 0, 1), start)

        cosine, sine, opposite = angle(angles.name, piece, 0), angle(angles.name, piece, pairs), angle(minus.name, pairs, 0)
        product = first(products, count)
        steps = (
            run("neg", first(minus, count), View(angles.name, (count, pairs), (piece, 1), pairs), form=self.attention.dtype),
            run("mul", product, side(x.name, 0), cosine, form=form),
            run("mac", side(y.name, 0), product, side(x.name, 1), opposite, form=form),
            run("mul", product, side(x.name, 1), cosine, form=form),
            run("mac", side(y.name, 1), product, side(x.name, 0), sine, form=form),
        )
        inputs = (Slot("x", x.name, self.layout), Slot("angles", angles.name, self.angles_layout))
        return Fragment(
            self.name, inputs, (Slot("y", y.name, self.layout, rows=self._rows),), (), (), (x, y, angles, minus, products), steps
        )

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Four operations over half the features, and the sign of the sines."""
        m = self.attention.m if self._rows is None else value_of(self._rows, scalars)
        piece = self.attention.piece
        form = format_of(self.attention.dtype).wide.name
        size = m * self._heads * piece // 2
        signs = machine.vector_cycles(self.attention.dtype, m * piece // 2)
        return signs + 2 * (machine.vector_cycles(form, size) + machine.vector_cycles(form, size, 1.5)) + 5 * machine.step_cycles
