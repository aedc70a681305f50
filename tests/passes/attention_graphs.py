"""Small decoder graphs spelled in the ways that models spell them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, Symbol
from cgptc.ir.dtypes import boolean, f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.ops import (
    Add,
    And,
    Cast,
    Concat,
    Cos,
    CumSum,
    DimSize,
    Div,
    Embedding,
    Expand,
    Iota,
    LayerNorm,
    LessEqual,
    Linear,
    MatMul,
    Maximum,
    Minimum,
    Mul,
    Reshape,
    Select,
    Sin,
    Slice,
    Softmax,
    Split,
    Sub,
    Transpose,
)
from cgptc.ir.types import TensorType

WIDTH, HEADS, VOCABULARY, CONTEXT = 8, 2, 11, 12
LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Spelling:
    """How a decoder is written."""

    mask: str = "compare"  # or "buffer", "additive"
    padding: str = "none"  # or "additive", "boolean"
    positions: str = "iota"  # or "mask", "table", "offset-table", "counted", "longer-iota", "float-iota"
    bias: str = "none"  # or "distance", "keys", "buckets", "from-the-end", "places", "pairs"
    window: int | None = None
    groups: int = 1
    flat_tokens: bool = False
    layers: int = 1

    def __str__(self) -> str:
        """What differs from the first spelling: seeded bugs name tests by it."""
        changed = [f"{field.name}={value}" for field in fields(self) if (value := getattr(self, field.name)) != field.default]
        return " ".join(changed) or "plain"


def decoder(spelling: Spelling, seed: int = 0) -> Graph:
    """A decoder of ``spelling.layers`` attention blocks over ``input_ids`` and, with padding, ``attention_mask``."""
    return _Decoder(spelling, seed).graph


class _Decoder:
    def __init__(self, spelling: Spelling, seed: int) -> None:
        self.spelling = spelling
        self.random = np.random.default_rng(seed)
        self.graph = Graph("decoder")
        self.build = Builder(self.graph)
        self.batch, self.seq = Symbol("batch", 1, 4).dim, Symbol("seq", 1, CONTEXT).dim
        self.ids = self.graph.add_input("input_ids", TensorType(i64, (self.batch, self.seq)))
        self.padding: Value | None = None
        if spelling.padding != "none" or spelling.positions == "mask":
            self.padding = self.graph.add_input("attention_mask", TensorType(i64, (self.batch, self.seq)))
        hidden = self._embed()
        for _ in range(spelling.layers):
            hidden = self.build(Add(), hidden, self._attend(self._norm(hidden)))
        self.graph.add_output("logits", self.build(Linear(), self._norm(hidden), self._weight(WIDTH, VOCABULARY)))

    def _weight(self, *shape: int) -> Value:
        return self.build.constant(self.random.standard_normal(shape).astype(np.float32))

    def _norm(self, value: Value) -> Value:
        return self.build(LayerNorm(1e-5), value, self._weight(WIDTH), self._weight(WIDTH))

    def _embed(self) -> Value:
        tokens = self.build(Embedding(), self._weight(VOCABULARY, WIDTH), self.ids)
        table = self._weight(CONTEXT, WIDTH)
        if self.spelling.positions == "mask":
            assert self.padding is not None
            count = self.build(Sub(), self.build(CumSum(1), self.padding), self.build.constant(1, i64))
            return self.build(Add(), tokens, self.build(Embedding(), table, self.build(Maximum(), count, self.build.constant(0, i64))))
        return self.build(Add(), tokens, self._row_of_each_token(table))

    def _row_of_each_token(self, table: Value) -> Value:
        """The table's rows by position, in one of the ways that models write it."""
        build, seq = self.build, self.seq
        match self.spelling.positions:
            case "table":
                return build(Slice(0, 0, seq), table)
            case "offset-table":
                return build(Slice(1, 2, seq + 2), build(Reshape((1, CONTEXT + 2, WIDTH)), self._weight(CONTEXT + 2, WIDTH)))
            case "counted":
                ones = build(Expand((self.batch, seq)), build.constant(1, i64))
                return build(Embedding(), table, build(Sub(), build(CumSum(1), ones), build.constant(1, i64)))
            case "longer-iota":
                return build(Embedding(), self._weight(CONTEXT + 1, WIDTH), build(Slice(0, 1, seq + 1), build(Iota(seq + 1))))
            case "float-iota":
                angles = build(Mul(), build(Reshape((seq, 1)), build(Iota(seq, f32))), self._weight(1, WIDTH // 2))
                return build(Concat(1), build(Sin(), angles), build(Cos(), angles))
            case _:
                return build(Embedding(), table, build(Reshape((1, seq)), build(Iota(seq))))

    def _linear(self, value: Value, width: int) -> Value:
        weight = self.build(Transpose((1, 0)), self._weight(width, WIDTH))
        if not self.spelling.flat_tokens:
            return self.build(Add(), self.build(MatMul(), value, weight), self._weight(width))
        flat = self.build(Reshape((self.batch * self.seq, WIDTH)), value)
        product = self.build(Linear(), flat, weight, self._weight(width))
        return self.build(Reshape((self.batch, self.seq, width)), product)

    def _heads(self, value: Value, heads: int) -> Value:
        split = self.build(Reshape((self.batch, self.seq, heads, WIDTH // HEADS)), value)
        return self.build(Transpose((0, 2, 1, 3)), split)

    def _attend(self, hidden: Value) -> Value:
        build = self.build
        kv_heads = HEADS // self.spelling.groups
        kv_width = kv_heads * (WIDTH // HEADS)
        sizes: tuple[Dim, ...] = (WIDTH, kv_width, kv_width)
        parts = build.all(Split(2, sizes), self._linear(hidden, WIDTH + 2 * kv_width))
        query, key, value = (self._heads(part, heads) for part, heads in zip(parts, (HEADS, kv_heads, kv_heads), strict=True))
        if self.spelling.groups > 1:
            key, value = self._repeat(key, kv_heads), self._repeat(value, kv_heads)
        scores = build(MatMul(), query, build(Transpose((0, 1, 3, 2)), key))
        scores = build(Div(), scores, build.constant(2.0))
        scores = self._masked(self._biased(scores))
        mixed = build(MatMul(), build(Softmax(3), scores), value)
        return self._linear(build(Reshape((self.batch, self.seq, WIDTH)), build(Transpose((0, 2, 1, 3)), mixed)), WIDTH)

    def _repeat(self, value: Value, kv_heads: int) -> Value:
        features, groups = WIDTH // HEADS, self.spelling.groups
        one = self.build(Reshape((self.batch, kv_heads, 1, self.seq, features)), value)
        wide = self.build(Expand((self.batch, kv_heads, groups, self.seq, features)), one)
        return self.build(Reshape((self.batch, HEADS, self.seq, features)), wide)

    def _biased(self, scores: Value) -> Value:
        build, seq = self.build, self.seq
        rows = build(Reshape((seq, 1)), build(Iota(seq)))
        columns = build(Reshape((1, seq)), build(Iota(seq)))
        slopes = build.constant(np.array([0.5, 0.125], np.float32).reshape(HEADS, 1, 1))
        match self.spelling.bias:
            case "distance":
                return build(Add(), scores, build(Mul(), slopes, build(Cast(f32), build(Sub(), columns, rows))))
            case "keys":
                return build(Add(), scores, build(Mul(), slopes, build(Cast(f32), columns)))
            case "from-the-end":
                last = build(Sub(), build(DimSize(seq)), build.constant(1, i64))
                return build(Add(), scores, build(Mul(), slopes, build(Cast(f32), build(Sub(), columns, last))))
            case "buckets":
                ages = build(Minimum(), build(Maximum(), build(Sub(), rows, columns), build.constant(0, i64)), build.constant(3, i64))
                return build(Add(), scores, build(Transpose((2, 0, 1)), build(Embedding(), self._weight(4, HEADS), ages)))
            case "places":
                places = build(Embedding(), self._weight(CONTEXT, HEADS), build(Iota(seq)))
                return build(Add(), scores, build(Reshape((HEADS, 1, seq)), build(Transpose((1, 0)), places)))
            case "pairs":
                whole = self._weight(1, HEADS, CONTEXT, CONTEXT)
                return build(Add(), scores, build(Slice(3, 0, seq), build(Slice(2, 0, seq), whole)))
            case _:
                return scores

    def _masked(self, scores: Value) -> Value:
        build, window = self.build, self.spelling.window
        if self.spelling.mask == "buffer":
            lower = np.tril(np.ones((1, 1, CONTEXT, CONTEXT), np.bool_))
            whole = build.constant(lower if window is None else lower ^ np.tril(lower, -window))
            shown = build(Slice(3, 0, self.seq), build(Slice(2, 0, self.seq), whole))
        else:
            rows = build(Reshape((self.seq, 1)), build(Iota(self.seq)))
            columns = build(Reshape((1, self.seq)), build(Iota(self.seq)))
            shown = build(LessEqual(), columns, rows)
            if window is not None:
                last = build(Sub(), rows, build.constant(window - 1, i64))
                shown = build(And(), shown, build(LessEqual(), last, columns))
        if self.spelling.padding == "boolean":
            assert self.padding is not None
            real = build(Cast(boolean), build(Reshape((self.batch, 1, 1, self.seq)), self.padding))
            shown = build(And(), real, shown)
        if self.spelling.mask == "additive":
            scores = build(Add(), scores, build(Select(), shown, build.constant(0.0), build.constant(LOWEST)))
        else:
            scores = build(Select(), shown, scores, build.constant(LOWEST))
        if self.spelling.padding == "additive":
            assert self.padding is not None
            real = build(Cast(f32), build(Reshape((self.batch, 1, 1, self.seq)), self.padding))
            scores = build(Add(), scores, build(Mul(), build(Sub(), build.constant(1.0), real), build.constant(LOWEST)))
        return scores


def token_inputs(graph: Graph, batch: int, length: int, seed: int = 1) -> dict[str, Any]:
    """Random ids and a mask of ones for a graph without a cache."""
    ids = np.random.default_rng(seed).integers(0, VOCABULARY, (batch, length))
    return {value.name: ids if value.name == "input_ids" else np.ones((batch, length), np.int64) for value in graph.inputs}
