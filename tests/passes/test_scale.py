"""Passes do near-linear work, on graphs as deep as they come, without recursion over the graph."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import pytest
from tests.passes.attention_graphs import Spelling, decoder
from tests.passes.rotary_graphs import Spelling as RotarySpelling
from tests.passes.rotary_graphs import rotation
from tests.passes.test_large_graphs import lines_run
from tests.passes.test_pipeline import Prices

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import f32, i64
from cgptc.ir.graph import Graph
from cgptc.ir.op import OPS, is_composite
from cgptc.ir.ops import Add, Cast, Concat, Linear, Relu, Rotary, Sin, Slice, Tanh
from cgptc.ir.types import TensorType
from cgptc.passes.manager import PassContext, Pipeline

FUSION = (
    "canonicalize,cse,fuse-linear,fuse-activations,fuse-norms,fuse-embedding,fuse-attention,sink-reshapes,fuse-rotary,normalize-masks,"
    "dead-code"
)


@pytest.fixture
def shallow_stack() -> Iterator[None]:
    """What is called from here on may go 150 frames deeper, whatever the test runner took."""
    depth, frame = 0, sys._getframe()
    while frame.f_back is not None:
        depth, frame = depth + 1, frame.f_back
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 150)
    yield
    sys.setrecursionlimit(before)


PREPARED = {
    "add-cache": FUSION,
    "last-token-logits": FUSION,
    "sink-slices": f"{FUSION},last-token-logits",
    "sparsify": FUSION,
    "prune-heads": FUSION,
    "remove-dead": f"{FUSION},prune-heads",
    "convert": FUSION,
    "quantize": FUSION,
    "legalise": FUSION,
    "pipeline{stages=2}": FUSION,
}
"""What the other passes find to do in a decoder, and what must run before them."""
PRIMITIVE = frozenset(op for op in OPS.values() if not is_composite(op))


def context_of_all() -> PassContext:
    """What any pass asks for."""
    return PassContext(legal=PRIMITIVE, cost_model=Prices({}))


def work(name: str, graph: Graph) -> tuple[int, int]:
    """What a pass counts, and the lines of Python that it runs."""
    context = context_of_all()
    lines = lines_run(lambda: Pipeline.parse(name).run(graph, context))
    return context.counters.get("nodes visited", 0) + context.counters.get("patterns tried", 0), lines


@pytest.mark.parametrize("name", FUSION.split(","))
def test_twice_the_layers_are_at_most_a_little_more_than_twice_the_work(name: str) -> None:
    small, large = (work(name, decoder(Spelling(layers=layers))) for layers in (3, 6))
    for less, more in zip(small, large, strict=True):
        assert 0 < more <= 2.3 * less


@pytest.mark.parametrize("name", PREPARED)
def test_twice_the_layers_are_little_more_than_twice_the_lines_of_the_other_passes(name: str) -> None:
    graphs = [Pipeline.parse(PREPARED[name]).run(decoder(Spelling(layers=layers)), context_of_all()) for layers in (2, 4)]
    texts = [str(graph) for graph in graphs]
    less, more = (work(name, graph)[1] for graph in graphs)
    assert texts != [str(graph) for graph in graphs], "the pass has nothing to do here"
    assert more <= 2.3 * less


def residuals(count: int) -> Graph:
    """``x + linear(relu(linear(x)))`` again and again, without norms: elementwise all the way up."""
    graph = Graph()
    build = Builder(graph)
    value = graph.add_input("x", TensorType(f32, (2, 4)))
    for _ in range(count):
        wide = build(Relu(), build(Linear(), value, build.constant(np.ones((4, 6), np.float32))))
        value = build(Add(), value, build(Linear(), wide, build.constant(np.ones((6, 4), np.float32))))
    graph.add_output("y", value)
    return graph


def slices_of_one(count: int) -> Graph:
    """Every feature of a value by itself."""
    graph = Graph()
    build = Builder(graph)
    whole = build(Relu(), graph.add_input("x", TensorType(f32, (2, count))))
    graph.add_output("y", build(Concat(1), *(build(Slice(1, place, place + 1), whole) for place in range(count))))
    return graph


def angles_of_angles(count: int) -> Graph:
    """Each sine is the angle of the next."""
    graph = Graph()
    build = Builder(graph)
    value = build(Cast(f32), graph.add_input("places", TensorType(i64, (4,))))
    for _ in range(count):
        value = build(Sin(), value)
    graph.add_output("y", value)
    return graph


WALKED = {"prune-neurons": residuals, "sink-slices": slices_of_one, "convert": angles_of_angles}
"""Graphs on which a look at one node could go over all others."""


@pytest.mark.parametrize("name", WALKED)
def test_no_node_is_looked_at_again_from_each_of_many(name: str) -> None:
    less, more = (work(name, WALKED[name](count))[1] for count in (40, 80))
    assert more <= 2.3 * less


def test_every_pass_takes_a_deep_decoder_without_deep_recursion(shallow_stack: None) -> None:
    graph = decoder(Spelling(layers=6))
    last = "find-zeros,add-cache,last-token-logits,sink-slices,merge-views,prune-heads,prune-neurons,remove-dead,sparsify"
    Pipeline.parse(f"{FUSION},{last},convert,quantize,legalise,pipeline{{stages=4}}").run(graph, context_of_all())
    assert {node.stage for node in graph.nodes} == {0, 1, 2, 3}


def test_a_rotation_at_the_end_of_a_long_chain_is_found_without_recursion(shallow_stack: None) -> None:
    graph = rotation(RotarySpelling("rotate"))
    y = graph.output("y")
    build = Builder(graph)
    for _ in range(3000):
        y = build(Tanh(), y)
    graph.set_outputs([("y", y)])
    Pipeline.parse(FUSION).run(graph)
    assert sum(isinstance(node.op, Rotary) for node in graph.nodes) == 1
    assert sum(isinstance(node.op, Tanh) for node in graph.nodes) == 3000
