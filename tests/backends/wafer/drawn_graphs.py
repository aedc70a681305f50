"""Graphs of forms that the wafer takes, put together at random: a value of features per token goes from one form to the next."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, Symbol
from cgptc.ir.dtypes import boolean, f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.loc import Frame, Location
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import Add, Div, LessEqual, Mul, Select, Sub
from cgptc.ir.ops.constant import Constant, DimSize, Iota
from cgptc.ir.ops.elementwise import Cast, Gelu, Relu, Sigmoid, Silu, Tanh
from cgptc.ir.ops.embedding import Embedding
from cgptc.ir.ops.indexing import Gather
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.reduction import LogSoftmax, ReduceMax, ReduceMean, ReduceSum, Softmax
from cgptc.ir.ops.shape import Concat, Expand, Reshape, Slice, Split, Transpose
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore, Stored

BATCH, SEQ, SOURCE = Symbol("batch", 1, 4), Symbol("seq", 1, 6), Symbol("source", 1, 5)
HEADS, SIZE = 2, 4
WIDTH = HEADS * SIZE


@dataclass
class Drawing:
    """A graph being drawn over ids ``[batch, seq]`` and vectors ``memory [batch, source, width]``, with weights from a seed."""

    seed: int = 0
    masked: bool = False
    random: np.random.Generator = field(init=False)
    graph: Graph = field(init=False)
    build: Builder = field(init=False)
    memory: Value | None = None
    mask: Value | None = None

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)
        self.graph = Graph("drawn", MemoryStore({}))
        self.build = Builder(self.graph)

    def start(self, *, crosses: bool) -> Value:
        """The first value."""
        ids = self.graph.add_input("input_ids", TensorType(i64, (BATCH.dim, SEQ.dim)))
        if self.masked:
            given = self.graph.add_input("attention_mask", TensorType(i64, (BATCH.dim, SEQ.dim)))
            self.mask = self.build(Cast(boolean), given)
        if crosses:
            self.memory = self.graph.add_input("memory", TensorType(f32, (BATCH.dim, SOURCE.dim, WIDTH)))
        return self.build(Embedding(), self.weight(11, WIDTH), ids)

    def weight(self, *shape: int) -> Value:
        store = self.graph.store
        assert isinstance(store, MemoryStore)
        name = f"w{len(store.tensors)}"
        store.tensors[name] = (self.random.standard_normal(shape) / 2).astype(np.float32)
        return self.build(Constant(Stored(name, f32, shape)))

    def linear(self, x: Value, width: int = WIDTH) -> Value:
        return self.build(Linear(), x, self.weight(int(str(x.type.shape[-1])), width), self.weight(width))

    def layer(self, number: int) -> None:
        """What comes next belongs to that layer."""
        self.build = Builder(self.graph, location=Location((Frame(f"layer.{number}"),)))

    def heads(self, x: Value, seq: Dim) -> Value:
        return self.build(Transpose((0, 2, 1, 3)), self.build(Reshape((BATCH.dim, seq, HEADS, SIZE)), x))

    def attention(self, x: Value, source: Value, mask: Value | None, *, causal: bool, normed: bool = False) -> Value:
        seq = source.type.shape[1]
        q, k, v = self.heads(self.linear(x), SEQ.dim), self.heads(self.linear(source), seq), self.heads(self.linear(source), seq)
        if normed:
            q, k = (self.build(RmsNorm(1e-5), one, self.weight(SIZE)) for one in (q, k))
        y, _, _ = self.build.all(Attention(0.5, causal=causal), q, k, v, mask)
        return self.linear(self.build(Reshape((BATCH.dim, SEQ.dim, WIDTH)), self.build(Transpose((0, 2, 1, 3)), y)))


Form = Callable[[Drawing, Value], Value]


def _swiglu(here: Drawing, x: Value) -> Value:
    return here.linear(here.build(Mul(), here.build(Silu(), here.linear(x, 12)), here.linear(x, 12)))


def _cut_and_joined(here: Drawing, x: Value) -> Value:
    parts = here.build.all(Split(2, (3, WIDTH - 3)), here.build(Tanh(), x))
    return here.build(Concat(2), parts[1], here.build(Slice(2, 0, 3, 1), here.build(Sigmoid(), x)))


def _fused(here: Drawing, x: Value) -> Value:
    left, right = here.build.all(Split(2, (WIDTH, WIDTH)), here.linear(x, 2 * WIDTH))
    return here.build(Sub(), left, right)


def _of_one_head(here: Drawing, x: Value) -> Value:
    """A layer and a softmax on features behind the axis of a single head."""
    rows = here.build(Reshape((BATCH.dim, 1, SEQ.dim, WIDTH)), x)
    return here.build(Reshape((BATCH.dim, SEQ.dim, WIDTH)), here.build(Softmax(3), here.linear(rows)))


def _cross(here: Drawing, x: Value) -> Value:
    assert here.memory is not None
    return here.build(Add(), x, here.attention(x, here.memory, None, causal=False))


def _masked_by_numbers(here: Drawing, x: Value) -> Value:
    """The padding mask as what is added to scores."""
    mask = None
    if here.mask is not None:
        low = here.build.constant(float("-inf"), f32)
        rows = here.build(Select(), here.mask, here.build.constant(0.0, f32), low)
        mask = here.build(Expand((BATCH.dim, HEADS, SEQ.dim, SEQ.dim)), here.build(Reshape((BATCH.dim, 1, 1, SEQ.dim)), rows))
    return here.build(Add(), x, here.attention(x, x, mask, causal=False))


def _masked_by_positions(here: Drawing, x: Value) -> Value:
    """A causal mask that is worked out from positions."""
    places = here.build(Iota(SEQ.dim, i64))
    queries, keys = (here.build(Reshape(shape), places) for shape in ((1, 1, SEQ.dim, 1), (1, 1, 1, SEQ.dim)))
    seen = here.build(LessEqual(), keys, queries)
    mask = here.build(Select(), seen, here.build.constant(0.0, f32), here.build.constant(-1e9, f32))
    return here.build(Add(), x, here.attention(x, x, mask, causal=False))


FORMS: dict[str, Form] = {
    "linear": lambda here, x: here.linear(x),
    "residual": lambda here, x: here.build(Add(), x, here.linear(here.build(Gelu("tanh"), here.linear(x, 12)))),
    "gate": _swiglu,
    "layer norm": lambda here, x: here.build(LayerNorm(1e-5), x, here.weight(WIDTH), here.weight(WIDTH)),
    "rms norm": lambda here, x: here.build(RmsNorm(1e-5), x, here.weight(WIDTH)),
    "relu": lambda here, x: here.build(Relu(), x),
    "a number that f32 rounds": lambda here, x: here.build(Mul(), x, here.build.constant(8**-0.5, f32)),
    "softmax": lambda here, x: here.build(Softmax(2), x),
    "log softmax": lambda here, x: here.build(LogSoftmax(2), x),
    "cut and joined": _cut_and_joined,
    "features of one head": _of_one_head,
    "two parts of a product": _fused,
    "features by number": lambda here, x: here.build(Gather(2), x, here.build.constant(np.arange(WIDTH)[::-1].copy())),
    "causal attention": lambda here, x: here.build(Add(), x, here.attention(x, x, here.mask, causal=True)),
    "full attention": lambda here, x: here.build(Add(), x, here.attention(x, x, here.mask, causal=False)),
    "attention of normed heads": lambda here, x: here.build(Add(), x, here.attention(x, x, here.mask, causal=True, normed=True)),
    "cross attention": _cross,
    "attention masked by numbers": _masked_by_numbers,
    "attention masked by positions": _masked_by_positions,
}

ENDS: dict[str, Form] = {
    "every token": lambda here, x: x,
    "first token": lambda here, x: here.linear(here.build(Reshape((BATCH.dim, WIDTH)), here.build(Slice(1, 0, 1), x)), 3),
    "last token": lambda here, x: here.linear(here.build(Reshape((BATCH.dim, WIDTH)), here.build(Slice(1, SEQ.dim - 1, SEQ.dim), x)), 3),
    "mean": lambda here, x: here.linear(here.build(ReduceMean((1,), False), x), 3),
    "sum over count": lambda here, x: here.build(
        Div(), here.build(ReduceSum((1,), False), x), here.build(Cast(f32), here.build(DimSize(SEQ.dim)))
    ),
    "sum": lambda here, x: here.linear(here.build(ReduceSum((1,), False), x), 3),
    "max": lambda here, x: here.build(Softmax(1), here.linear(here.build(ReduceMax((1,), False), x), 3)),
    "a number of each token": lambda here, x: here.build(Reshape((BATCH.dim, SEQ.dim)), here.linear(x, 1)),
    "time first": lambda here, x: here.build(Transpose((1, 0, 2)), x),
}


def drawn_graph(forms: list[str], end: str, *, masked: bool, seed: int) -> Graph:
    """The graph of these forms, one layer each."""
    here = Drawing(seed, masked)
    x = here.start(crosses="cross attention" in forms)
    for number, name in enumerate(forms):
        here.layer(number)
        x = FORMS[name](here, x)
    here.build = Builder(here.graph)
    here.graph.add_output("y", ENDS[end](here, x))
    return here.graph
