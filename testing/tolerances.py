"""How far two results may lie apart. The only place of the project that holds a tolerance.

The reference is always the float64 evaluation of the same stored, already rounded weights and inputs.

* T0: exact. Integers, booleans, data movement, linear arithmetic on small integers.
* T1: semantics, both sides in float64.
* T2: one op in its real dtype, by a priori bounds (Higham, *Accuracy and Stability of Numerical Algorithms*, ch. 3 and 4).
* T3: a whole model in its real dtype, against the noise that the dtype itself makes.

Each has a function that gives the `Fault` found or None, and one that raises AssertionError with it. NaN and infinities must stand at the
same places in all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from cgptc.ir.dtypes import DType, bf16, f16, f32, f64, from_numpy
from cgptc.ir.op import Array

T1_FACTOR = 64
T2_PROBABLE = 8
T3_RMSE_FACTOR = 2
T3_MAX_FACTOR = 4
TOP_TWO_FACTOR = 2

UNIT_ROUNDOFF = {f64: 2.0**-53, f32: 2.0**-24, f16: 2.0**-11, bf16: 2.0**-8}
"""Half the distance from 1 to the next number."""

SMALLEST = {f64: 2.0**-1074, f32: 2.0**-149, f16: 2.0**-24, bf16: 2.0**-133}
"""The smallest positive number, subnormal."""

FUNCTION_ULPS = {"exp": 4.0, "erf": 4.0, "tanh": 4.0, "rsqrt": 4.0, "division": 1.0, "sqrt": 1.0}
"""Units in the last place that one call of a function may be off, for `t2_fault`'s ``function``."""


@dataclass(frozen=True)
class Fault:
    """Where two results lie furthest beyond the bound. ``notes`` are what the bound was made of."""

    rule: str
    what: str
    index: tuple[int, ...] = ()
    expected: str = ""
    actual: str = ""
    error: float = math.nan
    bound: float = math.nan
    wrong_count: int = 0
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{self.rule}: {self.what}"]
        if self.expected:
            lines.append(f"  at {list(self.index)}: expected {self.expected}, got {self.actual}")
        if not math.isnan(self.error):
            lines.append(f"  error {self.error:.3e}, bound {self.bound:.3e}")
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)


def _raise(fault: Fault | None, where: str, seed: int | None) -> None:
    if fault is None:
        return
    lines = [str(fault)]
    if where:
        lines.append(f"  in {where}")
    if seed is not None:
        lines.append(f"  seed {seed}")
    raise AssertionError("\n".join(lines))


def _shape_fault(rule: str, expected: Array, actual: Array) -> Fault | None:
    if expected.shape != actual.shape:
        return Fault(rule, f"shapes differ: expected {list(expected.shape)}, got {list(actual.shape)}")
    return None


def _wide(array: Array) -> Array:
    return np.asarray(array).astype(np.float64)


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def _special_fault(rule: str, expected: Array, actual: Array) -> Fault | None:
    """A fault where NaN or an infinity stands in one and not in the other."""
    same = np.where(np.isfinite(expected), np.isfinite(actual), (expected == actual) | (np.isnan(expected) & np.isnan(actual)))
    if same.all():
        return None
    at = _index(int(np.argmin(same)), same.shape)
    wrong = int(same.size - np.count_nonzero(same))
    return Fault(rule, f"{wrong} of {same.size} elements: NaN or infinity", at, str(expected[at]), str(actual[at]), wrong_count=wrong)


def _bounded_fault(rule: str, expected: Array, actual: Array, bound: Array | float, notes: tuple[str, ...] = ()) -> Fault | None:
    """The worst element that is further than its bound from what is expected, relative to that bound."""
    fault = _shape_fault(rule, expected, actual) or _special_fault(rule, expected := _wide(expected), actual := _wide(actual))
    if fault is not None or expected.size == 0:
        return fault
    finite = np.isfinite(expected)
    error = np.where(finite, np.abs(np.where(finite, actual, 0) - np.where(finite, expected, 0)), 0)
    limit = np.broadcast_to(np.asarray(bound, np.float64), error.shape)
    wrong = ~(error <= limit)
    if not wrong.any():
        return None
    with np.errstate(all="ignore"):
        excess = np.where(wrong, error / np.maximum(limit, SMALLEST[f64]), 0)
    at = _index(int(np.argmax(excess)), excess.shape)
    count = int(np.count_nonzero(wrong))
    what = f"{count} of {error.size} elements beyond the bound"
    return Fault(rule, what, at, repr(float(expected[at])), repr(float(actual[at])), float(error[at]), float(limit[at]), count, notes)


