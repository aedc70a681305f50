"""Attention of whole rows in tiles: every line of PEs takes queries of its own and multiplies them by all keys.

Keys and values lie along one direction, the same on every line of the other, so that a line that takes some of the queries holds already
what they look at: `gemm.Transposed` without its broadcasts, whose partial sums are added along the lines of a head. A query's scores are
whole on its line, so that its softmax reduces nothing along the tokens' direction; at the end the lines put their rows together. Where
`attention.CachedAttention` deals out keys, maxima, sums and values of all queries are reduced along that direction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.affine import Affine, value_of, var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.fragment import CHAIN, Fragment, Reduction, Slot, buffer, coordinate, other, repeated, run
from cgptc.backends.wafer.kernels.gemm import product_cycles
from cgptc.backends.wafer.kernels.own_rows import Dealt
from cgptc.backends.wafer.kernels.softmax import LOWEST, SMALLEST
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Local, Span, View, Where, whole


@dataclass(frozen=True)
class TiledAttention:
    """What ``spread`` computes, which keeps no keys: q, k, v and y lie as there, ``mask [keys]`` is whole on every PE.

    Queries are dealt out round-robin along the tokens' direction. ``reduction`` merges their rows. Raises ProgramError for attention with
    a cache, or with tokens before ``first``.
    """

    spread: CachedAttention
    reduction: Reduction = CHAIN

    name: ClassVar[str] = "attention-tiles"

    def __post_init__(self) -> None:
        if self.spread.kept or self.spread.first is not None:
            raise ProgramError("kernel", "attention in tiles takes whole rows, and keeps no keys")

    @property
    def _dealt(self) -> Dealt:
        spread = self.spread
        return Dealt(spread.m, spread.token_lines, spread.along, spread.dtype, spread.queries)

    @property
    def mask_layout(self) -> Layout:
        return self.spread.grid.replicated((self.spread.new,))

    @property
    def bias_layout(self) -> Layout:
        """As that of ``spread``, with the queries cut instead of the keys."""
        layout = self.spread.bias_layout
        heads, _, tokens = layout.cuts
        return Layout(layout.height, layout.width, layout.shape, (heads, tokens, None))

    def fragment(self, prefix: str) -> Fragment:
        spread, dealt, most, room = self.spread, self._dealt, self._dealt.rows, self.spread.new
        rows, keys = dealt.own or most, spread.key_rows
        m, group, piece = spread.m, spread.group, spread.piece
        local, heads = spread.heads_per_line * piece, spread.heads_per_line * group
        dtype, form = spread.dtype, format_of(spread.dtype).wide.name
        q, y = (buffer(f"{prefix}.{role}", dtype, m, heads * piece) for role in ("q", "y"))
        k, v = (buffer(f"{prefix}.{role}", dtype, room, local) for role in ("k", "v"))
        own = buffer(f"{prefix}.own", dtype, most, heads * piece)
        scores, row = buffer(f"{prefix}.scores", form, heads, most, room), buffer(f"{prefix}.row", form, heads, most)
        total = buffer(f"{prefix}.total", form, heads, most, piece)
        mask, bias = buffer(f"{prefix}.mask", dtype, room), buffer(f"{prefix}.bias", dtype, *self.bias_layout.local_shape)
        shown = whole(scores.name, (heads, rows, keys), scores.shape)
        sums, totals = whole(row.name, (heads, rows), row.shape), whole(total.name, (heads, rows, piece), total.shape)
        numbers, places, steps = dealt.numbers(prefix)
        steps += [dealt.taken(q.name, own.name, numbers, heads * piece), run("fill", shown, 0.0, form=form)]
        for head in range(heads):
            mine = View(scores.name, (rows, keys), (room, 1), head * most * room)
            queries = View(own.name, (rows, piece), (heads * piece, 1), head * piece)
            held = View(k.name, (piece, keys), (1, local), head // group * piece)
            steps.append(run("gemm", mine, mine, queries, held, form=form, aligned=True))
        if spread.segment > 1:
            span = (Span(0, spread.lines_used),)
            where = Where(columns=span) if spread.along == "x" else Where(rows=span)
            steps.append(spread.head_reduction.step(spread.along, shown, shown, "add", spread.segment, where))
        steps.append(run("mul", shown, shown, spread.scale, form=form))
        if spread.biased:
            of_head = most * room if spread.biased > 1 else 0
            steps.append(run("add", shown, shown, View(bias.name, (heads, rows, keys), (of_head, room, 1)), form=form))
        if self._seen:
            steps.append(Local("keep", shown, (shown, float("-inf")), form, (("where", self._seen),)))
        if spread.masked:
            steps.append(run("select", shown, View(mask.name, (heads, rows, keys), (0, 0, 1)), shown, float("-inf"), form=form))
        steps += [
            run("largest", sums, shown, form=form),
            run("max", sums, sums, LOWEST, form=form),
            run("sub", shown, shown, repeated(sums, 2, keys), form=form),
            run("exp", shown, shown, form=form),
            run("sum", sums, shown, form=form),
            run("fill", totals, 0.0, form=form),
        ]
        for head in range(heads):
            weights = View(scores.name, (rows, keys), (room, 1), head * most * room)
            held = View(v.name, (keys, piece), (local, 1), head // group * piece)
            mine = View(total.name, (rows, piece), (piece, 1), head * most * piece)
            steps.append(run("gemm", mine, mine, weights, held, form=form, aligned=True))
        result = View(own.name, (heads, rows, piece), (piece, heads * piece, 1))
        steps += [
            run("max", sums, sums, SMALLEST, form=form),
            run("reciprocal", sums, sums, form=form),
            run("mul", result, totals, repeated(sums, 2, piece), form=form),
            *dealt.given(own.name, y.name, places, heads * piece, self.reduction),
        ]
        inputs = [Slot("q", q.name, spread.q_layout), Slot("k", k.name, spread.kv_layout), Slot("v", v.name, spread.kv_layout)]
        inputs += [Slot("mask", mask.name, self.mask_layout)] if spread.masked else []
        constant = (Slot("bias", bias.name, self.bias_layout),) if spread.biased else ()
        buffers = [q, k, v, y, own, numbers, places, scores, row, total]
        buffers += [*([mask] if spread.masked else []), *([bias] if spread.biased else [])]
        outputs = (Slot("y", y.name, spread.q_layout, rows=spread.queries),)
        return Fragment(self.name, tuple(inputs), outputs, constant, (), tuple(buffers), tuple(steps))

    @property
    def _seen(self) -> tuple[Affine, ...]:
        """Conditions at element (head, query, key): the key is one that the query may see. None where every query sees all."""
        query = coordinate(other(self.spread.along)) + var("i1") * self.spread.token_lines
        conditions = [query - var("i2")] if self.spread.causal else []
        if self.spread.window:
            conditions.append(var("i2") - query + (self.spread.window - 1))
        return tuple(conditions)

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """The own queries, scores, softmax and values on each line, and rows put together; of line operations that of a head, and one."""
        spread, dealt = self.spread, self._dealt
        rows, keys = value_of(dealt.own or dealt.rows, scalars), value_of(spread.key_rows, scalars)
        piece, heads = spread.piece, spread.heads_per_line * spread.group
        width, size = heads * piece, heads * rows * keys
        form = format_of(spread.dtype).wide
        step = machine.step_cycles

        def vector(length: int, operations: float = 1.0) -> int:
            return machine.vector_cycles(form.name, length, operations) + step

        score = heads * (product_cycles(machine, form.name, rows, piece, keys, aligned=True) + step)
        value = heads * (product_cycles(machine, form.name, rows, keys, piece, aligned=True) + step)
        join = spread.head_reduction.pattern(spread.segment).cycles(form.words(size), machine) + step if spread.segment > 1 else 0
        hidden = int(bool(self._seen)) + int(spread.masked)
        softmax = (
            hidden * vector(size, 2.0)
            + (6 if spread.biased else 5) * vector(size)
            + machine.scalar_map_cycles(size, OPERATIONS["exp"])
            + step
        )
        small = 2 * vector(heads * rows) + machine.scalar_map_cycles(heads * rows, OPERATIONS["reciprocal"]) + step
        ends = 2 * vector(rows * width)
        dealing = dealt.numbers_cycles(machine, scalars) + dealt.taken_cycles(width, machine, scalars)
        dealing += dealt.given_cycles(width, self.reduction, machine, scalars)
        return dealing + score + join + softmax + value + small + ends
