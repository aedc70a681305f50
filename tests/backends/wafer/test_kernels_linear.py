"""Linear, norm and element-wise kernels: both engines give one set of bits, close to float64, at the cycles of the closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, integers, run_both, twenty_schedules

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.functions import BOUNDS
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.kernels.assembly import renamed, single_region
from cgptc.backends.wafer.kernels.elementwise import BINARY, UNARY, Elementwise
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction, best_reduction, reductions
from cgptc.backends.wafer.kernels.linear import Linear, candidates
from cgptc.backends.wafer.kernels.norm import Norm
from cgptc.backends.wafer.machine import WSE2, doubled_sram, small_machine

MACHINE = small_machine(8, 8)
REDUCTIONS = [Reduction("chain"), Reduction("tree"), Reduction("two-phase", 2)]


def _bound(terms: np.ndarray, count: int, unit: float) -> np.ndarray:
    """The statistical bound of a sum of products: ``8 √K u Σ|a||b|``, never above the worst case."""
    return np.minimum(count * unit / (1 - count * unit), 8 * math.sqrt(count) * unit) * terms


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize(("dtype", "accumulate"), [("f32", "f32"), ("f16", "f16"), ("f16", "f32"), ("bf16", "f32")])
def test_linear_is_exact_on_integers_and_costs_its_closed_form(dtype: str, accumulate: str, along: str, reduction: Reduction) -> None:
    random = np.random.default_rng(1)
    kernel = Linear(2, 10, 7, Grid(3, 5), along, dtype, accumulate, reduction, bias=along == "x")  # type: ignore[arg-type]
    program = single_region(MACHINE, [kernel.fragment("a")], at=(2, 1))
    storage = format_of(dtype).storage
    x, weight, bias = (integers(random, *shape, dtype=storage) for shape in ((2, 10), (10, 7), (7,)))
    run = run_both(program, {"a.weight": weight, "a.bias": bias}, {"a.x": x}, schedules=twenty_schedules(program)[::7])
    expected = x.astype(float) @ weight.astype(float) + (bias.astype(float) if kernel.bias else 0)
    np.testing.assert_array_equal(run.outputs["a.y"].astype(float), expected)
    check_cycles(kernel, run)


@pytest.mark.parametrize("height", [1, 2, 4])
@pytest.mark.parametrize("width", [1, 3, 8])
def test_linear_is_exact_on_every_grid_ragged_ones_included(height: int, width: int) -> None:
    random = np.random.default_rng(height * 10 + width)
    for m, k, n in ((1, 5, 9), (3, 8, 2)):
        for along in ("x", "y"):
            kernel = Linear(m, k, n, Grid(height, width), along)  # type: ignore[arg-type]
            program = single_region(MACHINE, [kernel.fragment("a")])
            x, weight = integers(random, m, k), integers(random, k, n)
            run = run_both(program, {"a.weight": weight}, {"a.x": x}, schedules=twenty_schedules(program)[:1])
            np.testing.assert_array_equal(run.outputs["a.y"], x @ weight)
            check_cycles(kernel, run)


def test_linear_keeps_the_bound_of_its_accumulator() -> None:
    random = np.random.default_rng(2)
    kernel = Linear(2, 64, 12, Grid(3, 4), "x", "f32", "f32", REDUCTIONS[2])
    x, weight = random.normal(size=(2, 64)).astype(np.float32), random.normal(size=(64, 12)).astype(np.float32)
    run = run_both(single_region(MACHINE, [kernel.fragment("a")]), {"a.weight": weight}, {"a.x": x})
    wide = x.astype(float) @ weight.astype(float)
    terms = np.abs(x).astype(float) @ np.abs(weight)
    assert (np.abs(run.outputs["a.y"] - wide) <= _bound(terms, 64, 2.0**-24)).all()


def test_two_linear_layers_need_no_transfer_between_them() -> None:
    random = np.random.default_rng(3)
    grid = Grid(3, 4)
    first, second = Linear(1, 6, 9, grid, "x"), Linear(1, 9, 5, grid, "y")
    joined = renamed(second.fragment("b"), {"b.x": "a.y"})
    program = single_region(MACHINE, [first.fragment("a"), joined])
    x, one, two = integers(random, 1, 6), integers(random, 6, 9), integers(random, 9, 5)
    run = run_both(program, {"a.weight": one, "b.weight": two}, {"a.x": x})
    np.testing.assert_array_equal(run.outputs["b.y"], x @ one @ two)
    assert run.account.timeline.cycles == first.cycles(MACHINE, {}) + second.cycles(MACHINE, {})


def test_one_changed_weight_changes_only_the_outputs_that_depend_on_it() -> None:
    random = np.random.default_rng(4)
    program = single_region(MACHINE, [Linear(1, 8, 8, Grid(4, 4), "x").fragment("a")])
    x, weight = random.normal(size=(1, 8)), random.normal(size=(8, 8))
    before, after = FastEngine(program), FastEngine(program)
    changed = weight.copy()
    changed[3, 5] += 1
    before.load({"a.weight": weight})
    after.load({"a.weight": changed})
    differs = before.run("run", {"a.x": x}, {}).outputs["a.y"] != after.run("run", {"a.x": x}, {}).outputs["a.y"]
    assert differs.tolist() == [[index == 5 for index in range(8)]]


def test_a_moved_region_gives_the_same_bits() -> None:
    random = np.random.default_rng(5)
    x, weight = random.normal(size=(2, 9)), random.normal(size=(9, 11))
    found = []
    for at in ((0, 0), (3, 4)):
        engine = FastEngine(single_region(MACHINE, [Linear(2, 9, 11, Grid(4, 5)).fragment("a")], at=at))
        engine.load({"a.weight": weight})
        found.append(engine.run("run", {"a.x": x}, {}).outputs["a.y"])
    np.testing.assert_array_equal(*found)


def test_more_lanes_never_cost_more_and_the_best_reduction_depends_on_the_line() -> None:
    small = Linear(1, 1024, 1024, Grid(8, 8)).cycles(WSE2, {})
    assert Linear(1, 1024, 1024, Grid(16, 16)).cycles(WSE2, {}) < small
    assert best_reduction(4, 64, WSE2) == Reduction("chain")
    assert best_reduction(512, 8, WSE2).algorithm != "chain"
    assert len(list(candidates(1, 8, 8, Grid(64, 64), "x", "f16", "f32", bias=True))) == len(list(reductions(64)))


@pytest.mark.parametrize("statistics", ["packed", "two-pass", "rms"])
@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_norms_are_close_to_float64_on_ragged_lines(statistics: str, along: str, dtype: str) -> None:
    random = np.random.default_rng(6)
    storage = format_of(dtype).storage
    for reduction, (weight, bias) in zip(REDUCTIONS, [(True, True), (True, False), (False, False)], strict=True):
        kernel = Norm(3, 7, Grid(2, 3), along, dtype, statistics, reduction, 1e-5, weight, bias)  # type: ignore[arg-type]
        program = single_region(MACHINE, [kernel.fragment("n")])
        x, scale, shift = (random.normal(size=shape).astype(storage) for shape in ((3, 7), (7,), (7,)))
        run = run_both(program, {"n.weight": scale, "n.bias": shift}, {"n.x": x})
        wide = x.astype(float)
        centred = wide if statistics == "rms" else wide - wide.mean(1, keepdims=True)
        expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
        expected = expected * (scale if weight else 1) + (shift if bias else 0)
        unit = format_of(dtype).unit
        # Two roundings of the output's size, and the statistics' own error in f32, which cancellation may double.
        bound = 4 * unit * (np.abs(expected) + 1) + 64 * 2.0**-24 * (1 + np.abs(expected))
        assert (np.abs(run.outputs["n.y"].astype(float) - expected) <= bound).all()
        check_cycles(kernel, run)


def test_norm_in_f64_is_good_to_f64() -> None:
    random = np.random.default_rng(7)
    kernel = Norm(2, 10, Grid(2, 4), "x", "f64", "two-pass", weight=False, bias=False)
    x = random.normal(size=(2, 10)) + 3
    run = run_both(single_region(doubled_sram(MACHINE), [kernel.fragment("n")]), {}, {"n.x": x})
    centred = x - x.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5)
    assert np.abs(run.outputs["n.y"] - expected).max() <= 64 * 2.0**-53 * np.abs(expected).max()


@pytest.mark.parametrize("op", [*UNARY, *BINARY, "relu", "select"])
def test_element_wise_kernels_work_tile_by_tile(op: str) -> None:
    random = np.random.default_rng(8)
    layout = Grid(2, 3).spread((2, 7), "x")
    kernel = Elementwise(op, layout)
    x, z = np.abs(random.normal(size=(2, 7))).astype(np.float32) + 0.1, random.normal(size=(2, 7)).astype(np.float32)
    condition = random.integers(0, 2, (2, 7)).astype(np.float32)
    run = run_both(single_region(MACHINE, [kernel.fragment("e")]), {}, {"e.x": x, "e.z": z, "e.condition": condition})
    check_cycles(kernel, run)
    expected = {
        "less": lambda: x < z, "select": lambda: np.where(condition != 0, x, z),
        "neg": lambda: -x, "abs": lambda: x, "exp": lambda: np.exp(x), "log": lambda: np.log(x), "sqrt": lambda: np.sqrt(x),
        "rsqrt": lambda: 1 / np.sqrt(x), "reciprocal": lambda: 1 / x, "tanh": lambda: np.tanh(x), "sigmoid": lambda: 1 / (1 + np.exp(-x)),
        "silu": lambda: x / (1 + np.exp(-x)), "erf": lambda: np.vectorize(math.erf)(x), "relu": lambda: np.maximum(x, 0),
        "gelu": lambda: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))),
        "gelu_tanh": lambda: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "add": lambda: x + z, "sub": lambda: x - z, "mul": lambda: x * z, "max": lambda: np.maximum(x, z), "min": lambda: np.minimum(x, z),
    }[op]()  # fmt: skip
    bound = (BOUNDS.get(op, 8) + 2) * 2.0**-24
    assert (np.abs(run.outputs["e.y"] - expected) <= bound * np.maximum(np.abs(expected), 0.1)).all()
