"""For every pass, graphs that it changes: its own patterns and spellings, in surroundings that are drawn."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st
from tests.backends.onnx.tiny_gpt import TinyGpt
from tests.passes import attention_graphs, rotary_graphs
from tests.passes.test_fuse_attention import FUSION
from tests.passes.test_merge_views import multihead
from tests.passes.test_pipeline import Prices, model
from tests.passes.test_sparsity import gated

import cgptc.passes
from cgptc.backends.onnx.cost import OnnxCostModel
from cgptc.ir import ops
from cgptc.ir.builder import Builder
from cgptc.ir.cost import CostModel
from cgptc.ir.dims import Dim, Symbol
from cgptc.ir.dtypes import f16, f32
from cgptc.ir.graph import Graph, Value
from cgptc.ir.op import OPS, Op, is_composite
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore, Weight, dense
from cgptc.passes.manager import PASSES, Pass, PassContext, Pipeline
from cgptc.passes.rewrite import Rewrite, apply_rewrites
from cgptc.testing.graph_strategies import add_outputs, draw_node, graphs
from cgptc.testing.pattern_graphs import instances
from cgptc.testing.pool import Pool, start
from cgptc.testing.sample_register import STABLE

INSTANCES = 6
"""Graphs that are made of each rewrite's pattern."""


@dataclass(frozen=True)
class Case:
    """A graph, the pass with its options, and what else it is told."""

    graph: Graph
    pass_: Pass
    masks: Mapping[str, Weight] = field(default_factory=dict)
    cost_model: CostModel | None = None

    def context(self) -> PassContext:
        primitive = frozenset(op for op in OPS.values() if not is_composite(op))
        return PassContext(legal=primitive, masks=self.masks, cost_model=self.cost_model)


def pass_of(text: str) -> Pass:
    (found,) = Pipeline.parse(text).passes
    return found


# Passes that are lists of patterns


def rewrites_by_pass() -> dict[str, tuple[Rewrite, ...]]:
    """The rewrites of each pass that has some."""
    found: dict[str, tuple[Rewrite, ...]] = {}
    for module in pkgutil.iter_modules(cgptc.passes.__path__, "cgptc.passes."):
        loaded = importlib.import_module(module.name)
        for name, cls in PASSES.items():
            if cls.__module__ == module.name and getattr(loaded, "REWRITES", ()):
                found[name] = loaded.REWRITES
    return found


def firing(rule: Rewrite) -> tuple[tuple[Graph, Graph], ...]:
    """Graphs of the rule's pattern that it changes, before and after."""
    pairs: list[tuple[Graph, Graph]] = []
    for graph in instances(rule, limit=400):
        after = graph.clone()
        if apply_rewrites(after, [rule], PassContext()):
            pairs.append((graph, after))
            if len(pairs) == INSTANCES:
                break
    return tuple(pairs)


known_firing = lru_cache(firing)
"""The same, worked out once: not for a test that is to notice when the rule changes."""


@st.composite
def pattern_cases(draw: st.DrawFn, name: str, rules: tuple[Rewrite, ...]) -> Case:
    """A pattern of the pass between drawn nodes, some of which read what lies inside of it."""
    instance, _ = draw(st.sampled_from(known_firing(draw(st.sampled_from(rules)))))
    store = MemoryStore({})
    graph = Graph(store=store)
    pool = start(draw, Builder(graph), store, np.random.default_rng(draw(st.integers(0, 2**16 - 1))), "normal", (f32,))
    stable = sorted(STABLE - {ops.Constant}, key=lambda cls: cls.name)
    for _ in range(draw(st.integers(0, 2))):
        draw_node(pool, draw(st.sampled_from(stable)))
    placed = _place(pool, instance)
    pool.live.append(placed[instance.output("y")])
    if draw(st.integers(0, 7)) == 7:
        pool.live += [value for value in placed.values() if value.type.dtype is f32]
    for _ in range(draw(st.integers(0, 3))):
        draw_node(pool, draw(st.sampled_from(stable)))
    add_outputs(pool)
    if not placed[instance.output("y")].use_count:
        graph.add_output("y", placed[instance.output("y")])
    return Case(graph, PASSES[name]())


def _place(pool: Pool, instance: Graph) -> dict[Value, Value]:
    """Copy a graph into the pool; what were its inputs are live values or new inputs."""
    placed: dict[Value, Value] = {}
    for value in instance.inputs:
        placed[value] = pool.like(value.type) if value.type.dtype is f32 else pool.new_input(value.type)
    for node in instance.nodes:
        results = pool.build.all(node.op, *(placed[operand] if operand is not None else None for operand in node.operands))
        placed.update(zip(node.results, results, strict=True))
    return placed


# Passes that walk


