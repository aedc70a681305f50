"""Tolerances pass what arithmetic explains, and fail what it does not, with messages that say where and why."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cgptc.testing.tolerances
from cgptc.ir.dtypes import DType, bf16, f16, f32
from cgptc.ir.op import Array
from cgptc.testing import (
    Agreement,
    NoiseFloor,
    assert_t0,
    assert_t1,
    assert_t2,
    assert_t3,
    noise_floor,
    random_array,
    t0_fault,
    t1_fault,
    t2_fault,
    t3_fault,
    top1_agreement,
)
from cgptc.testing.tolerances import SMALLEST, UNIT_ROUNDOFF, rmse, t3_largest


def test_unit_roundoff_and_smallest_number_are_those_of_each_type() -> None:
    for dtype, unit in UNIT_ROUNDOFF.items():
        one = np.ones((), dtype.numpy)
        assert one + np.asarray(2 * unit, dtype.numpy) != one
        assert np.asarray(1 + unit, np.float64).astype(dtype.numpy) == one  # a tie, to even
        assert np.asarray(SMALLEST[dtype], np.float64).astype(dtype.numpy) > 0
        assert np.asarray(SMALLEST[dtype] / 4, np.float64).astype(dtype.numpy) == 0


def test_t0_takes_equal_values_only() -> None:
    x = np.array([1.0, np.nan, -np.inf, 0.0], np.float32)
    assert_t0(x, np.array([1.0, np.nan, -np.inf, -0.0], np.float32))
    assert t0_fault(np.array([1, 2]), np.array([1, 3])) is not None
    assert t0_fault(np.array([True]), np.array([False])) is not None
    assert "shapes differ: expected [2], got [2, 1]" in str(t0_fault(np.zeros(2), np.zeros((2, 1))))
    assert "dtypes differ: expected float32, got float64" in str(t0_fault(x, x.astype(np.float64)))
    fault = t0_fault(x, np.array([1.0, 2.0, -np.inf, 1e-45], np.float32))
    assert fault is not None
    assert (fault.index, fault.wrong_count) == ((1,), 2)
    assert_t0(np.array([1.5], bf16.numpy), np.array([1.5], bf16.numpy))
    assert_t0(np.zeros((0, 3)), np.zeros((0, 3)))


@pytest.mark.parametrize(
    ("expected", "actual"),
    [([np.nan], [1.0]), ([1.0], [np.nan]), ([np.inf], [-np.inf]), ([np.inf], [1e308]), ([1e308], [np.inf]), ([np.nan], [np.inf])],
)
def test_nan_and_infinity_must_stand_at_the_same_places(expected: list[float], actual: list[float]) -> None:
    left, right = np.array(expected), np.array(actual)
    for fault in (
        t0_fault(left, right),
        t1_fault(left, right, depth=1000, magnitude=1e300),
        t2_fault(left, right, magnitude=1e300, terms=1000),
        t3_fault(left, right, NoiseFloor(1e300, 1e300)),
    ):
        assert fault is not None


def test_equal_special_values_pass_every_rule() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert t1_fault(x, x.copy(), depth=1) is None
    assert t2_fault(x, x.copy(), magnitude=np.abs(x), terms=3) is None
    assert t3_fault(x, x.copy(), NoiseFloor(0, 0)) is None


def test_t1_scales_with_depth_and_the_largest_magnitude() -> None:
    x = np.array([1.0, 1000.0])
    off = x + np.array([64 * 2.0**-53 * 900, 0])
    assert t1_fault(x, off, depth=1) is None
    assert t1_fault(x, off + np.array([64 * 2.0**-53 * 200, 0]), depth=1) is not None
    assert t1_fault(x, off + np.array([64 * 2.0**-53 * 200, 0]), depth=2) is None
    assert t1_fault(x / 1000, off / 1000 + 1e-14, depth=1) is not None
    assert t1_fault(x / 1000, off / 1000 + 1e-14, depth=1, magnitude=1000) is None
    assert t1_fault(np.array([1, 2]), np.array([1, 2]), depth=1) is None
    assert t1_fault(np.array([1, 2]), np.array([1, 3]), depth=99) is not None


@given(st.integers(0, 999), st.integers(1, 300), st.sampled_from([f32, f16, bf16]), st.sampled_from(["normal", "cancelling", "tiny"]))
def test_t2_takes_dot_products_in_any_order_and_refuses_a_dropped_term(seed: int, terms: int, dtype: DType, kind: str) -> None:
    generator = np.random.default_rng(seed)
    a, b = (random_array((3, terms), dtype, generator, "normal" if kind == "tiny" and dtype is not f32 else kind) for _ in range(2))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    reference, magnitude = (wide_a * wide_b).sum(1), np.abs(wide_a * wide_b).sum(1)
    order = generator.permutation(terms)
    total = np.zeros(3, np.float32)
    for k in order:
        total = total + a[:, k].astype(np.float32) * b[:, k].astype(np.float32)
    assert_t2(reference, total.astype(dtype.numpy), magnitude=magnitude, terms=terms, accumulator=f32, seed=seed)
    if dtype is f32 and kind == "normal":
        dropped = np.abs(wide_a[:, 0] * wide_b[:, 0]).max()
        if dropped > 1e-3 * magnitude.max():
            wrong = (reference - wide_a[:, 0] * wide_b[:, 0]).astype(np.float32)
            assert t2_fault(reference, wrong, magnitude=magnitude, terms=terms) is not None


def test_t2_allows_a_function_its_own_error() -> None:
    x = np.float64(3.0)
    off = (x * (1 + 4 * 2.0**-24)).astype(np.float32).reshape(1)
    assert t2_fault(np.array([x]), off, magnitude=0.0, terms=1, function="tanh") is None
    assert t2_fault(np.array([x]), off, magnitude=0.0, terms=1, function=4) is None
    assert t2_fault(np.array([x]), off, magnitude=0.0, terms=1) is not None
    assert t2_fault(np.array([1, 2]), np.array([1, 2]), magnitude=0, terms=1) is None
    with pytest.raises(KeyError):
        t2_fault(np.array([x]), off, magnitude=0.0, terms=1, function="cosine")


def test_t2_stays_finite_where_the_certain_bound_does_not_exist() -> None:
    x = np.ones(1, np.float16)
    assert t2_fault(x, x, magnitude=1.0, terms=5000) is None
    assert t2_fault(x, x * 0, magnitude=1e-4, terms=5000) is not None


def test_t3_measures_against_the_noise_of_right_results() -> None:
    generator = np.random.default_rng(0)
    reference = generator.normal(size=1000)
    floor = noise_floor(reference, [reference + 1e-3 * generator.normal(size=1000) for _ in range(5)])
    assert_t3(reference, reference + 1e-3 * generator.normal(size=1000), floor)
    assert t3_largest(floor) == 4 * floor.largest
    biased = t3_fault(reference, reference + 3e-3, floor)
    assert biased is not None
    assert "RMSE beyond the bound" in str(biased)
    spike = reference.copy()
    spike[7] += 1.0
    fault = t3_fault(reference, spike, floor)
    assert fault is not None
    assert fault.index == (7,)
    with pytest.raises(ValueError, match="at least one sample"):
        noise_floor(reference, [])


def test_errors_are_measured_where_the_reference_is_finite() -> None:
    assert rmse(np.array([np.inf, 1.0, 2.0]), np.array([np.inf, 4.0, 6.0])) == math.sqrt(12.5)
    assert rmse(np.array([np.nan]), np.array([np.nan])) == 0


def test_top1_agreement_counts_rows_that_the_error_cannot_turn() -> None:
    reference = np.array([[0.0, 1.0, 5.0], [1.0, 1.05, 0.0], [3.0, 0.0, 0.0]])
    actual = np.array([[0.0, 1.0, 5.0], [1.05, 1.0, 0.0], [0.0, 0.0, 3.0]])
    assert top1_agreement(reference, actual, 0.1) == Agreement(agreeing=1, decided=2, total=3)


@pytest.mark.parametrize(
    "check",
    [
        lambda x, y: assert_t0(x, y, where="block.2 (gpt.py:9)", seed=5),
        lambda x, y: assert_t1(x, y, depth=3, where="block.2 (gpt.py:9)", seed=5),
        lambda x, y: assert_t2(x, y, magnitude=2.0, terms=16, where="block.2 (gpt.py:9)", seed=5),
        lambda x, y: assert_t3(x, y, NoiseFloor(1e-9, 1e-9), where="block.2 (gpt.py:9)", seed=5),
    ],
)
def test_messages_say_where_what_and_with_which_seed(check: Callable[[Array, Array], None]) -> None:
    x = np.ones((2, 3))
    y = x.copy()
    y[1, 2] = 1.5
    with pytest.raises(AssertionError) as caught:
        check(x, y)
    message = str(caught.value)
    for part in ("at [1, 2]: expected 1.0, got 1.5", "in block.2 (gpt.py:9)", "seed 5", "1 of 6 elements"):
        assert part in message


def test_no_other_module_of_the_kit_holds_a_tolerance() -> None:
    folder = Path(cgptc.testing.tolerances.__file__).parent
    for path in folder.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = {call.func.attr for call in calls if isinstance(call.func, ast.Attribute)}
        assert not names & {"allclose", "isclose", "assert_allclose", "approx"}, path.name
