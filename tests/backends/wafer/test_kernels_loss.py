"""Losses over PEs: one set of bits, close to the operations' float64 meaning, cycles of the closed form."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, run_both

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction
from cgptc.backends.wafer.kernels.loss import CrossEntropy, SquaredError
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.program import Scalar
from cgptc.ir.dtypes import f32
from cgptc.ir.ops import loss as ops
from cgptc.testing.tolerances import assert_t2

MACHINE = small_machine(8, 8)


@pytest.mark.parametrize("summary", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize(("along", "smoothing"), [("x", 0.0), ("y", 0.1)])
def test_cross_entropy_is_that_of_the_model(along: str, smoothing: float, dtype: str, summary: str) -> None:
    random = np.random.default_rng(1)
    storage = format_of(dtype).storage
    for n, grid in ((17, Grid(3, 4)), (8, Grid(4, 2))):
        kernel = CrossEntropy(5, n, grid, along, dtype, summary, 3, smoothing, Reduction("tree"))  # type: ignore[arg-type]
        x = (random.normal(size=(5, n)) * 3).astype(storage)
        target = np.array([0, 3, n - 1, 4, 2])
        run = run_both(single_region(MACHINE, [kernel.fragment("l")]), {}, {"l.x": x, "l.target": target})
        check_cycles(kernel, run)
        expected = ops.CrossEntropy(summary, 3, smoothing).evaluate(x.astype(np.float64), target)
        size = np.abs(x.astype(float)).max() * (5 if summary == "sum" else 1) + 10
        assert_t2(expected, run.outputs["l.y"], magnitude=size, terms=n + 5, accumulator=f32, function="exp")


def test_a_mean_over_ignored_rows_alone_is_no_number() -> None:
    kernel = CrossEntropy(2, 4, Grid(1, 2), ignore=-1)
    given = {"l.x": np.ones((2, 4)), "l.target": np.array([-1, -1])}
    assert np.isnan(run_both(single_region(MACHINE, [kernel.fragment("l")]), {}, given).outputs["l.y"])


def test_a_class_that_cannot_be_does_not_spoil_the_others() -> None:
    x = np.array([[0.0, -np.inf, 1.0]], np.float32)
    kernel = CrossEntropy(1, 3, Grid(1, 2), summary="sum")
    found = run_both(single_region(MACHINE, [kernel.fragment("l")]), {}, {"l.x": x, "l.target": np.array([2])}).outputs["l.y"]
    assert_t2(np.log1p(np.exp(-1.0)), found, magnitude=2.0, terms=4, function="exp")


@pytest.mark.parametrize("summary", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_squared_errors_ignore_padding(dtype: str, summary: str) -> None:
    random = np.random.default_rng(2)
    storage = format_of(dtype).storage
    for n in (17, 8):
        kernel = SquaredError(3, n, Grid(2, 4), "x", dtype, summary, Reduction("two-phase", 2))  # type: ignore[arg-type]
        x, z = random.normal(size=(3, n)).astype(storage), random.normal(size=(3, n)).astype(storage)
        run = run_both(single_region(MACHINE, [kernel.fragment("l")]), {}, {"l.x": x, "l.z": z})
        check_cycles(kernel, run)
        expected = ops.MseLoss(summary).evaluate(x.astype(np.float64), z.astype(np.float64))
        assert_t2(expected, run.outputs["l.y"], magnitude=expected, terms=3 * n + 2, accumulator=f32)


@pytest.mark.parametrize("summary", ["mean", "sum"])
def test_losses_run_on_over_items(summary: str) -> None:
    random = np.random.default_rng(3)
    x, z = random.normal(size=(3, 2, 9)).astype(np.float32), random.normal(size=(3, 2, 9)).astype(np.float32)
    target, mask = np.array([[1, 8], [-1, 0], [-1, -1]]), np.array([[1, 1], [1, 0], [0, 0]], np.float32)
    grid = Grid(2, 4)
    entropy = CrossEntropy(2, 9, grid, summary=summary, ignore=-1, running=True)  # type: ignore[arg-type]
    squares = SquaredError(2, 9, grid, summary=summary, running=True, masked=True)  # type: ignore[arg-type]
    inputs: list[tuple[CrossEntropy | SquaredError, dict[str, np.ndarray]]] = [  # type: ignore[type-arg]
        (entropy, {"l.x": x, "l.target": target}),
        (squares, {"l.x": x, "l.z": z, "l.mask": mask}),
    ]
    found = []
    for kernel, given in inputs:
        program = single_region(MACHINE, [kernel.fragment("l")], scalars=[Scalar("count", 1, 3)], items=var("count"))
        run = run_both(program, {}, given, {"count": 3})
        found.append(run.outputs["l.y"][:, 0, 0])
        once = single_region(MACHINE, [kernel.fragment("l")])
        check_cycles(kernel, run_both(once, {}, {name: array[0] for name, array in given.items()}))
    for number in range(3):
        seen = slice(0, number + 1)
        losses = ops.CrossEntropy(summary, -1).evaluate(x[seen].reshape(-1, 9).astype(np.float64), target[seen].reshape(-1))
        assert_t2(losses, found[0][number], magnitude=60.0, terms=20, accumulator=f32, function="exp")
        chosen = mask[seen] > 0
        errors = ops.MseLoss(summary).evaluate(x[seen][chosen].astype(np.float64), z[seen][chosen].astype(np.float64))
        assert_t2(errors, found[1][number], magnitude=errors, terms=60, accumulator=f32)
