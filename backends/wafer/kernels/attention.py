"""Attention: features along one direction, tokens dealt out round-robin along the other, with a cache that stays or without.

Item by item, the m new keys and values go to the lines of their tokens, which every PE of a feature line already holds: no message, no
shift. Scores are partial over a head's features and added along its segment of the line; softmax statistics are reduced along the tokens'
direction, the row sum together with the values, so that one division ends it. For m = 1 this is decoding, for larger m prefill in chunks,
causal by token number. Extents follow the number of tokens so far. `full_attention` sees one item's keys only: encoders, whole prompts, and
cross attention, with a mask of padding where there is one.

Features are ordered so that a line holds parts of one key-value head and of the query heads that read it (`query_order`), or several whole
key-value heads. The ordering is done once, on the weights that make q and take y.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from cgptc.backends.wafer.affine import Affine, Extent, value_of, var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import (
    CHAIN,
    Direction,
    Fragment,
    Grid,
    Reduction,
    Slot,
    buffer,
    first,
    other,
    repeated,
    run,
)
from cgptc.backends.wafer.kernels.gemm import product_cycles
from cgptc.backends.wafer.kernels.shifting_cache import Shifting
from cgptc.backends.wafer.kernels.softmax import LOWEST, SMALLEST
from cgptc.backends.wafer.layout import Cut, Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Local, Loop, Span, Step, View, Where, line


@dataclass(frozen=True)
class CachedAttention:
    """``y = softmax(scale · q kᵀ) v`` over all tokens up to each query's own.

    ``q [m, heads · d]`` and ``y`` in `query_order`, ``k`` and ``v`` ``[m, kv_heads · d]``, all with features along ``along`` and the same
    on every line of the other direction; the caches hold ``context`` tokens. ``position`` is the number of tokens before this item.
    ``window`` limits how far back a query sees. Where ``first`` is given, tokens before it are padding. ``causal`` False lets every query
    see all tokens up to the item's last. A line holds a multiple of ``unit`` features of a head, 2 for the pairs of `Rotary`.

    ``fresh`` is the number of new keys where it is not m. ``masked`` adds an input ``mask [context]``: 0 at padding, else 1. Where a query
    sees no token its row of y is 0. Keys and values are forgotten after the item where they are not ``kept``. ``reduction`` is along the
    tokens' direction, ``head_reduction`` along the lines of a head.

    ``biased`` adds a weight ``bias [1 or heads, queries, context]`` to the scores, 1: the same for all heads, else of each head; minus
    infinity hides a key from a query. Beside a cache it has a row for each of ``context`` positions, of which an item adds its own.

    Without a cache an item may have fewer ``queries`` than m and fewer ``keys`` than that, by a run's scalars.

    ``shifted`` keeps the tokens of a cache in order along the lines (`Shifting`), one token an item; hosts read no such cache.
    """

    m: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    scale: float
    grid: Grid
    position: Affine
    along: Direction = "y"
    dtype: str = "f32"
    causal: bool = True
    window: int = 0
    first: Affine | None = None
    reduction: Reduction = CHAIN
    unit: int = 1
    fresh: int = 0
    masked: bool = False
    kept: bool = True
    head_reduction: Reduction = CHAIN
    biased: int = 0
    shifted: bool = False
    queries: Affine | None = None
    keys: Affine | None = None

    name: ClassVar[str] = "attention"

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ProgramError("kernel", f"{self.heads} heads are no multiple of {self.kv_heads} key-value heads")
        if self.unit < 1 or self.head_dim % self.unit:
            raise ProgramError("kernel", f"a head of {self.head_dim} features is not made of units of {self.unit}")
        if self.causal and self.new != self.m:
            raise ProgramError("kernel", f"{self.m} queries and {self.new} new keys have no common numbering for causality")
        if not self.kept and (self.position != Affine() or self.context != self.new):
            raise ProgramError("kernel", "attention without a cache begins at position 0 and ends with the item")
        if self.kept and (self.queries is not None or self.keys is not None):
            raise ProgramError("kernel", "items of fewer tokens have no place in a cache")
        if self.causal and self.queries != self.keys:
            raise ProgramError("kernel", "queries and keys of different sequences have no common numbering for causality")
        if self.shifted and (self.new != 1 or not self.kept or self.window or self.biased or self.first is not None):
            raise ProgramError("kernel", "a cache that shifts takes one token an item, and tells no positions apart")
        if self.biased not in (0, 1, self.heads):
            raise ProgramError("kernel", f"biases of {self.biased} of {self.heads} heads")

    @property
    def new(self) -> int:
        """Keys and values of an item."""
        return self.fresh or self.m

    @property
    def query_rows(self) -> Extent:
        """Queries of an item, as steps name them."""
        return self.m if self.queries is None else self.queries

    @property
    def key_rows(self) -> Extent:
        """New keys of an item, as steps name them."""
        return self.new if self.keys is None else self.keys

    @property
    def _ragged(self) -> bool:
        """Whether some lines may hold a token less than others, in a slot that nothing has been put into yet."""
        return not self.kept and (self.keys is not None or self.new != self.slots * self.token_lines)

    @property
    def group(self) -> int:
        """Query heads per key-value head."""
        return self.heads // self.kv_heads

    @property
    def heads_per_line(self) -> int:
        """Whole key-value heads on a line; 1 where a head is cut over several."""
        return max(1, math.ceil(self.kv_heads / self.grid.lines(self.along)))

    @property
    def piece(self) -> int:
        """Features of a key-value head on one line: a divisor of the head's width."""
        if self.heads_per_line > 1:
            return self.head_dim
        room = self.grid.lines(self.along) // self.kv_heads
        sizes = range(self.unit, self.head_dim + 1, self.unit)
        return next(size for size in sizes if self.head_dim % size == 0 and self.head_dim // size <= room)

    @property
    def segment(self) -> int:
        """Lines that share a head."""
        return self.head_dim // self.piece

    @property
    def lines_used(self) -> int:
        return math.ceil(self.kv_heads / self.heads_per_line) * self.segment

    @property
    def token_lines(self) -> int:
        return self.grid.lines(other(self.along))

    @property
    def slots(self) -> int:
        """Tokens of the cache on one line."""
        return math.ceil(self.context / self.token_lines)

    def query_order(self, within: Sequence[int] | None = None) -> tuple[int, ...]:
        """For each place among q's features the model's feature (head · d + index) that stands there; y's too where ``within`` is None.

        ``within`` is the order of the features inside a head, which q and k may share (`pair_order`) while v and y keep theirs.
        """
        order: list[int] = []
        inner = range(self.head_dim) if within is None else within
        for kv_head in range(self.kv_heads):
            for start in range(0, self.head_dim, self.piece):
                for member in range(self.group):
                    head = kv_head * self.group + member
                    order.extend(head * self.head_dim + inner[start + i] for i in range(self.piece))
        return tuple(order)

    def key_order(self, within: Sequence[int] | None = None) -> tuple[int, ...]:
        """The same for k."""
        inner = range(self.head_dim) if within is None else within
        return tuple(head * self.head_dim + feature for head in range(self.kv_heads) for feature in inner)

    def _layout(self, rows: int, width: int, block: int) -> Layout:
        cut = Cut("columns" if self.along == "x" else "rows", block)
        return Layout(self.grid.height, self.grid.width, (rows, width), (None, cut))

    @property
    def q_layout(self) -> Layout:
        return self._layout(self.m, self.heads * self.head_dim, self.heads_per_line * self.group * self.piece)

    @property
    def kv_layout(self) -> Layout:
        return self._layout(self.new, self.kv_heads * self.head_dim, self.heads_per_line * self.piece)

    @property
    def cache_layout(self) -> Layout:
        features = Cut("columns" if self.along == "x" else "rows", self.heads_per_line * self.piece)
        tokens = Cut("rows" if self.along == "x" else "columns")
        return Layout(self.grid.height, self.grid.width, (self.context, self.kv_heads * self.head_dim), (tokens, features))

    @property
    def mask_layout(self) -> Layout:
        tokens = Cut("rows" if self.along == "x" else "columns")
        return Layout(self.grid.height, self.grid.width, (self.context,), (tokens,))

    @property
    def bias_layout(self) -> Layout:
        """That of ``bias [heads, queries, context]`` with heads as in `bias_order`, or of one for all of them."""
        tokens = Cut("rows" if self.along == "x" else "columns")
        heads = Cut("columns" if self.along == "x" else "rows", self.heads_per_line * self.group)
        rows, cut = (1, None) if self.biased == 1 else (self.heads * self.segment, heads)
        queries = self.context if self.kept else self.m
        return Layout(self.grid.height, self.grid.width, (rows, queries, self.context), (cut, None, tokens))

    def bias_order(self) -> tuple[int, ...]:
        """The heads whose biases the lines hold, one line after the other: a head's on each of its lines."""
        groups = [range(head * self.group, (head + 1) * self.group) for head in range(self.kv_heads)]
        return tuple(head for group in groups for _ in range(self.segment) for head in group)

    def fragment(self, prefix: str) -> Fragment:
        m, per, group, piece = self.m, self.heads_per_line, self.group, self.piece
        local, heads = per * piece, per * group
        form = format_of(self.dtype).wide.name
        q, y = (buffer(f"{prefix}.{role}", self.dtype, m, heads * piece) for role in ("q", "y"))
        k, v = (buffer(f"{prefix}.{role}", self.dtype, self.new, local) for role in ("k", "v"))
        keys, values = (buffer(f"{prefix}.{role}", self.dtype, self.slots, local) for role in ("keys", "values"))
        scores = buffer(f"{prefix}.scores", form, heads, m, self.slots)
        row = buffer(f"{prefix}.row", form, heads, m)
        packed = buffer(f"{prefix}.packed", form, heads, m, piece + 1)
        mask = buffer(f"{prefix}.mask", self.dtype, self.slots)
        count = self.query_rows
        now = (self.position + self.key_rows).ceil_div(self.token_lines)
        shown = View(scores.name, (heads, count, now), (m * self.slots, self.slots, 1))
        rows = View(row.name, (heads, count), (m, 1))
        sums = View(packed.name, (heads, count), (m * (piece + 1), piece + 1), piece)
        both = View(packed.name, (heads, count, piece + 1), (m * (piece + 1), piece + 1, 1))
        payload = replace(both, shape=(heads, count, piece))
        result = View(y.name, (heads, count, piece), (piece, heads * piece, 1))
        # Weights of 0 do not undo what was never written.
        steps: list[Step] = [run("fill", first(one, now), 0.0, form=self.dtype) for one in (keys, values) if self._ragged]
        come = buffer(f"{prefix}.come", self.dtype, local)
        for new, cache in ((k.name, keys.name), (v.name, values.name)):
            steps += self._shifting.steps(new, cache, come.name) if self.shifted else self._append(new, cache, local)
        steps.append(run("fill", shown, 0.0, form=form))
        for head in range(heads):
            steps.append(self._product(scores.name, q.name, keys.name, head, now, local, form))
        if self.segment > 1:
            span = (Span(0, self.lines_used),)
            where = Where(columns=span) if self.along == "x" else Where(rows=span)
            steps.append(self.head_reduction.step(self.along, shown, shown, "add", self.segment, where))
        steps.append(run("mul", shown, shown, self.scale, form=form))
        bias = buffer(f"{prefix}.bias", self.dtype, *self.bias_layout.local_shape)
        if self.biased:
            of_head = bias.shape[1] * self.slots if self.biased > 1 else 0
            added = View(bias.name, (heads, count, now), (of_head, self.slots, 1), self.position * self.slots)
            steps.append(run("add", shown, shown, added, form=form))
        steps += [
            Local("keep", shown, (shown, float("-inf")), form, (("where", self._seen()),)),
        ]
        if self.masked:
            steps.append(run("select", shown, View(mask.name, (heads, count, now), (0, 0, 1)), shown, float("-inf"), form=form))
        steps += [
            run("largest", rows, shown, form=form),
            self.reduction.step(other(self.along), rows, rows, "max"),
            run("max", rows, rows, LOWEST, form=form),
            run("sub", shown, shown, repeated(rows, 2, now), form=form),
            run("exp", shown, shown, form=form),
            run("fill", both, 0.0, form=form),
            run("sum", sums, shown, form=form),
        ]
        for head in range(heads):
            total = View(packed.name, (count, piece), (piece + 1, 1), head * m * (piece + 1))
            weights = View(scores.name, (count, now), (self.slots, 1), head * m * self.slots)
            held = View(values.name, (now, piece), (local, 1), head // group * piece)
            steps.append(run("gemm", total, total, weights, held, form=form, aligned=True))
        steps += [
            self.reduction.step(other(self.along), both, both, "add"),
            run("max", rows, sums, SMALLEST, form=form),
            run("reciprocal", rows, rows, form=form),
            run("mul", result, payload, repeated(rows, 2, piece), form=form),
        ]
        inputs = [Slot("q", q.name, self.q_layout), Slot("k", k.name, self.kv_layout), Slot("v", v.name, self.kv_layout)]
        states = (Slot("keys", keys.name, self.cache_layout), Slot("values", values.name, self.cache_layout)) if self.kept else ()
        buffers = [q, k, v, y, keys, values, scores, row, packed, *([come] if self.shifted else [])]
        if self.masked:
            inputs.append(Slot("mask", mask.name, self.mask_layout))
            buffers.append(mask)
        constant = (Slot("bias", bias.name, self.bias_layout),) if self.biased else ()
        buffers += [bias] if self.biased else []
        name = f"{self.name}-{'shifted' if self.shifted else 'cached'}" if self.kept else self.name
        outputs = (Slot("y", y.name, self.q_layout, rows=self.queries),)
        return Fragment(name, tuple(inputs), outputs, constant, states, tuple(buffers), tuple(steps))

    def _append(self, source: str, cache: str, local: int) -> list[Step]:
        """Each new token goes to its own line and slot."""
        token = self.position + var("token")
        where = line(token % self.token_lines)
        slot = View(cache, (local,), (1,), token // self.token_lines * local)
        new = View(source, (local,), (1,), var("token") * local)
        lines = Where(rows=where) if self.along == "x" else Where(columns=where)
        return [Loop("token", self.key_rows, (Local("mov", slot, (new,), self.dtype, where=lines),))]

    @property
    def _shifting(self) -> Shifting:
        return Shifting(self.position, other(self.along), self.token_lines, self.slots, self.heads_per_line * self.piece, self.dtype)

    def _product(self, scores: str, q: str, keys: str, head: int, now: Affine, local: int, form: str) -> Local:
        """Partial scores of one query head."""
        heads, piece = self.heads_per_line * self.group, self.piece
        total = View(scores, (self.query_rows, now), (self.slots, 1), head * self.m * self.slots)
        queries = View(q, (self.query_rows, piece), (heads * piece, 1), head * piece)
        held = View(keys, (piece, now), (1, local), head // self.group * piece)
        return run("gemm", total, total, queries, held, form=form, aligned=True)

    def _seen(self) -> tuple[Affine, ...]:
        """Conditions at element (head, query, slot): the token there is one that the query may see."""
        token = var("i2") * self.token_lines + var("row" if self.along == "x" else "column")
        query = self.position + var("i1")
        conditions = [query - token if self.causal else self.position + (self.key_rows - 1) - token]
        if self.window:
            conditions.append(token - query + (self.window - 1))
        if self.first is not None:
            conditions.append(token - self.first)
        return tuple(conditions)

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """Two appends, scores, masked softmax in four vector operations and an exponential, values, and three or four line operations.

        Without a cache whose lines are all full there are two fills more, with a mask one selection, with biases one addition.
        """
        m, new = value_of(self.query_rows, scalars), value_of(self.key_rows, scalars)
        piece, heads = self.piece, self.heads_per_line * self.group
        form = format_of(self.dtype).wide
        now = int((self.position + new).ceil_div(self.token_lines).value(scalars))
        size, rows = heads * m * now, heads * m
        step = machine.step_cycles

        def vector(length: int, operations: float = 1.0) -> int:
            return machine.vector_cycles(form.name, length, operations) + step

        tokens = self.reduction.pattern(self.token_lines)
        local = self.heads_per_line * piece
        append = 2 * new * (machine.vector_cycles(self.dtype, local) + step)
        if self.shifted:
            append = 2 * self._shifting.cycles(machine, int(self.position.value(scalars)))
        if self._ragged:
            append += 2 * (machine.vector_cycles(self.dtype, now * local) + step)
        score = heads * (product_cycles(machine, form.name, m, piece, now, aligned=True) + step)
        value = heads * (product_cycles(machine, form.name, m, now, piece, aligned=True) + step)
        join = self.head_reduction.pattern(self.segment).cycles(form.words(size), machine) + step if self.segment > 1 else 0
        softmax = (
            (2 if self.masked else 1) * vector(size, 2.0)
            + (6 if self.biased else 5) * vector(size)
            + machine.scalar_map_cycles(size, OPERATIONS["exp"])
            + step
        )
        small = 2 * vector(rows) + machine.scalar_map_cycles(rows, OPERATIONS["reciprocal"]) + step
        ends = vector(rows * (piece + 1)) + vector(rows * piece)
        lines = tokens.cycles(form.words(rows), machine) + tokens.cycles(form.words(rows * (piece + 1)), machine) + 2 * step
        return append + score + join + softmax + small + value + ends + lines


def full_attention(
    m: int,
    keys: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    scale: float,
    grid: Grid,
    *,
    along: Direction = "y",
    dtype: str = "f32",
    causal: bool = False,
    window: int = 0,
    masked: bool = False,
    reduction: Reduction = CHAIN,
    unit: int = 1,
    biased: int = 0,
    query_rows: Affine | None = None,
    key_rows: Affine | None = None,
) -> CachedAttention:
    """Attention of m queries over the item's own ``keys``, which are m where it is causal; of fewer where an item's rows are given."""
    return CachedAttention(
        m,
        heads,
        kv_heads,
        head_dim,
        keys,
        scale,
        grid,
        Affine(),
        along,
        dtype,
        causal,
        window,
        None,
        reduction,
        unit,
        fresh=keys,
        masked=masked,
        kept=False,
        biased=biased,
        queries=query_rows,
        keys=key_rows,
    )