def t0_fault(expected: Array, actual: Array) -> Fault | None:
    """T0: the same dtype, shape and values; NaN equals NaN, and 0.0 equals -0.0, which the order of a sum decides."""
    if expected.dtype != actual.dtype:
        return Fault("T0", f"dtypes differ: expected {expected.dtype}, got {actual.dtype}")
    if fault := _shape_fault("T0", expected, actual):
        return fault
    with np.errstate(all="ignore"):
        wrong = expected != actual
        if expected.dtype.kind not in "iub":
            wrong &= ~(np.isnan(expected.astype(np.float64)) & np.isnan(actual.astype(np.float64)))
    if not wrong.any():
        return None
    at = _index(int(np.argmax(wrong)), wrong.shape)
    count = int(np.count_nonzero(wrong))
    return Fault("T0", f"{count} of {wrong.size} elements differ", at, str(expected[at]), str(actual[at]), wrong_count=count)


def assert_t0(expected: Array, actual: Array, *, where: str = "", seed: int | None = None) -> None:
    """Raise AssertionError unless the results are equal; see `t0_fault`."""
    _raise(t0_fault(expected, actual), where, seed)


def t1_fault(expected: Array, actual: Array, *, depth: int, magnitude: float | None = None, unit: DType = f64) -> Fault | None:
    """T1: at most ``64 · depth · 2⁻⁵³ · S`` apart, both evaluated in float64. Results that are not floating point fall under T0.

    ``depth`` counts the nodes on the longest path. S is the largest magnitude of the expected result, or ``magnitude`` where that is
    larger, such as the magnitude of terms that cancel. ``unit`` is what the actual result was computed in, whose roundoff then stands in
    the place of 2⁻⁵³.
    """
    if expected.dtype.kind in "iub":
        return t0_fault(expected, actual)
    finite = np.abs(_wide(expected)[np.isfinite(_wide(expected))])
    scale = max(float(finite.max(initial=0.0)), magnitude or 0.0)
    bound = T1_FACTOR * max(depth, 1) * UNIT_ROUNDOFF[unit] * scale
    return _bounded_fault("T1", expected, actual, bound, (f"depth {depth}, S {scale:.3e}",))


def assert_t1(
    expected: Array, actual: Array, *, depth: int, magnitude: float | None = None, where: str = "", seed: int | None = None
) -> None:
    """Raise AssertionError unless the results agree in float64; see `t1_fault`."""
    _raise(t1_fault(expected, actual, depth=depth, magnitude=magnitude), where, seed)


def t2_fault(
    expected: Array,
    actual: Array,
    *,
    magnitude: Array | float,
    terms: int,
    accumulator: DType | None = None,
    function: str | float = 0.0,
) -> Fault | None:
    """T2: one op in the dtype of ``actual`` against the float64 reference.

    With K = ``terms`` summed per element, S = ``magnitude`` = Σ|a||b| per element, u the unit roundoff of the ``accumulator`` (by default
    the dtype of ``actual``), c = ``function`` (a name of `FUNCTION_ULPS` or a number) and y the reference, elements may differ by
    ``min(K·u/(1−K·u), 8·√K·u)·S + c·u·|y| + u_out·|y| + K·η + η_out``, η being the smallest number of each dtype.
    """
    output = from_numpy(actual.dtype)
    if not output.is_float:
        return t0_fault(expected, actual)
    inner = accumulator or output
    u, c = UNIT_ROUNDOFF[inner], FUNCTION_ULPS[function] if isinstance(function, str) else function
    certain = terms * u / (1 - terms * u) if terms * u < 1 else math.inf
    factor = min(certain, T2_PROBABLE * math.sqrt(terms) * u)
    reference = np.abs(_wide(expected))
    with np.errstate(all="ignore"):
        bound = factor * np.asarray(magnitude, np.float64) + (c * u + UNIT_ROUNDOFF[output]) * reference
        bound = np.where(np.isfinite(bound), bound, 0) + terms * SMALLEST[inner] + SMALLEST[output]
        largest = float(np.max(magnitude, initial=0.0))
    notes = (f"K {terms}, largest S {largest:.3e}, u 2**{round(math.log2(u))} ({inner}), c {c:g}, output {output}",)
    return _bounded_fault("T2", expected, actual, bound, notes)


