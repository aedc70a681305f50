"""Strategies for graphs, and for inputs to run them with."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

import cgptc.testing.model_op_samples
import cgptc.testing.tensor_op_samples  # noqa: F401 (both fill the register)
from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Graph
from cgptc.ir.loc import Frame, Location
from cgptc.ir.op import Array, Op
from cgptc.ir.weights import MemoryStore
from cgptc.testing.arrays import KINDS
from cgptc.testing.input_data import random_inputs
from cgptc.testing.pool import DEFAULT_FLOATS, Pool, start
from cgptc.testing.sample_register import OP_SAMPLES, STABLE

STABLE_KINDS = ("integers", "normal")
"""Kinds of data that keep stable ops stable: nothing overflows, nothing but what the ops themselves cancel."""


def graphs(
    *,
    ops: Collection[type[Op]] | None = None,
    max_nodes: int = 8,
    stable: bool = False,
    floats: tuple[DType, ...] = DEFAULT_FLOATS,
    annotated: bool = False,
) -> st.SearchStrategy[Graph]:
    """A valid graph with its weights in memory: static or symbolic, with inputs, stored weights and lazy expressions as operands.

    ``ops`` narrows what nodes are drawn from (by default every op), ``stable`` to ops for which T1 holds between any two right ways to
    compute (see `assert_equivalent`), ``floats`` the floating-point types. ``annotated`` draws names, locations and stages too. Every
    node is used or an output, but for a few graphs that keep only the last value and so have dead nodes. Raises ValueError where ``ops``
    and ``stable`` leave no op.
    """
    chosen = [cls for cls in OP_SAMPLES if (ops is None or cls in ops) and (not stable or cls in STABLE)]
    if not chosen:
        raise ValueError("no op is left to draw from")
    chosen.sort(key=lambda cls: cls not in STABLE)  # what comes first is what examples shrink to
    return _graphs(chosen, max_nodes, STABLE_KINDS if stable else KINDS, floats, annotated)


@st.composite
def _graphs(
    draw: st.DrawFn, chosen: list[type[Op]], max_nodes: int, kinds: tuple[str, ...], floats: tuple[DType, ...], annotated: bool
) -> Graph:
    store = MemoryStore({})
    generator = np.random.default_rng(draw(st.integers(0, 2**16 - 1)))
    graph = Graph(store=store)
    kind = draw(st.sampled_from(kinds))
    pool = start(draw, Builder(graph), store, generator, kind, floats)
    # Each node is drawn as one thing, whether there is one more at all included, not counted before: to leave out any node is then to leave
    # out what was drawn for it, which is what shrinking tries.
    # As many as may be are followed by a draw too, so that what is drawn for fewer has the same form.
    for number in range(max_nodes + 1):
        if not draw(_one_more(pool, chosen, number, max_nodes)):
            break
    add_outputs(pool)
    if annotated:
        _annotate(draw, graph)
    return graph


@st.composite
def _one_more(draw: st.DrawFn, pool: Pool, chosen: list[type[Op]], number: int, max_nodes: int) -> bool:
    """Whether a graph of ``number`` nodes gets one more, which is then there; the first always comes."""
    if not draw(st.integers(0, max_nodes if number < max_nodes else 0)) and number:
        return False
    draw_node(pool, draw(st.sampled_from(chosen)))
    return True


def draw_node(pool: Pool, cls: type[Op]) -> None:
    """Add a node of that op, with what operands it needs."""
    op, operands = OP_SAMPLES[cls](pool, cls)
    pool.insert(op, *operands)


def add_outputs(pool: Pool) -> None:
    """Give what nothing uses, now and then only the last value: the rest is dead then."""
    made = [value for node in pool.graph.nodes for value in node.results]
    unused = [value for value in made if not value.use_count] or made[-1:]
    if len(unused) > 1 and pool.integer(0, 7) == 7:
        unused = unused[-1:]
    for index, value in enumerate(unused):
        pool.graph.add_output(f"y{index}", value)


def _annotate(draw: st.DrawFn, graph: Graph) -> None:
    names = st.text(max_size=4) | st.sampled_from(["x", "x0", "hidden", "0", "a.b"])
    frames = st.builds(Frame, st.text(max_size=3), st.sampled_from(["", "gpt.py", "a/b c.py"]), st.integers(0, 9))
    stage = draw(st.none() | st.just(0))
    for node in graph.nodes:
        graph.set_stage(node, stage)
        if stage is not None:
            stage += draw(st.integers(0, 1))
        graph.set_location(node, Location(tuple(draw(st.lists(frames, max_size=2)))))
        for value in node.results:
            value.name = draw(names)


@dataclass(frozen=True)
class Feed:
    """Inputs for a graph, with the seed and the kind of data that they were made from."""

    inputs: dict[str, Array]
    seed: int
    kind: str


@st.composite
def feeds(draw: st.DrawFn, graph: Graph, *, kinds: tuple[str, ...] = KINDS) -> Feed:
    """Inputs of drawn sizes, seed and kind."""
    sizes = {name: draw(st.integers(symbol.low, max(symbol.low, min(symbol.high, 5)))) for name, symbol in graph.symbols.items()}
    seed, kind = draw(st.integers(0, 2**16 - 1)), draw(st.sampled_from(kinds))
    return Feed(random_inputs(graph, seed=seed, kind=kind, sizes=sizes), seed, kind)


@st.composite
def graphs_with_inputs(
    draw: st.DrawFn, *, ops: Collection[type[Op]] | None = None, max_nodes: int = 8, stable: bool = False
) -> tuple[Graph, Feed]:
    """A graph and inputs for it; see `graphs` and `feeds`."""
    graph = draw(graphs(ops=ops, max_nodes=max_nodes, stable=stable))
    return graph, draw(feeds(graph, kinds=STABLE_KINDS if stable else KINDS))
