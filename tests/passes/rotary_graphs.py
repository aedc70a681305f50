"""Rotary positions spelled in the ways that models spell them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, Symbol
from cgptc.ir.dtypes import f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.op import Op
from cgptc.ir.ops import Add, Cast, Concat, Cos, Embedding, Expand, Mul, Neg, Reshape, Sin, Slice, Split, Sub, Tanh, Transpose
from cgptc.ir.types import TensorType

HEADS, CONTEXT = 3, 16


@dataclass(frozen=True)
class Spelling:
    """How a rotation is written. ``form``: of halves "rotate" or "parts", of pairs "rotate-pairs", "pairs" or "stacked"; ``table``: each
    angle "once" or "twice", "whole" in one tensor with the heads' axis missing, or read from a "stored" one; ``tokens_first``: heads lie
    behind the positions; ``reverse``: it turns the other way; ``twice``: a second tensor is rotated too; ``heads`` may be one.
    """

    form: str = "rotate"
    table: str = "once"
    width: int = 6
    rest: int = 0
    tokens_first: bool = False
    split: bool = False
    reverse: bool = False
    packed: bool = False
    twice: bool = False
    heads: int = HEADS

    @property
    def interleaved(self) -> bool:
        return self.form in ("rotate-pairs", "pairs", "stacked")

    @property
    def needs_whole_table(self) -> bool:
        return self.form in ("rotate", "rotate-pairs")


def rotation(spelling: Spelling) -> Graph:
    """A graph over ``x`` and ``positions`` whose output is ``x`` rotated."""
    return _Rotation(spelling).graph


class _Rotation:
    def __init__(self, spelling: Spelling) -> None:
        self.spelling = spelling
        self.graph = Graph("rotation")
        self.build = Builder(self.graph)
        self.batch, self.seq = Symbol("batch", 1, 4).dim, Symbol("seq", 1, CONTEXT).dim
        size = spelling.width + spelling.rest
        self.lead: tuple[Dim, Dim, Dim] = (self.batch, spelling.heads, self.seq)
        if spelling.tokens_first:
            self.lead = (self.batch, self.seq, spelling.heads)
        x = self.graph.add_input("x", TensorType(f32, (*self.lead, 2 * size if spelling.packed else size)))
        self.positions = self.graph.add_input("positions", TensorType(i64, (self.batch, self.seq)))
        if spelling.packed:
            x = self.build.all(Split(3, (size, size)), x)[1]
        rest = None
        if spelling.rest:
            x, rest = self._cut(x, spelling.width, size)
        y = self._rotated(x)
        self.graph.add_output("y", y if rest is None else self.build(Concat(3), y, rest))
        if spelling.twice:
            self.graph.add_output("z", self._rotated(self.build(Tanh(), x)))

    def _cut(self, x: Value, middle: int, size: int) -> tuple[Value, Value]:
        if self.spelling.split:
            first, second = self.build.all(Split(3, (middle, size - middle)), x)
            return first, second
        return self.build(Slice(3, 0, middle), x), self.build(Slice(3, middle, size), x)

    def _table(self, function: Op) -> Value:
        """Cosines or sines, broadcasting against the rotated tensor: over ``width`` columns, or half as many."""
        build, pairs = self.build, self.spelling.width // 2
        frequencies = build.constant(10.0 ** -np.linspace(0, 1, pairs, dtype=np.float32))
        twice = self.spelling.needs_whole_table or self.spelling.table == "twice"
        if self.spelling.table == "stored":
            angles = np.outer(np.arange(CONTEXT), 10.0 ** -np.linspace(0, 1, pairs))
            values = (np.cos if isinstance(function, Cos) else np.sin)(angles).astype(np.float32)
            table = build(Embedding(), build.constant(values), self.positions)
            table = self._doubled(table) if twice else table
        else:
            places = build(Cast(f32), build(Reshape((self.batch, self.seq, 1)), self.positions))
            angle = build(Mul(), places, frequencies)
            table = build(function, self._doubled(angle) if twice and self.spelling.table != "twice" else angle)
            if self.spelling.table == "twice" and twice:
                table = self._doubled(table)
        if twice and not self.spelling.needs_whole_table:
            table = build(Slice(2, 0, 2 * pairs, 2) if self.spelling.interleaved else Slice(2, 0, pairs), table)
        width = table.type.shape[-1]
        shape = (self.batch, self.seq, 1, width) if self.spelling.tokens_first else (self.batch, 1, self.seq, width)
        return build(Reshape(shape), table)

    def _doubled(self, table: Value) -> Value:
        """Each column twice: next to itself for pairs, half a table further for halves."""
        if not self.spelling.interleaved:
            return self.build(Concat(2), table, table)
        pairs = self.spelling.width // 2
        wide = self.build(Expand((self.batch, self.seq, pairs, 2)), self.build(Reshape((self.batch, self.seq, pairs, 1)), table))
        return self.build(Reshape((self.batch, self.seq, 2 * pairs)), wide)

    def _halves(self, x: Value) -> tuple[Value, Value]:
        width = self.spelling.width
        match self.spelling.form:
            case "rotate-pairs" | "pairs":
                return self.build(Slice(3, 0, width, 2), x), self.build(Slice(3, 1, width, 2), x)
            case "stacked":
                pairs = self.build(Reshape((*self.lead, width // 2, 2)), x)
                first, second = self.build(Slice(4, 0, 1), pairs), self.build(Slice(4, 1, 2), pairs)
                shape = (*self.lead, width // 2)
                return self.build(Reshape(shape), first), self.build(Reshape(shape), second)
            case _:
                return self._cut(x, width // 2, width)

    def _stacked(self, first: Value, second: Value) -> Value:
        shape = (*self.lead, self.spelling.width // 2, 1)
        columns = self.build(Concat(4), self.build(Reshape(shape), first), self.build(Reshape(shape), second))
        return self.build(Reshape((*self.lead, self.spelling.width)), columns)

    def _rotated(self, x: Value) -> Value:
        build = self.build
        cos, sin = self._table(Cos()), self._table(Sin())
        first, second = self._halves(x)
        join = self._stacked if self.spelling.interleaved else lambda one, two: build(Concat(3), one, two)
        if self.spelling.needs_whole_table:
            turned = join(second, build(Neg(), first)) if self.spelling.reverse else join(build(Neg(), second), first)
            return build(Add(), build(Mul(), x, cos), build(Mul(), turned, sin))
        minus, plus = (Add(), Sub()) if self.spelling.reverse else (Sub(), Add())
        return join(
            build(minus, build(Mul(), first, cos), build(Mul(), second, sin)),
            build(plus, build(Mul(), second, cos), build(Mul(), first, sin)),
        )


def with_transposed_heads(graph: Graph) -> Graph:
    """The graph with its output turned, as attention takes it."""
    y = graph.output("y")
    graph.set_outputs([("y", Builder(graph)(Transpose((0, 2, 1, 3)), y))])
    return graph
