"""The layers of an MLP in tiles: exact on integers, near numpy's result, one set of bits, cycles as told; planned where it pays."""

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
from cgptc.backends.wafer.kernels.own_rows import OwnRows
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.plan.layouts import Lie
from cgptc.backends.wafer.plan.select import Ground, kernel_of
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import MlpWork
from cgptc.ir.comparison import graph_depth
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.ops.binary import Mul
from cgptc.ir.ops.elementwise import Gelu, Relu, Silu
from cgptc.testing.tolerances import assert_t1

PRODUCTS = ("summa", "neighbour", "interleaved")


def _kernel(product: str, grid: Grid, *, dtype: str = "f32", bias: bool = True, gated: bool = False) -> TiledMlp:
    return TiledMlp(
        5, 7, 13, 6, "relu", grid, product, dtype, "f32", bias, bias, Reduction("tree"), gated, gated and bias  # type: ignore[arg-type]
    )  # fmt: skip


def _linear_weights(kernel: TiledMlp | SpreadMlp, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Integers for every weight of a kernel ``m``, by buffer."""
    slots = kernel.fragment("m").weights
    return {slot.buffer: integers(random, *slot.layout.shape) for slot in slots}


def _expected(x: np.ndarray, weights: dict[str, np.ndarray]) -> np.ndarray:
    def layer(part: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"m.{part}.weight"] + weights.get(f"m.{part}.bias", 0)

    up = layer("up", x)
    between = np.maximum(layer("gate", x), 0) * up if "m.gate.weight" in weights else np.maximum(up, 0)
    return layer("down", between)


@pytest.mark.parametrize(
    ("product", "side", "dtype", "gated"),
    [
        ("summa", 1, "f32", False),
        ("summa", 3, "f16", False),
        ("neighbour", 3, "f32", False),
        ("interleaved", 4, "f16", False),
        ("summa", 3, "f16", True),
        ("interleaved", 2, "f32", True),
    ],
)
def test_products_in_tiles_are_exact_on_integers_where_ends_are_ragged(product: str, side: int, dtype: str, *, gated: bool) -> None:
    random = np.random.default_rng(side)
    storage = format_of(dtype).storage
    kernel = _kernel(product, Grid(side, side), dtype=dtype, bias=side != 1, gated=gated)
    x, weights = integers(random, 5, 7), _linear_weights(kernel, random)
    stored = {name: weight.astype(storage) for name, weight in weights.items()}
    run = run_both(single_region(small_machine(4, 4), [kernel.fragment("m")]), stored, {"m.x": x})
    check_cycles(kernel, run)
    np.testing.assert_array_equal(run.outputs["m.y"], _expected(x, weights).astype(storage))


@pytest.mark.parametrize("dealt", [None, Reduction("tree")])
def test_a_gated_mlp_that_is_spread_is_exact_on_integers(dealt: Reduction | None) -> None:
    random = np.random.default_rng(2)
    kernel = replace(_kernel("summa", Grid(2, 2), gated=True).spread, dealt=dealt)
    x, weights = integers(random, 5, 7), _linear_weights(kernel, random)
    assert weights.keys() == {f"m.{part}.{role}" for part in ("gate", "up", "down") for role in ("weight", "bias")}
    run = run_both(single_region(small_machine(2, 2), [kernel.fragment("m")]), weights, {"m.x": x})
    check_cycles(kernel, run)
    np.testing.assert_array_equal(run.outputs["m.y"], _expected(x, weights))


def test_tiles_are_those_of_neighbours_or_none() -> None:
    spread = SpreadMlp(Linear(5, 7, 13, Grid(2, 3)), "gelu", Linear(5, 13, 6, Grid(2, 3), "y"))
    assert list(in_tiles(spread)) == []
    with pytest.raises(ProgramError, match="no tiles"):
        _kernel("summa", Grid(2, 3))
    square = SpreadMlp(Linear(5, 7, 13, Grid(3, 3)), "gelu", Linear(5, 13, 6, Grid(3, 3), "y"))
    assert [one.product for one in in_tiles(square)] == list(PRODUCTS)
    assert list(in_tiles(replace(square, up=replace(square.up, k_block=4)))) == []


def _encoder(hidden: int, *, kept: bool = False, gated: bool = False) -> Graph:
    """Tokens that look at each other, and an MLP after that."""
    here = Drawing(seed=hidden)
    x = here.start(crosses=False)
    here.layer(0)
    x = here.attention(x, x, None, causal=False)
    between = here.build(Silu() if gated else Gelu("none") if hidden > 9 else Relu(), here.linear(x, hidden))
    between = here.build(Mul(), between, here.linear(x, hidden)) if gated else between
    here.graph.add_output("y", here.linear(between))
    if kept:
        here.graph.add_output("between", between)
    return here.graph


def _chosen(graph: Graph, grid: tuple[int, int]) -> set[str]:
    (fitted,) = planned(graph, grid, "resident").plan.fitted
    return {fragment.kernel for fragment in fitted.fragments if "mlp" in fragment.kernel}


def test_the_planner_multiplies_in_tiles_where_that_costs_less() -> None:
    assert _chosen(_encoder(64), (8, 8)) == {"mlp"}
    assert _chosen(_encoder(64, gated=True), (4, 4)) == {"mlp-tiles-summa"}
    assert _chosen(_encoder(64, gated=True, kept=True), (4, 4)) == set()


@pytest.mark.parametrize(
    ("rows", "side", "kernel", "dealt"),
    [(128, 8, TiledMlp, False), (32, 16, SpreadMlp, True), (128, 1, SpreadMlp, False)],
)
def test_an_mlp_is_spread_dealt_out_or_in_tiles_as_is_cheapest(rows: int, side: int, kernel: type, *, dealt: bool) -> None:
    ground = Ground(small_machine(16, 16), Grid(side, side), {"x": Lie("x"), "y": Lie("x")}, "f32", rows, whole=True)
    work = MlpWork(64, 256, 64, "gelu", up_bias=True, down_bias=True)
    chosen = kernel_of(Task("y", work, ("x",), rows=rows), ground)
    assert isinstance(chosen, kernel)
    assert (isinstance(chosen, SpreadMlp) and isinstance(chosen.between, OwnRows)) == dealt


@pytest.mark.parametrize(("hidden", "grid", "gated"), [(33, (8, 8), False), (9, (2, 3), True), (64, (4, 4), True)])
def test_what_is_planned_as_one_is_exact_in_float64(hidden: int, grid: tuple[int, int], *, gated: bool) -> None:
    graph = _encoder(hidden, gated=gated)
    inputs = _inputs(graph, 2, 5, 3, seed=1)
    found = planned(graph, grid, "resident").session.run(inputs)
    assert_t1(evaluate_graph(graph, inputs, wide=True)["y"], found["y"], depth=graph_depth(graph))
