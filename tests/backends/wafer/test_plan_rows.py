"""Graphs whose tokens see later ones: an item is a whole row, padding included."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.wafer.drawn_graphs import BATCH as DRAWN_BATCH
from tests.backends.wafer.drawn_graphs import SEQ as DRAWN_SEQ
from tests.backends.wafer.drawn_graphs import Drawing
from tests.backends.wafer.planned import planned

from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.kernels.tiled_attention import TiledAttention
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.plan.layouts import Lie
from cgptc.backends.wafer.plan.select import Ground, kernel_of
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import AttendWork
from cgptc.ir.builder import Builder
from cgptc.ir.comparison import graph_depth
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import boolean, f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.loc import Frame, Location
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Tanh
from cgptc.ir.ops.embedding import Embedding, Positions
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.norm import LayerNorm
from cgptc.ir.ops.shape import Reshape, Slice, Transpose
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore, Stored

BATCH, SEQ = Symbol("batch", 1, 4), Symbol("seq", 1, 7)
HEADS, SIZE = 2, 4
WIDTH = HEADS * SIZE


def _encoder(*, masked: bool) -> Graph:
    """Ids to vectors, two layers of full attention, and a pooled output."""
    random = np.random.default_rng(3)
    store = MemoryStore({})
    graph = Graph("encoder", store)
    ids = graph.add_input("input_ids", TensorType(i64, (BATCH.dim, SEQ.dim)))
    mask_input = graph.add_input("attention_mask", TensorType(i64, (BATCH.dim, SEQ.dim))) if masked else None
    build = Builder(graph)

    def weight(name: str, *shape: int) -> Value:
        store.tensors[name] = random.standard_normal(shape).astype(np.float32)
        return build(Constant(Stored(name, f32, shape)))

    def linear(name: str, x: Value) -> Value:
        return build(Linear(), x, weight(f"{name}.weight", WIDTH, WIDTH), weight(f"{name}.bias", WIDTH))

    def heads(x: Value) -> Value:
        return build(Transpose((0, 2, 1, 3)), build(Reshape((BATCH.dim, SEQ.dim, HEADS, SIZE)), x))

    mask = build(Cast(boolean), mask_input) if mask_input is not None else None
    places = build(Embedding(), weight("places", 7, WIDTH), build(Positions(BATCH.dim, SEQ.dim)))
    x = build(Add(), build(Embedding(), weight("words", 11, WIDTH), ids), places)
    for number in range(2):
        here = Builder(graph, location=Location((Frame(f"layer.{number}"),)))
        y, _, _ = here.all(Attention(0.5), *(heads(linear(f"{name}{number}", x)) for name in "qkv"), mask)
        joined = here(Reshape((BATCH.dim, SEQ.dim, WIDTH)), here(Transpose((0, 2, 1, 3)), y))
        total = here(Add(), x, linear(f"out{number}", joined))
        x = here(LayerNorm(), total, weight(f"scale{number}", WIDTH), weight(f"shift{number}", WIDTH))
    graph.add_output("last_hidden_state", x)
    first = build(Reshape((BATCH.dim, WIDTH)), build(Slice(1, 0, 1), x))
    graph.add_output("pooled", build(Tanh(), linear("pool", first)))
    return graph


@pytest.mark.parametrize("strategy", ["resident", "pipeline"])
def test_rows_of_every_length_are_exact_in_float64(strategy: str) -> None:
    graph = _encoder(masked=True)
    session = planned(graph, (3, 4), strategy).session
    for time in range(1, 8):
        inputs = {"input_ids": np.arange(2 * time).reshape(2, time) % 11, "attention_mask": np.ones((2, time), np.int64)}
        inputs["attention_mask"][1, time // 2 + 1 :] = 0
        expected, found = evaluate_graph(graph, inputs, wide=True), session.run(inputs)
        real = inputs["attention_mask"].astype(bool)
        for name, kept in (("last_hidden_state", real), ("pooled", slice(None))):
            assert np.isfinite(found[name]).all()
            difference = np.abs(expected[name][kept] - found[name][kept]).max()
            assert difference <= 64 * graph_depth(graph) * 2.0**-53 * np.abs(expected[name]).max(), (name, time)


def test_a_mask_that_is_counted_without_a_cache_leaves_padding_out() -> None:
    here = Drawing(seed=6, masked=True)
    x = here.start(crosses=False)
    assert here.mask is not None
    places = here.build(Embedding(), here.weight(6, WIDTH), here.build(Positions(DRAWN_BATCH.dim, DRAWN_SEQ.dim), here.mask))
    x = here.build(Add(), x, places)
    here.graph.add_output("y", here.attention(x, x, here.mask, causal=True))
    inputs = {"input_ids": np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), "attention_mask": np.array([[1, 1, 1, 1], [0, 0, 1, 1]])}
    expected, found = evaluate_graph(here.graph, inputs, wide=True)["y"], planned(here.graph, (3, 2)).session.run(inputs)["y"]
    real = inputs["attention_mask"].astype(bool)
    assert np.abs(expected[real] - found[real]).max() <= 64 * graph_depth(here.graph) * 2.0**-53 * np.abs(expected).max()


@pytest.mark.parametrize(("queries", "keys", "kernel"), [(32, 32, TiledAttention), (3, 6, CachedAttention), (1, 64, CachedAttention)])
def test_queries_are_dealt_out_or_keys_as_is_cheaper(queries: int, keys: int, kernel: type) -> None:
    work = AttendWork(2, 2, 4, 0.5, None, causal=False, queries=queries, keys=keys)
    ground = Ground(small_machine(8, 8), Grid(8, 8), {"a": Lie("y")}, "f32", 64, whole=True)
    chosen = kernel_of(Task("a", work, ("q", "k", "v"), rows=queries), ground)
    assert isinstance(chosen, kernel)
