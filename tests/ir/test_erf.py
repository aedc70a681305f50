from __future__ import annotations

import math

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from cgptc.ir.erf import erf

BOUNDARIES = (0.84375, 1.25, 1 / 0.35, 6.0)


def ulps(x: np.ndarray) -> np.ndarray:
    """Distance from ``math.erf`` in units in the last place."""
    expected = np.array([math.erf(value) for value in x.reshape(-1)]).reshape(x.shape)
    return np.abs(erf(x) - expected) / np.spacing(np.abs(expected))


@given(st.floats(allow_nan=False, allow_infinity=False, width=64))
@example(5e-324)
@example(2.2250738585072014e-308)
@example(5.999999999999999)
def test_erf_is_within_an_ulp_of_the_library_everywhere(x: float) -> None:
    assert ulps(np.array([x]))[0] <= 1


def test_erf_is_within_an_ulp_in_every_interval() -> None:
    random = np.random.default_rng(0)
    for low, high in zip((0.0, *BOUNDARIES), (*BOUNDARIES, 7.0), strict=True):
        assert ulps(random.uniform(low, high, 2000)).max() <= 1


def test_erf_is_within_an_ulp_around_every_boundary() -> None:
    for boundary in BOUNDARIES:
        assert ulps(boundary + np.arange(-4, 5) * np.spacing(boundary)).max() <= 1


def test_erf_is_odd_to_the_bit_zeros_included() -> None:
    x = np.concatenate([np.linspace(0, 7, 500), [0.0]])
    assert np.array_equal(erf(-x).view(np.int64), (-erf(x)).view(np.int64))


def test_erf_ends_at_one_and_keeps_nan() -> None:
    assert erf(np.array([np.inf, -np.inf, 40.0])).tolist() == [1.0, -1.0, 1.0]
    assert np.isnan(erf(np.array([np.nan])))[0]


def test_erf_of_float32_is_the_rounded_float64_result() -> None:
    x = np.linspace(-4, 4, 300).astype(np.float32)
    assert erf(x).dtype == np.float32
    assert np.array_equal(erf(x), erf(x.astype(np.float64)).astype(np.float32))


def test_erf_keeps_shapes_empty_and_scalar() -> None:
    assert erf(np.zeros((2, 0, 3))).shape == (2, 0, 3)
    assert erf(np.array(0.5)).shape == ()
