"""A small GPT in the IR, built by hand: rotary or learned positions, grouped heads, a window, a tied head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, Symbol
from cgptc.ir.dtypes import boolean, f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.loc import Frame, Location
from cgptc.ir.ops.attention import Attention, Rotary
from cgptc.ir.ops.binary import Add, Mul
from cgptc.ir.ops.elementwise import Cast, Cos, Gelu, Sin
from cgptc.ir.ops.embedding import Embedding, Positions
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.norm import LayerNorm
from cgptc.ir.ops.shape import Reshape, Transpose
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import Transposed
from cgptc.ir.weights import MemoryStore

BATCH, SEQ, PAST = Symbol("batch", 1, 8), Symbol("seq", 1, 32), Symbol("past", 0, 32)


@dataclass(frozen=True)
class TinyGpt:
    """Sizes and switches of the model; ``graph`` builds it."""

    layers: int = 2
    heads: int = 4
    key_heads: int = 2
    head_width: int = 8
    vocabulary: int = 23
    window: int | None = None
    rotary: bool = False
    tied: bool = True
    cached: bool = True

    @property
    def width(self) -> int:
        return self.heads * self.head_width

    def graph(self) -> Graph:
        rng = np.random.default_rng(7)
        store = MemoryStore({})
        graph = Graph("tiny_gpt", store)
        past: Dim = PAST.dim if self.cached else 0
        total = past + SEQ.dim
        ids = graph.add_input("input_ids", TensorType(i64, (BATCH.dim, SEQ.dim)))
        mask_input = graph.add_input("attention_mask", TensorType(i64, (BATCH.dim, total)))
        pasts = [
            tuple(graph.add_input(f"past_key_values.{i}.{kind}", self._cache_type()) for kind in ("key", "value"))
            for i in range(self.layers if self.cached else 0)
        ]
        build = Builder(graph)

        def weight(name: str, *shape: int) -> Value:
            scale = 1.0 if len(shape) == 1 else shape[-2] ** -0.5
            return build.weight(store.add(name, (rng.standard_normal(shape) * scale).astype(np.float32)))

        def linear(x: Value, name: str, wide: int, narrow: int) -> Value:
            stored = store.add(f"{name}.weight", (rng.standard_normal((narrow, wide)) * wide**-0.5).astype(np.float32))
            return build(Linear(), x, build.weight(Transposed(stored, (1, 0))), weight(f"{name}.bias", narrow))

        mask = build(Cast(boolean), mask_input)
        positions = build(Positions(BATCH.dim, SEQ.dim, past), mask)
        table = store.add("wte.weight", rng.standard_normal((self.vocabulary, self.width)).astype(np.float32))
        build.location = Location((Frame("transformer.wte", "gpt.py", 3),))
        hidden = build(Embedding(), build.weight(table), ids)
        angles: tuple[Value, Value] | None = None
        if self.rotary:
            angles = self._angles(build, positions)
        else:
            hidden = build(Add(), hidden, build(Embedding(), weight("wpe.weight", 64, self.width), positions))
        for i in range(self.layers):
            build.location = Location((Frame(f"transformer.h.{i}.attn", "gpt.py", 10),))
            normed = build(LayerNorm(), hidden, weight(f"h.{i}.ln_1.weight", self.width), weight(f"h.{i}.ln_1.bias", self.width))
            q, k, v = (
                self._heads(build, linear(normed, f"h.{i}.{name}", self.width, count * self.head_width), count)
                for name, count in (("q", self.heads), ("k", self.key_heads), ("v", self.key_heads))
            )
            if angles is not None:
                q, k = build(Rotary(), q, *angles), build(Rotary(), k, *angles)
            cache = pasts[i] if self.cached else (None, None)
            y, present_k, present_v = build.all(Attention(self.head_width**-0.5, True, self.window), q, k, v, mask, *cache)
            if self.cached:
                graph.add_output(f"present.{i}.key", present_k)
                graph.add_output(f"present.{i}.value", present_v)
            merged = build(Reshape((BATCH.dim, SEQ.dim, self.width)), build(Transpose((0, 2, 1, 3)), y))
            hidden = build(Add(), hidden, linear(merged, f"h.{i}.proj", self.width, self.width))
            build.location = Location((Frame(f"transformer.h.{i}.mlp", "gpt.py", 20),))
            normed = build(LayerNorm(), hidden, weight(f"h.{i}.ln_2.weight", self.width), weight(f"h.{i}.ln_2.bias", self.width))
            inner = build(Gelu(), linear(normed, f"h.{i}.up", self.width, 4 * self.width))
            hidden = build(Add(), hidden, linear(inner, f"h.{i}.down", 4 * self.width, self.width))
        build.location = Location((Frame("lm_head", "gpt.py", 30),))
        head = table if self.tied else store.add("lm_head.weight", rng.standard_normal((self.vocabulary, self.width)).astype(np.float32))
        logits = build(Linear(), hidden, build.weight(Transposed(head, (1, 0))))
        graph.set_outputs([("logits", logits), *graph.outputs])
        return graph

    def _cache_type(self) -> TensorType:
        return TensorType(f32, (BATCH.dim, self.key_heads, PAST.dim, self.head_width))

    def _heads(self, build: Builder, x: Value, count: int) -> Value:
        return build(Transpose((0, 2, 1, 3)), build(Reshape((BATCH.dim, SEQ.dim, count, self.head_width)), x))

    def _angles(self, build: Builder, positions: Value) -> tuple[Value, Value]:
        half = self.head_width // 2
        frequencies = build.constant((10000.0 ** (-np.arange(half) / half)).astype(np.float32))
        column = build(Reshape((BATCH.dim, SEQ.dim, 1)), build(Cast(f32), positions))
        angles = build(Mul(), column, frequencies)
        return build(Cos(), angles), build(Sin(), angles)