spellings = st.builds(
    attention_graphs.Spelling,
    mask=st.sampled_from(["compare", "buffer", "additive"]),
    padding=st.sampled_from(["none", "additive", "boolean"]),
    window=st.sampled_from([None, 3]),
    groups=st.sampled_from([1, 2]),
    flat_tokens=st.booleans(),
)


@st.composite
def decoders(draw: st.DrawFn, pass_: str, before: str = "") -> Case:
    """A decoder in a drawn spelling, after passes that prepare it."""
    graph = attention_graphs.decoder(draw(spellings), draw(st.integers(0, 99)))
    return Case(Pipeline.parse(before).run(graph), pass_of(pass_))


rotations = st.builds(
    rotary_graphs.Spelling,
    form=st.sampled_from(["rotate", "parts", "rotate-pairs", "pairs", "stacked"]),
    table=st.sampled_from(["once", "twice", "stored"]),
    width=st.sampled_from([2, 4, 6]),
    rest=st.sampled_from([0, 1, 4]),
    tokens_first=st.booleans(),
    split=st.booleans(),
    reverse=st.booleans(),
    packed=st.booleans(),
    twice=st.booleans(),
)


@st.composite
def repeated_nodes(draw: st.DrawFn) -> Case:
    """A node of a drawn graph stands twice."""
    graph = draw(graphs(stable=True))
    node = draw(st.sampled_from(list(graph.nodes)))
    for number, value in enumerate(Builder(graph).all(node.op, *node.operands)):
        graph.add_output(f"again{number}", value)
    return Case(graph, pass_of("cse"))


@st.composite
def unused_nodes(draw: st.DrawFn) -> Case:
    """A drawn graph computes one thing more than it gives."""
    graph = draw(graphs(stable=True))
    node = draw(st.sampled_from(list(graph.nodes)))
    Builder(graph).all(node.op, *node.operands)
    return Case(graph, pass_of("dead-code"))


ROWS: tuple[Op, ...] = (ops.Neg(), ops.Tanh(), ops.Gelu("none"), ops.RmsNorm(1e-5), ops.LayerNorm(1e-5), ops.Add(), ops.Mul(), ops.Linear())
"""What does to every row the same."""


def _row_wise(draw: st.DrawFn, build: Builder, value: Value, first: Value) -> Value:
    op = draw(st.sampled_from(ROWS))
    width = value.type.shape[-1]
    assert isinstance(width, int)
    random = np.random.default_rng(draw(st.integers(0, 99)))
    match op:
        case ops.Add() | ops.Mul():
            other = draw(st.sampled_from(["itself", "vector", "first"]))
            if other == "first" and first.type == value.type:
                return build(op, value, first)
            return build(op, value, value if other == "itself" else build.constant(random.standard_normal(width).astype(np.float32)))
        case ops.Linear():
            return build(op, value, build.constant(random.standard_normal((width, width)).astype(np.float32)))
        case _:
            return build(op, value)


@st.composite
def sliced_chains(draw: st.DrawFn) -> Case:
    """A part of what is computed row by row."""
    graph = Graph()
    build = Builder(graph)
    seq = Symbol("seq", 2, 5).dim if draw(st.booleans()) else 4
    first = value = graph.add_input("x", TensorType(f32, (2, seq, 3)))
    for _ in range(draw(st.integers(1, 4))):
        value = _row_wise(draw, build, value, first)
    parts = [(seq - 1, seq), (0, 1), (0, seq - 1)] if seq == 4 or draw(st.booleans()) else [(seq - 1, seq)]
    start_, stop = draw(st.sampled_from(parts))
    graph.add_output("y", build(ops.Slice(1, start_, stop), value))
    if draw(st.integers(0, 5)) == 5:
        graph.add_output("whole", value)
    return Case(graph, pass_of("sink-slices"))


@st.composite
def flat_tokens(draw: st.DrawFn) -> Case:
    """Rows computed with batch and sequence as one axis."""
    graph = Graph()
    build = Builder(graph)
    batch, seq = Symbol("batch", 1, 3).dim, Symbol("seq", 1, 4).dim
    x = graph.add_input("x", TensorType(f32, (batch, seq, 3)))
    first = value = build(ops.Reshape((batch * seq, 3)), x)
    for _ in range(draw(st.integers(1, 4))):
        value = _row_wise(draw, build, value, first)
    if draw(st.booleans()):
        value = build(ops.Reshape((batch, seq, 3)), value)
    graph.add_output("y", value)
    return Case(graph, pass_of("sink-reshapes"))


VIEWED: tuple[tuple[Dim, ...], ...] = ((2, 3, 8), (Symbol("batch", 1, 3).dim, Symbol("seq", 1, 4).dim, 12), (6, 4), (1, 4, 1, 6))


