"""Two linear layers in tiles: exact on integers, near numpy's result, one set of bits, cycles of the closed form; planned where it pays."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.wafer.drawn_graphs import Drawing
from tests.backends.wafer.harness import check_cycles, integers, run_both
from tests.backends.wafer.planned import planned
from tests.backends.wafer.test_drawn_graphs import _inputs

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.mlp import SpreadMlp, TiledMlp, in_tiles
from cgptc.backends.wafer.machine import small_machine
from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops.elementwise import Gelu, Relu
from cgptc.testing.tolerances import assert_t1

PRODUCTS = ("summa", "neighbour", "interleaved")


def _kernel(product: str, grid: Grid, *, dtype: str = "f32", activation: str = "relu", bias: bool = True) -> TiledMlp:
    return TiledMlp(
        5, 7, 13, 6, activation, grid, product, dtype, "f32", bias, bias, Reduction("tree")  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("product", "side", "dtype"),
    [("summa", 1, "f32"), ("summa", 3, "f16"), ("neighbour", 3, "f32"), ("interleaved", 4, "f16")],
)
def test_products_in_tiles_are_exact_on_integers_where_ends_are_ragged(product: str, side: int, dtype: str) -> None:
    random = np.random.default_rng(side)
    storage = format_of(dtype).storage
    kernel = _kernel(product, Grid(side, side), dtype=dtype, bias=side != 1)
    x, up, down = integers(random, 5, 7), integers(random, 7, 13), integers(random, 13, 6)
    given = {"m.up.weight": up, "m.down.weight": down}
    biases = (integers(random, 13), integers(random, 6)) if kernel.up_bias else (0, 0)
    given |= {f"m.{part}.bias": one for part, one in zip(("up", "down"), biases, strict=True) if kernel.up_bias}  # type: ignore[misc]
    run = run_both(single_region(small_machine(4, 4), [kernel.fragment("m")]), {k: v.astype(storage) for k, v in given.items()}, {"m.x": x})
    check_cycles(kernel, run)
    np.testing.assert_array_equal(run.outputs["m.y"], np.maximum(x @ up + biases[0], 0) @ down + biases[1])


def test_tiles_are_those_of_neighbours_or_none() -> None:
    spread = SpreadMlp(Linear(5, 7, 13, Grid(2, 3)), "gelu", Linear(5, 13, 6, Grid(2, 3), "y"))
    assert list(in_tiles(spread)) == []
    with pytest.raises(ProgramError, match="no tiles"):
        _kernel("summa", Grid(2, 3))
    square = SpreadMlp(Linear(5, 7, 13, Grid(3, 3)), "gelu", Linear(5, 13, 6, Grid(3, 3), "y"))
    assert [one.product for one in in_tiles(square)] == list(PRODUCTS)
    assert list(in_tiles(replace(square, up=replace(square.up, k_block=4)))) == []


def _encoder(hidden: int, *, kept: bool = False) -> Graph:
    """Tokens that look at each other, and two layers after that."""
    here = Drawing(seed=hidden)
    x = here.start(crosses=False)
    here.layer(0)
    x = here.attention(x, x, None, causal=False)
    between = here.build(Gelu("none") if hidden > 9 else Relu(), here.linear(x, hidden))
    here.graph.add_output("y", here.linear(between))
    if kept:
        here.graph.add_output("between", between)
    return here.graph


def _chosen(graph: Graph, grid: tuple[int, int]) -> set[str]:
    (fitted,) = planned(graph, grid, "resident").plan.fitted
    return {fragment.kernel for fragment in fitted.fragments if "mlp" in fragment.kernel}


def test_the_planner_multiplies_in_tiles_where_that_costs_less() -> None:
    assert _chosen(_encoder(9), (1, 1)) == {"mlp"}
    assert _chosen(_encoder(64), (8, 8)) == {"mlp-tiles-summa"}
    assert _chosen(_encoder(64), (7, 8)) == {"mlp"}
    assert _chosen(_encoder(64, kept=True), (8, 8)) == set()


@pytest.mark.parametrize(("hidden", "grid"), [(33, (8, 8)), (9, (2, 3))])
def test_what_is_planned_as_one_is_exact_in_float64(hidden: int, grid: tuple[int, int]) -> None:
    graph = _encoder(hidden)
    inputs = _inputs(graph, 2, 5, 3, seed=1)
    found = planned(graph, grid, "resident").session.run(inputs)
    assert_t1(evaluate_graph(graph, inputs, wide=True)["y"], found["y"], depth=graph_depth(graph))
