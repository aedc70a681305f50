"""Kernels on rows dealt out to lines: the bits of all rows on every line, and cycles as told."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, run_both

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.elementwise import Elementwise
from cgptc.backends.wafer.kernels.fragment import Direction, Grid, Kernel, Reduction
from cgptc.backends.wafer.kernels.gated import Gated
from cgptc.backends.wafer.kernels.norm import Norm
from cgptc.backends.wafer.kernels.own_rows import Dealt, OwnRows
from cgptc.backends.wafer.kernels.softmax import Softmax
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.plan.layouts import Lie
from cgptc.backends.wafer.plan.select import Ground, kernel_of
from cgptc.backends.wafer.plan.tasks import Task
from cgptc.backends.wafer.plan.works import MapWork, NormWork

WIDTH = 7
GRID = Grid(3, 2)

KERNELS: dict[str, Callable[[int, Direction, str], Kernel]] = {
    "norm": lambda m, along, dtype: Norm(m, WIDTH, GRID, along, dtype),
    "softmax": lambda m, along, dtype: Softmax(m, WIDTH, GRID, along, dtype),
    "gated": lambda m, along, dtype: Gated("silu", GRID.spread((m, WIDTH), along), dtype),
    "reciprocal": lambda m, along, dtype: Elementwise("reciprocal", GRID.spread((m, WIDTH), along), dtype),
}


@pytest.mark.parametrize(("m", "along", "dtype"), [(2, "x", "f32"), (5, "y", "f16"), (6, "x", "f32")])
@pytest.mark.parametrize("name", KERNELS)
def test_own_rows_give_the_bits_of_all_rows(name: str, m: int, along: Direction, dtype: str) -> None:
    random = np.random.default_rng(m)
    made, lines = KERNELS[name], GRID.height if along == "x" else GRID.width
    alone = made(m, along, dtype)
    dealt = OwnRows(made(Dealt(m, lines, along, dtype).rows, along, dtype), m, along, dtype, Reduction("tree"))
    storage = format_of(dtype).storage
    given = {f"k.{role}": random.normal(size=(m, WIDTH)).astype(storage) for role in "xz"}
    weights = {f"k.{role}": random.normal(size=WIDTH).astype(storage) for role in ("weight", "bias")}
    found = []
    for kernel in (alone, dealt):
        fragment = kernel.fragment("k")
        loaded = {slot.buffer: weights[slot.buffer] for slot in fragment.weights}
        taken = {slot.buffer: given[slot.buffer] for slot in fragment.inputs}
        run = run_both(single_region(small_machine(2, 3), [fragment]), loaded, taken)
        check_cycles(kernel, run)
        found.append(run.outputs["k.y"])
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("work", "rows", "dealt"),
    [
        (MapWork("gelu", 64), 1, False),
        (MapWork("gelu", 64), 16, True),
        (MapWork("relu", 64), 16, False),
        (NormWork(64, 1e-5, rms=False, weight=True, bias=True), 32, True),
        (NormWork(64, 1e-5, rms=True, weight=True, bias=False), 2, False),
    ],
)
def test_rows_are_dealt_out_where_that_costs_less(work: MapWork | NormWork, rows: int, *, dealt: bool) -> None:
    ground = Ground(small_machine(8, 8), Grid(8, 8), {"x": Lie("x"), "y": Lie("x")}, "f32", 64)
    assert isinstance(kernel_of(Task("y", work, ("x",), rows=rows), ground), OwnRows) == dealt