def _view(draw: st.DrawFn, shape: tuple[Dim, ...]) -> Op:
    """A transpose, a reshape that divides an axis or joins two, or a slice."""
    kind = draw(st.sampled_from(["turn", "turn", "divide", "join", "join", "slice"]))
    axis = draw(st.integers(0, len(shape) - 1))
    dim = shape[axis]
    match kind:
        case "divide" if isinstance(dim, int) and dim % 2 == 0:
            return ops.Reshape((*shape[:axis], dim // 2, 2, *shape[axis + 1 :]))
        case "join" if axis:
            return ops.Reshape((*shape[: axis - 1], shape[axis - 1] * dim, *shape[axis + 1 :]))
        case "slice" if isinstance(dim, int) and dim > 1:
            start = draw(st.integers(0, dim - 1))
            return ops.Slice(axis, start, draw(st.integers(start + 1, dim)))
        case _:
            return ops.Transpose(tuple(draw(st.permutations(range(len(shape))))))


@st.composite
def viewed_values(draw: st.DrawFn) -> Case:
    """A value seen in several ways in turn, or what `MultiheadAttention` makes of its queries, keys and values."""
    graph = Graph()
    build = Builder(graph)
    if draw(st.booleans()):
        return Case(multihead(draw(st.sampled_from([1, 2, 4]))), pass_of("merge-views"))
    value = graph.add_input("x", TensorType(f32, draw(st.sampled_from(VIEWED))))
    for number in range(draw(st.integers(4, 8))):
        value = build(_view(draw, value.type.shape), value)
        if draw(st.integers(0, 9)) == 9:
            graph.add_output(f"part{number}", value)
    graph.add_output("y", value)
    return Case(graph, pass_of("merge-views"))


COMPOSITE = sorted((op for op in STABLE if is_composite(op)), key=lambda op: op.name)


def composites() -> st.SearchStrategy[Case]:
    """Operations that stand for several."""
    return graphs(ops=COMPOSITE, stable=True).map(lambda graph: Case(graph, pass_of("legalise")))


def staged_models() -> st.SearchStrategy[Case]:
    """Layers to cut into stages."""
    return st.builds(
        lambda layers, stages, cosine: Case(model(layers), pass_of(f"pipeline{{stages={stages}}}"), cost_model=Prices({"cos": cosine})),
        st.integers(1, 5),
        st.integers(1, 4),
        st.floats(0.0, 2.0),
    )


# Passes that put zeros, find them, or round


SEEDS = st.integers(0, 2**16 - 1)
"""Without weights of their own, models in few sizes would be few examples."""


def with_other_weights(graph: Graph, seed: int) -> Graph:
    """The graph with numbers of the same spread in its stored tensors."""
    store, random = graph.store, np.random.default_rng(seed)
    assert isinstance(store, MemoryStore)
    for name, tensor in store.tensors.items():
        store.tensors[name] = (random.standard_normal(tensor.shape) * tensor.std()).astype(tensor.dtype)
    return graph


@st.composite
def gated_blocks(draw: st.DrawFn) -> tuple[Graph, MemoryStore]:
    """A gated feed-forward block with stored weights, with zeros in some places."""
    graph = with_other_weights(gated(draw(st.booleans())), draw(SEEDS))
    store = graph.store
    assert isinstance(store, MemoryStore)
    return graph, store


@st.composite
def blocks_with_zeros(draw: st.DrawFn) -> Case:
    graph, store = draw(gated_blocks())
    for name in draw(st.lists(st.sampled_from(["gate", "up", "down"]), min_size=1, max_size=3, unique=True)):
        tensor = store.tensors[name]
        match draw(st.sampled_from(["rows", "columns", "element"])):
            case "rows":
                tensor[draw(st.integers(0, len(tensor) - 1)) :: 2] = 0
            case "columns":
                tensor[:, draw(st.integers(0, tensor.shape[1] - 1))] = 0
            case _:
                tensor[0, draw(st.integers(0, tensor.shape[1] - 1))] = 0
    return Case(graph, pass_of("find-zeros"))


@st.composite
def masked_blocks(draw: st.DrawFn) -> Case:
    graph, store = draw(gated_blocks())
    random = np.random.default_rng(draw(st.integers(0, 99)))
    names = draw(st.lists(st.sampled_from(["gate", "up", "down"]), min_size=1, max_size=3, unique=True))
    masks = {name: dense(random.random(store.tensors[name].shape) < 0.7) for name in names}
    return Case(graph, pass_of("apply-masks"), masks)


def shrunk_blocks(*texts: str, before: str = "") -> st.SearchStrategy[Case]:
    """A gated block, or a small GPT without a cache, for a pass with one of these options."""
    return st.builds(lambda graph, text: Case(Pipeline.parse(before).run(graph), pass_of(text)), _models(), st.sampled_from(texts))


def _models() -> st.SearchStrategy[Graph]:
    return st.one_of(gated_blocks().map(lambda made: made[0]), small_gpts())


def small_gpts() -> st.SearchStrategy[Graph]:
    """Heads that share keys or not, with rotary positions or without, tied or not."""
    return st.builds(
        lambda key_heads, rotary, tied, seed: with_other_weights(
            TinyGpt(cached=False, key_heads=key_heads, rotary=rotary, tied=tied).graph(), seed
        ),
        st.sampled_from([2, 4]),
        st.booleans(),
        st.booleans(),
        SEEDS,
    )


def of_narrow_inputs(graph: Graph) -> Graph:
    """The graph with its f32 inputs in f16, so that it takes the same inputs once it is all f16."""
    for value in graph.inputs:
        if value.type.dtype is f32:
            wide = Builder(graph, before=next(graph.nodes, None))(ops.Cast(f32), value)
            graph.replace_uses(value, wide, lambda use, wide=wide: use.user is not wide.producer)  # type: ignore[misc]
            graph.set_input_type(value, value.type.with_dtype(f16))
    return graph


@st.composite
def blocks_with_dead_parts(draw: st.DrawFn) -> Case:
    fraction = draw(st.sampled_from([0.3, 0.5, 0.75]))
    if draw(st.booleans()):
        graph = Pipeline.parse(f"prune-neurons{{fraction={fraction}}}").run(draw(gated_blocks())[0])
    else:
        graph = Pipeline.parse(f"prune-heads{{fraction={max(fraction, 0.5)}}}").run(draw(small_gpts()))
    return Case(graph, pass_of("remove-dead"))


ALL_COUNTS = OnnxCostModel(bytes_per_second=1.0, flops_per_second={"f32": 1e9})
"""Memory so slow that one line less of a matrix is worth any gather."""


@st.composite
def blocks_with_dead_lines(draw: st.DrawFn) -> Case:
    """Rows and columns of zeros anywhere, found."""
    graph, store = draw(st.one_of(gated_blocks(), small_gpts().map(lambda graph: (graph, graph.store))))
    assert isinstance(store, MemoryStore)
    matrices = [name for name, tensor in store.tensors.items() if tensor.ndim == 2 and not name.startswith(("wte", "wpe"))]
    for name in draw(st.lists(st.sampled_from(matrices), min_size=1, max_size=3, unique=True)):
        tensor = store.tensors[name]
        for axis in draw(st.sampled_from([(0,), (1,), (0, 1)])):
            dead = draw(st.lists(st.integers(0, tensor.shape[axis] - 1), min_size=2, unique=True))
            np.moveaxis(tensor, axis, 0)[dead] = 0
    return Case(Pipeline.parse("find-zeros").run(graph), pass_of("pick-living"), cost_model=ALL_COUNTS)


def _cases() -> Iterator[tuple[str, st.SearchStrategy[Case]]]:
    for name, rules in rewrites_by_pass().items():
        yield name, pattern_cases(name, rules)
    yield "fuse-attention", st.one_of(decoders("fuse-attention"), decoders("fuse-attention", "canonicalize,fuse-linear"))
    yield "normalize-masks", decoders("normalize-masks", "canonicalize,fuse-linear,fuse-attention,canonicalize,cse")
    rotated = rotations.map(lambda spelling: Pipeline.parse("canonicalize,cse").run(rotary_graphs.rotation(spelling)))
    yield "fuse-rotary", rotated.map(lambda graph: Case(graph, pass_of("fuse-rotary")))
    yield "cse", repeated_nodes()
    yield "dead-code", unused_nodes()
    yield "sink-slices", sliced_chains()
    yield "sink-reshapes", flat_tokens()
    yield "merge-views", viewed_values()
    yield "legalise", composites()
    yield "pipeline", staged_models()
    yield "add-cache", decoders("add-cache", FUSION)
    yield "last-token-logits", decoders("last-token-logits")
    yield "find-zeros", blocks_with_zeros()
    yield "apply-masks", masked_blocks()
    yield "sparsify", shrunk_blocks("sparsify", "sparsify{pattern=2:4}", "sparsify{pattern=2x2 fraction=0.3}")
    yield "prune-neurons", shrunk_blocks("prune-neurons", "prune-neurons{fraction=0.25}")
    yield "prune-heads", small_gpts().map(lambda graph: Case(graph, pass_of("prune-heads")))
    yield "remove-dead", blocks_with_dead_parts()
    yield "pick-living", blocks_with_dead_lines()
    yield "convert", graphs(stable=True, floats=(f32,)).map(lambda graph: Case(of_narrow_inputs(graph), pass_of("convert{dtype=f16}")))
    yield "quantize", shrunk_blocks(*(f"quantize{{bits={bits} block=2 activations=exact}}" for bits in (4, 8)))


CASES: dict[str, st.SearchStrategy[Case]] = dict(_cases())
"""What each pass is tried on, by its name."""
