"""Scalar functions from add, multiply, select and integer bit operations, mapped over arrays.

Each takes and gives carrier values of its format. Those of f16 and bf16 are computed in f32 and rounded once. `BOUNDS` states each
function's largest error in units of roundoff of the format it is computed in, relative to the result; tests measure it. Polynomials are
Chebyshev interpolants computed in 60 digits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cgptc.backends.wafer.arithmetic.formats import F64, Array, Format

BOUNDS: dict[str, float] = {
    "exp": 2.0,
    "log": 2.0,
    "reciprocal": 2.0,
    "rsqrt": 2.25,
    "sqrt": 2.5,
    "erf": 3.5,
    "tanh": 4.0,
    "sigmoid": 4.0,
}
"""Largest relative error, in units of roundoff (2**-24 in f32, 2**-53 in f64)."""

OPERATIONS: dict[str, int] = {
    "exp": 20,
    "log": 30,
    "reciprocal": 14,
    "rsqrt": 20,
    "sqrt": 21,
    "erf": 58,
    "tanh": 52,
    "sigmoid": 38,
    "gelu": 62,
    "gelu_tanh": 60,
    "silu": 39,
}
"""Arithmetic and bit operations per element in f32, which is what a PE is charged for the mapped scalar code."""


@dataclass(frozen=True)
class _Real:
    """Constants of one computing format."""

    unsigned: type[np.unsignedinteger]
    signed: type[np.signedinteger]
    mantissa: int
    bias: int
    rounder: float
    ln2_high: float
    ln2_low: float
    exp_low: float
    exp_high: float
    exp: tuple[float, ...]
    erf: tuple[float, ...]
    erfc: tuple[float, ...]
    erf_high: float
    tanh: tuple[float, ...]
    tanh_high: float
    reciprocal_seed: int
    rsqrt_seed: int
    newton_steps: int


# fmt: off
_SINGLE = _Real(
    np.uint32, np.int32, 23, 127, 1.5 * 2.0**23, 0.693359375, -2.12194440e-4, -110.0, 90.0,
    exp=(0.49999999999999956, 0.16666577025597493, 0.04166655466209469, 0.00836317307459622, 0.0013926176115068491),
    erf=(1.1283791658483509, -0.37612626666720334, 0.11283594715160218, -0.026854212010626412, 0.005189087423433974,
         -0.000801686428716587, 7.875875062685488e-05),
    erfc=(0.25539567631050575, 0.8543716966233, 0.9666327764514281, 0.6318277851765535, 0.059726528437586794,
          -0.22380652880268564, -0.05424995703495788, 0.12025944347937223, 0.012768445934961778),
    erf_high=4.0,
    tanh=(-0.3333333329502591, 0.13333324200007313, -0.0539647004451583, 0.021818449128639904, -0.00852633305780133,
          0.0025263907105745136),
    tanh_high=10.0, reciprocal_seed=0x7EF311C3, rsqrt_seed=0x5F3759DF, newton_steps=3,
)
_DOUBLE = _Real(
    np.uint64, np.int64, 52, 1023, 1.5 * 2.0**52, 6.93147180369123816490e-01, 1.90821492927058770002e-10, -760.0, 715.0,
    exp=(0.5, 0.1666666666666667, 0.04166666666666667, 0.008333333333326141, 0.0013888888888883752, 0.00019841269874800493,
         2.4801587325533343e-05, 2.7557255425746075e-06, 2.7557273661372285e-07, 2.510520637410658e-08, 2.0914679367844544e-09),
    erf=(1.1283791670955126, -0.37612638903183754, 0.1128379167095512, -0.02686617064512984, 0.0052239776254232985,
         -0.000854832702193483, 0.00012055332902888736, -1.4925647567519332e-05, 1.6462045441468418e-06, -1.6364642158167616e-07,
         1.4792401209404813e-08, -1.216456005728345e-09, 8.709045129053106e-11, -4.230945824295338e-12),
    erfc=(0.25539567631050575, 0.8543716948279168, 0.9666327769698654, 0.6318286481258651, 0.05972627846951907,
          -0.22391877565748136, -0.05421716812860033, 0.12569305988760351, 0.01115024325294238, -0.08927295400845538,
          0.028185414429581588, 0.056484886154803425, -0.05718350854128841, -0.011418265607166899, 0.06133716480303044,
          -0.03925181563217227, -0.025314812359766188, 0.0718182556566602, -0.04534415354599133, -0.10268546960303221),
    erf_high=6.25,
    tanh=(-0.3333333333333333, 0.1333333333333331, -0.05396825396822037, 0.021869488534073906, -0.0088632354631468,
          0.0035921267699626346, -0.001455819097151351, 0.0005899052969492733, -0.0002384727248015252, 9.455133052924858e-05,
          -3.372080112046316e-05, 7.874274345344419e-06),
    tanh_high=22.0, reciprocal_seed=0x7FDE623822FC16E6, rsqrt_seed=0x5FE6EB50C7B537A9, newton_steps=4,
)
# fmt: on


_LOG_TERMS = (
    tuple(2.0 / (2 * power + 3) for power in range(4)),
    tuple(2.0 / (2 * power + 3) for power in range(11)),
)
"""``log((1 + s) / (1 - s)) - 2 s = s³ · Σ 2 s^(2p) / (2p + 3)``, which on s² ≤ 0.0295 converges by 34 per term."""


def _real(computing: Format) -> _Real:
    return _DOUBLE if computing is F64 else _SINGLE


def _polynomial(coefficients: tuple[float, ...], x: Array, like: Array) -> Array:
    """Horner's rule in the carrier's own precision, highest power first."""
    constants = np.asarray(coefficients, like.dtype)
    total = constants[-1]
    for constant in constants[-2::-1]:
        total = total * x + constant
    return np.asarray(total)


def _two_to(power: Array, real: _Real) -> Array:
    """``2 ** power`` for integer powers of the normal range, put together from bits."""
    bits = (power + real.signed(real.bias)).astype(real.unsigned) << real.unsigned(real.mantissa)
    return np.asarray(bits.view(np.float64 if real is _DOUBLE else np.float32))


def _exp(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    bounded = np.where(x > number(real.exp_high), number(real.exp_high), np.where(x < number(real.exp_low), number(real.exp_low), x))
    nearest = (bounded * number(1.4426950408889634) + number(real.rounder)) - number(real.rounder)
    rest = (bounded - nearest * number(real.ln2_high)) - nearest * number(real.ln2_low)
    value = number(1) + (rest + (rest * rest) * _polynomial(real.exp, rest, x))
    power = np.where(nearest == nearest, nearest, number(0)).astype(real.signed)
    half = power >> real.signed(1)
    return np.asarray(value * _two_to(half, real) * _two_to(power - half, real))


def _reciprocal(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    bits = x.view(real.unsigned)
    sign = bits & (real.unsigned(1) << real.unsigned(real.mantissa + (11 if real is _DOUBLE else 8)))
    size = np.where(x < 0, -x, x)
    # Scaled by a power of two into [1/2, 2), exactly, so that neither the estimate nor its square leaves the range.
    exponent = (size.view(real.unsigned) >> real.unsigned(real.mantissa)).astype(real.signed)
    tiny = exponent == 0
    scaled = np.where(tiny, size * number(2.0**real.mantissa), size)
    exponent = (scaled.view(real.unsigned) >> real.unsigned(real.mantissa)).astype(real.signed) - real.signed(real.bias)
    unit = np.where((size == 0) | (size == number(np.inf)) | (x != x), number(1), scaled)
    exponent = np.where((size == 0) | (size == number(np.inf)) | (x != x), real.signed(0), exponent)
    half = exponent >> real.signed(1)
    unit = unit * _two_to(-half, real) * _two_to(half - exponent, real)
    estimate = (real.unsigned(real.reciprocal_seed) - unit.view(real.unsigned)).view(x.dtype)
    for _ in range(real.newton_steps):
        estimate = estimate + estimate * (number(1) - unit * estimate)
    shift = np.where(tiny, real.signed(real.mantissa), real.signed(0)) - exponent
    half = shift >> real.signed(1)
    value = estimate * _two_to(half, real) * _two_to(shift - half, real)
    value = np.where(size == 0, number(np.inf), np.where(size == number(np.inf), number(0), value))
    signed = (value.view(real.unsigned) | sign).view(x.dtype)
    return np.where(x != x, x, signed)


def _rsqrt(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    tiny = x < number(2.0 ** (1 - real.bias))
    even = real.mantissa + 1 if real.mantissa % 2 else real.mantissa
    scaled = np.where(tiny, x * number(2.0**even), x)
    estimate = (real.unsigned(real.rsqrt_seed) - (scaled.view(real.unsigned) >> real.unsigned(1))).view(x.dtype)
    for _ in range(real.newton_steps + 1):
        estimate = estimate + (number(0.5) * estimate) * (number(1) - (scaled * estimate) * estimate)
    value = np.where(tiny, estimate * number(2.0 ** (even // 2)), estimate)
    value = np.where(x == 0, number(np.inf), np.where(x == number(np.inf), number(0), value))
    return np.asarray(np.where((x < 0) | (x != x), number(np.nan), value))


def _sqrt(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    return np.where((x == 0) | (x == number(np.inf)), x, x * _rsqrt(x, real))


def _log(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    tiny = x < number(2.0 ** (1 - real.bias))
    scaled = np.where(tiny, x * number(2.0**real.mantissa), x)
    bits = scaled.view(real.unsigned)
    fraction_mask = (real.unsigned(1) << real.unsigned(real.mantissa)) - real.unsigned(1)
    one = number(1).view(real.unsigned)
    mantissa = ((bits & fraction_mask) | one).view(x.dtype)
    high = mantissa > number(1.4142135623730951)
    mantissa = np.where(high, mantissa * number(0.5), mantissa)
    exponent = (bits >> real.unsigned(real.mantissa)).astype(real.signed) - real.signed(real.bias) + high.astype(real.signed)
    power = (exponent - np.where(tiny, real.signed(real.mantissa), real.signed(0))).astype(x.dtype)
    excess = mantissa - number(1)
    ratio = excess * _reciprocal(number(2) + excess, real)
    square = ratio * ratio
    series = _polynomial(_LOG_TERMS[real is _DOUBLE], square, x)
    half_square = number(0.5) * excess * excess
    # log(1 + f) = f - f²/2 + s (f²/2 + s² R(s²)): the leading term stays exact.
    value = power * number(real.ln2_high) + (
        excess - (half_square - (ratio * (half_square + square * series) + power * number(real.ln2_low)))
    )
    value = np.where(x == 0, number(-np.inf), np.where(x == number(np.inf), x, value))
    return np.where((x < 0) | (x != x), number(np.nan), value)


def _erf(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    size = np.where(x < 0, -x, x)
    small = np.where(size < 1, size, number(0))
    near = small * _polynomial(real.erf, small * small, x)
    large = np.where(size < 1, number(1), np.where(size > number(real.erf_high), number(real.erf_high), size))
    scaled = _reciprocal(number(1) + number(0.5) * large, real) - number(0.5)
    far = number(1) - _exp(-(large * large), real) * _polynomial(real.erfc, scaled, x)
    value = np.where(size < 1, near, far)
    return np.where(x != x, x, np.where(x < 0, -value, value))


def _tanh(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    size = np.where(x < 0, -x, x)
    limit = number(0.55)
    small = np.where(size < limit, size, number(0))
    square = small * small
    near = small + small * (square * _polynomial(real.tanh, square, x))
    large = np.where(size < limit, limit, np.where(size > number(real.tanh_high), number(real.tanh_high), size))
    far = number(1) - number(2) * _reciprocal(_exp(large + large, real) + number(1), real)
    value = np.where(size < limit, near, far)
    return np.where((x != x) | (x == 0), x, np.where(x < 0, -value, value))


def _sigmoid(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    size = np.where(x < 0, -x, x)
    decay = _exp(-size, real)
    upper = _reciprocal(number(1) + decay, real)
    return np.where(x < 0, decay * upper, upper)


def _gelu(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    return np.asarray((number(0.5) * x) * (number(1) + _erf(x * number(0.7071067811865476), real)))


def _gelu_tanh(x: Array, real: _Real) -> Array:
    number = x.dtype.type
    inner = number(0.7978845608028654) * (x + number(0.044715) * (x * x * x))
    return np.asarray((number(0.5) * x) * (number(1) + _tanh(inner, real)))


def _silu(x: Array, real: _Real) -> Array:
    return np.asarray(x * _sigmoid(x, real))


_FUNCTIONS: dict[str, Callable[[Array, _Real], Array]] = {
    "exp": _exp,
    "log": _log,
    "reciprocal": _reciprocal,
    "rsqrt": _rsqrt,
    "sqrt": _sqrt,
    "erf": _erf,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "silu": _silu,
}
FUNCTIONS = tuple(_FUNCTIONS)


def scalar_function(name: str, target: Format, x: Array) -> Array:
    """Function ``name`` of each element, as carrier values rounded to ``target``."""
    computing = target.wide
    # One axis at least, so that numpy keeps arrays, whose bits can be viewed as integers.
    wide = np.asarray(x, computing.carrier).reshape(x.shape or (1,))
    with np.errstate(all="ignore"):
        return target.round(_FUNCTIONS[name](wide, _real(computing))).reshape(x.shape)
