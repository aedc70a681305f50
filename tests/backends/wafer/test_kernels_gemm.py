"""Matrix products of tiles: exact on integers on every grid, one set of bits, closed-form cycles."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, integers, run_both

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.cannon import Cannon
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.kernels.gemm import Summa, Transposed
from cgptc.backends.wafer.machine import WSE2, small_machine

MACHINE = small_machine(8, 8)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 2), (2, 3), (3, 3), (4, 2)])
@pytest.mark.parametrize("kind", [Summa, Transposed])
def test_panels_multiply_exactly_on_every_grid(kind: type, height: int, width: int) -> None:
    random = np.random.default_rng(height * 10 + width)
    for (m, k, n), dtype in (((5, 7, 3), "f32"), ((4, 6, 8), "f16")):
        kernel = kind(m, k, n, Grid(height, width), dtype, "f32")
        storage = np.float32 if dtype == "f32" else np.float16
        a, b = integers(random, m, k, dtype=storage), integers(random, *((k, n) if kind is Summa else (n, k)), dtype=storage)
        run = run_both(single_region(MACHINE, [kernel.fragment("g")]), {}, {"g.a": a, "g.b": b})
        np.testing.assert_array_equal(run.outputs["g.y"], a @ b if kind is Summa else a @ b.T)
        check_cycles(kernel, run)


@pytest.mark.parametrize("side", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("ring", ["neighbour", "interleaved"])
def test_cannon_multiplies_exactly_on_every_square(ring: str, side: int) -> None:
    random = np.random.default_rng(side)
    kernel = Cannon(5, 7, 6, Grid(side, side), ring)  # type: ignore[arg-type]
    a, b = integers(random, 5, 7), integers(random, 7, 6)
    run = run_both(single_region(MACHINE, [kernel.fragment("g")], at=(1, 1)), {}, {"g.a": a, "g.b": b})
    np.testing.assert_array_equal(run.outputs["g.y"], a @ b)
    check_cycles(kernel, run)


def test_the_interleaved_ring_beats_the_plain_one_on_large_grids() -> None:
    grid = Grid(256, 256)
    plain, interleaved = (Cannon(1024, 1024, 1024, grid, ring).cycles(WSE2, {}) for ring in ("neighbour", "interleaved"))  # type: ignore[arg-type]
    assert interleaved < plain


def test_cannon_refuses_a_grid_that_is_no_square() -> None:
    with pytest.raises(ProgramError, match="square grid"):
        Cannon(2, 2, 2, Grid(2, 3))
