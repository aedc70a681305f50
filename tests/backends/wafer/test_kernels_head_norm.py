"""Norms of heads that lie whole on a line or cut over several: numpy's results, one set of bits, cycles of the closed form."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, run_both

from cgptc.backends.wafer.affine import Affine
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.kernels.head_norm import HeadNorm
from cgptc.backends.wafer.machine import small_machine
from cgptc.ir.dtypes import f32
from cgptc.testing.tolerances import assert_t2

GRIDS = [(Grid(2, 3), "y"), (Grid(7, 3), "y"), (Grid(2, 5), "x")]


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize(("grid", "along"), GRIDS)
def test_each_head_is_normed_alone(grid: Grid, along: str, dtype: str, keys: bool) -> None:
    random = np.random.default_rng(1)
    attention = CachedAttention(2, 4, 2, 6, 8, 0.5, grid, Affine(), along, dtype)  # type: ignore[arg-type]
    kernel = HeadNorm(attention, keys, 1e-5, weight=not keys)
    order = list(attention.key_order() if keys else attention.query_order())
    heads = len(order) // 6
    storage = format_of(dtype).storage
    x, weight = random.normal(size=(2, heads, 6)).astype(storage), random.normal(size=6).astype(storage)
    given = {"n.weight": np.tile(weight, heads)[order]} if kernel.weight else {}
    run = run_both(single_region(small_machine(8, 8), [kernel.fragment("n")]), given, {"n.x": x.reshape(2, -1)[:, order]})
    check_cycles(kernel, run)
    wide = x.astype(float)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * (weight.astype(float) if kernel.weight else 1)
    flat = expected.reshape(2, -1)[:, order]
    assert_t2(flat, run.outputs["n.y"], magnitude=np.abs(flat), terms=8, accumulator=f32, function="rsqrt")