def assert_t2(
    expected: Array,
    actual: Array,
    *,
    magnitude: Array | float,
    terms: int,
    accumulator: DType | None = None,
    function: str | float = 0.0,
    where: str = "",
    seed: int | None = None,
) -> None:
    """Raise AssertionError unless one op's result is as near as its arithmetic allows; see `t2_fault`."""
    fault = t2_fault(expected, actual, magnitude=magnitude, terms=terms, accumulator=accumulator, function=function)
    _raise(fault, where, seed)


@dataclass(frozen=True)
class NoiseFloor:
    """The error that a dtype itself makes: root mean square and largest, over the samples of `noise_floor`."""

    rmse: float
    largest: float


def rmse(expected: Array, actual: Array) -> float:
    """Root of the mean squared difference over the elements that are finite in ``expected``."""
    reference, other = _wide(expected), _wide(actual)
    finite = np.isfinite(reference)
    difference = other[finite] - reference[finite] if finite.any() else np.zeros(1)
    return float(np.sqrt(np.mean(difference * difference)))


def largest_error(expected: Array, actual: Array) -> float:
    """The largest difference over the elements that are finite in ``expected``."""
    reference, other = _wide(expected), _wide(actual)
    finite = np.isfinite(reference)
    return float(np.max(np.abs(other[finite] - reference[finite]), initial=0.0))


def noise_floor(reference: Array, samples: Iterable[Array]) -> NoiseFloor:
    """The largest error of several right results in the real dtype: eager PyTorch, random orders of reduction.

    Raises ValueError for no sample.
    """
    pairs = [(rmse(reference, sample), largest_error(reference, sample)) for sample in samples]
    if not pairs:
        raise ValueError("a noise floor needs at least one sample")
    return NoiseFloor(max(pair[0] for pair in pairs), max(pair[1] for pair in pairs))


def t3_fault(reference: Array, actual: Array, floor: NoiseFloor) -> Fault | None:
    """T3: a whole model in its real dtype: RMSE at most twice the floor's, largest error at most four times the floor's."""
    limit = t3_largest(floor)
    notes = (f"noise floor: rmse {floor.rmse:.3e}, largest {floor.largest:.3e}",)
    if fault := _bounded_fault("T3", reference, actual, limit, notes):
        return fault
    error = rmse(reference, actual)
    if not error <= T3_RMSE_FACTOR * floor.rmse:
        return Fault("T3", "RMSE beyond the bound", error=error, bound=T3_RMSE_FACTOR * floor.rmse, notes=notes)
    return None


def assert_t3(reference: Array, actual: Array, floor: NoiseFloor, *, where: str = "", seed: int | None = None) -> None:
    """Raise AssertionError unless a model's result is within its noise; see `t3_fault`."""
    _raise(t3_fault(reference, actual, floor), where, seed)


@dataclass(frozen=True)
class Agreement:
    """How often the largest element along the last axis is the same: ``agreeing`` of the ``decided`` rows, of ``total``.

    A row is decided where the reference's two largest elements are further apart than twice the error that is allowed.
    """

    agreeing: int
    decided: int
    total: int


def top1_agreement(reference: Array, actual: Array, error: float) -> Agreement:
    """The agreement of two arrays of logits [..., classes], at least two classes, where each logit may be off by ``error``."""
    expected = _wide(reference).reshape(-1, reference.shape[-1])
    other = _wide(actual).reshape(expected.shape)
    top = np.sort(expected, axis=-1)[:, -2:]
    decided = top[:, 1] - top[:, 0] > TOP_TWO_FACTOR * error
    same = expected.argmax(axis=-1) == other.argmax(axis=-1)
    return Agreement(int(np.count_nonzero(same & decided)), int(np.count_nonzero(decided)), len(expected))


def t3_largest(floor: NoiseFloor) -> float:
    """The largest error that T3 allows, which `top1_agreement` takes."""
    return T3_MAX_FACTOR * floor.largest
