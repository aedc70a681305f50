"""Sparse layers: the dense layer's bits, zeros that are neither stored nor multiplied, and cycles of the fullest PE."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, integers, run_both

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.instructions import Price
from cgptc.backends.wafer.arithmetic.sparse import sparse_cycles
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.sparse import SparseLinear, best_form, sparse_linear, winning_densities
from cgptc.backends.wafer.kernels.zeros import balanced_order, counts, lines_of
from cgptc.backends.wafer.machine import WSE2, small_machine

MACHINE = small_machine(8, 8)
FORMS = [("rows", (1, 1)), ("columns", (1, 1)), ("blocks", (2, 3)), ("blocks", (4, 4))]


def _pruned(random: np.random.Generator, weight: np.ndarray, density: float) -> np.ndarray:
    return np.asarray(np.where(random.random(weight.shape) < density, weight, 0), weight.dtype)


def _run(kernel: SparseLinear, weight: np.ndarray, x: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    values, places = kernel.pack(weight)
    given = {"s.values": values, "s.places": places} | ({"s.bias": bias} if bias is not None else {})
    run = run_both(single_region(MACHINE, [kernel.fragment("s")]), given, {"s.x": x})
    check_cycles(kernel, run)
    return np.asarray(run.outputs["s.y"])


@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize(("dtype", "accumulate"), [("f32", "f32"), ("f16", "f32"), ("f16", "f16")])
@pytest.mark.parametrize(("form", "block"), FORMS)
def test_products_are_exact_on_integers_on_ragged_grids(form: str, block: tuple[int, int], dtype: str, accumulate: str, along: str) -> None:
    random = np.random.default_rng(1)
    storage = format_of(dtype).storage
    for m, density in ((1, 0.2), (3, 0.7)):
        weight = _pruned(random, integers(random, 17, 11, dtype=storage), density)
        dense = Linear(m, 17, 11, Grid(3, 4), along, dtype, accumulate, Reduction("tree"), bias=m == 3)  # type: ignore[arg-type]
        kernel = sparse_linear(weight, dense, form, block)  # type: ignore[arg-type]
        x, bias = integers(random, m, 17, dtype=storage), integers(random, 11, dtype=storage) if dense.bias else None
        expected = x.astype(float) @ weight.astype(float) + (bias.astype(float) if bias is not None else 0)
        np.testing.assert_array_equal(_run(kernel, weight, x, bias).astype(float), expected)


@pytest.mark.parametrize(("form", "block"), FORMS)
def test_the_bits_are_those_of_the_dense_layer(form: str, block: tuple[int, int]) -> None:
    random = np.random.default_rng(2)
    weight = _pruned(random, random.normal(size=(16, 12)).astype(np.float32), 0.4)
    dense = Linear(2, 16, 12, Grid(2, 3))
    x = random.normal(size=(2, 16)).astype(np.float32)
    expected = run_both(single_region(MACHINE, [dense.fragment("s")]), {"s.weight": weight}, {"s.x": x}, schedules=()).outputs["s.y"]
    np.testing.assert_array_equal(_run(sparse_linear(weight, dense, form, block), weight, x), expected)  # type: ignore[arg-type]


def test_zeros_meet_no_infinity() -> None:
    weight = np.zeros((4, 4), np.float32)
    weight[1, 2] = 2
    x = np.array([[np.inf, 3, np.nan, np.inf]], np.float32)
    for form, block in (("rows", (1, 1)), ("columns", (1, 1)), ("blocks", (1, 2))):
        found = _run(sparse_linear(weight, Linear(1, 4, 4, Grid(2, 2)), form, block), weight, x)  # type: ignore[arg-type]
        assert found.tolist() == [[0, 0, 6, 0]]


def test_cycles_and_memory_fall_with_the_entries_of_the_fullest_pe() -> None:
    random = np.random.default_rng(3)
    dense = Linear(16, 64, 64, Grid(4, 4))
    full = random.normal(size=(64, 64)).astype(np.float32)
    thin = _pruned(random, full, 0.1)
    lopsided = thin.copy()
    lopsided[:16, :16] = full[:16, :16]
    for form in ("rows", "columns"):
        few, many, one_full = (sparse_linear(weight, dense, form) for weight in (thin, full, lopsided))  # type: ignore[arg-type]
        assert few.cycles(WSE2, {}) < many.cycles(WSE2, {})
        assert one_full.cycles(WSE2, {}) == many.cycles(WSE2, {}), "the slowest PE counts, not the average"
        assert few.fragment("s").resident_bytes < many.fragment("s").resident_bytes
    kept = full.copy()
    kept[:, 8:] = 0
    blocks = sparse_linear(kept, Linear(1, 64, 64, Grid(4, 4)), "blocks", (8, 8))
    assert blocks.entries == 2, "a block of zeros is not stored"


def test_orders_balance_what_is_lopsided() -> None:
    random = np.random.default_rng(4)
    pattern = random.random((32, 24)) < np.where(np.arange(24) < 8, 0.9, 0.05)
    lines, block = lines_of(Grid(3, 4), "x"), (8, 8)
    order = balanced_order(pattern, lines, block)
    assert sorted(order) == list(range(24))
    before, after = counts(pattern, lines, block).max(), counts(pattern[:, order], lines, block).max()
    assert after < 0.5 * before
    even = np.ones((32, 24))
    assert balanced_order(even, lines, block) == tuple(range(24))


def test_single_vectors_gain_from_blocks_only() -> None:
    random = np.random.default_rng(5)
    full = random.normal(size=(256, 256)).astype(np.float32)
    dense = Linear(1, 256, 256, Grid(4, 4), dtype="f16")
    scattered = _pruned(random, full, 0.3)
    assert best_form(scattered, dense, WSE2) is dense
    blocks = full.reshape(16, 16, 16, 16) * (random.random((16, 1, 16, 1)) < 0.2)
    found = best_form(blocks.reshape(256, 256), dense, WSE2)
    assert isinstance(found, SparseLinear)
    assert found.form == "blocks"
    many = best_form(_pruned(random, full, 0.05), Linear(64, 256, 256, Grid(4, 4)), WSE2)
    assert isinstance(many, SparseLinear)
    assert many.form in ("rows", "columns")


def test_prices_are_those_of_published_runs() -> None:
    """Tiles R x K times K x M at a density: PE averages of the SDK's simulator (R4), to which the formulas were fitted."""
    published = {
        "rows": [
            (96, 48, 68, 5, 34042), (128, 16, 68, 5, 20298), (64, 12, 132, 10, 19856), (128, 16, 68, 10, 32674), (24, 16, 260, 20, 29416),
            (64, 64, 68, 20, 101805), (32, 8, 260, 30, 29879),
        ],
        "columns": [
            (128, 24, 68, 5, 21216), (128, 16, 68, 5, 14649), (64, 12, 132, 10, 17205), (128, 16, 68, 10, 26935), (24, 16, 260, 20, 29092),
            (128, 16, 68, 20, 51512), (32, 8, 260, 30, 28669),
        ],
    }  # fmt: skip
    for order, runs in published.items():
        for rows, inner, columns, density, cycles in runs:
            entries = round(rows * inner * density / 100)
            price = Price(WSE2, "f32", (columns, rows), ((columns, rows), (columns, inner), (entries,), (entries,)), {"order": order})
            assert abs(sparse_cycles(price) / cycles - 1) < 0.03


def test_a_weight_with_more_entries_than_room_is_refused() -> None:
    kernel = SparseLinear(Linear(1, 4, 4, Grid(1, 1)), 3)
    with pytest.raises(ProgramError, match="store 16 of at most 3"):
        kernel.pack(np.ones((4, 4)))
    with pytest.raises(ProgramError, match="single numbers"):
        SparseLinear(Linear(1, 4, 4, Grid(1, 1)), 3, "rows", (2, 2))


def test_a_form_wins_below_its_density_and_not_above() -> None:
    dense = Linear(128, 32, 64, Grid(1, 1))
    found = winning_densities(dense, MACHINE)
    assert 0 < found["rows"] < 1
    most = 32 * 64
    for entries, wins in ((found["rows"] * most, True), (found["rows"] * most + 1, False)):
        sparse = SparseLinear(dense, round(entries))
        assert (sparse.cycles(MACHINE, {}) < dense.cycles(MACHINE, {})) == wins
    single = winning_densities(replace(dense, m=1), MACHINE)
    assert single["rows"] == single["columns"] == 0
    assert single["blocks 16x16"] > 0
