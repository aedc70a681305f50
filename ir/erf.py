"""The error function, which numpy lacks: fdlibm's rational approximations, within 1 ulp in float64.

Source: Sun Microsystems' fdlibm 5.3, ``s_erf.c`` (freely distributable), which documents the four intervals of ``|x|``, their
coefficients (minimax, by Remez) and the error of each.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[Any]

_BLOCK = 1 << 15
"""Elements computed at a time: what is between fits a processor's cache."""

# Coefficients of rising powers.

# |x| < 0.84375: x + x * P(x**2) / Q(x**2)
_SMALL_P = (
    1.28379167095512558561e-01,
    -3.25042107247001499370e-01,
    -2.84817495755985104766e-02,
    -5.77027029648944159157e-03,
    -2.37630166566501626084e-05,
)
_SMALL_Q = (
    1.0,
    3.97917223959155352819e-01,
    6.50222499887672944485e-02,
    5.08130628187576562776e-03,
    1.32494738004321644526e-04,
    -3.96022827877536812320e-06,
)

# |x| < 1.25: ERF_1 + P(|x| - 1) / Q(|x| - 1)
_ERF_1 = 8.45062911510467529297e-01
_MIDDLE_P = (
    -2.36211856075265944077e-03,
    4.14856118683748331666e-01,
    -3.72207876035701323847e-01,
    3.18346619901161753674e-01,
    -1.10894694282396677476e-01,
    3.54783043256182359371e-02,
    -2.16637559486879084300e-03,
)
_MIDDLE_Q = (
    1.0,
    1.06420880400844228286e-01,
    5.40397917702171048937e-01,
    7.18286544141962662868e-02,
    1.26171219808761642112e-01,
    1.36370839120290507362e-02,
    1.19844998467991074170e-02,
)

# |x| < 1 / 0.35: 1 - exp(-x**2 - 0.5625 + P(1/x**2) / Q(1/x**2)) / |x|
_LARGE_P = (
    -9.86494403484714822705e-03,
    -6.93858572707181764372e-01,
    -1.05586262253232909814e01,
    -6.23753324503260060396e01,
    -1.62396669462573470355e02,
    -1.84605092906711035994e02,
    -8.12874355063065934246e01,
    -9.81432934416914548592e00,
)
_LARGE_Q = (
    1.0,
    1.96512716674392571292e01,
    1.37657754143519042600e02,
    4.34565877475229228821e02,
    6.45387271733267880336e02,
    4.29008140027567833386e02,
    1.08635005541779435134e02,
    6.57024977031928170135e00,
    -6.04244152148580987438e-02,
)

# |x| < 6: the same with these
_TAIL_P = (
    -9.86494292470009928597e-03,
    -7.99283237680523006574e-01,
    -1.77579549177547519889e01,
    -1.60636384855821916062e02,
    -6.37566443368389627722e02,
    -1.02509513161107724954e03,
    -4.83519191608651397019e02,
)
_TAIL_Q = (
    1.0,
    3.03380607434824582924e01,
    3.25792512996573918826e02,
    1.53672958608443695994e03,
    3.19985821950859553908e03,
    2.55305040643316442583e03,
    4.74528541206955367215e02,
    -2.24409524465858183362e01,
)


def erf(x: Floats) -> Floats:
    """``2/sqrt(pi) * integral of exp(-t**2) from 0 to x``, element by element.

    float64 within 1 ulp; float32 and narrower are computed in float64 and rounded. NaN stays NaN, ±inf gives ±1.
    """
    flat = np.asarray(x).reshape(-1)
    result = np.empty_like(flat)
    for start in range(0, flat.size, _BLOCK):
        result[start : start + _BLOCK] = _erf_block(flat[start : start + _BLOCK].astype(np.float64, copy=False))
    return result.reshape(np.shape(x))


def _erf_block(x: Floats) -> Floats:
    size = np.abs(x)
    # What no interval below holds is 1 to the last bit, or NaN.
    result = np.where(np.isnan(x), x, 1.0)
    below = [size < limit for limit in (0.84375, 1.25, 1 / 0.35, 6.0)]
    small, middle, large, tail = below[0], below[1] & ~below[0], below[2] & ~below[1], below[3] & ~below[2]
    if small.any():
        part = size[small]
        square = part * part
        result[small] = part + part * (_polynomial(_SMALL_P, square) / _polynomial(_SMALL_Q, square))
    if middle.any():
        part = size[middle] - 1
        result[middle] = _ERF_1 + _polynomial(_MIDDLE_P, part) / _polynomial(_MIDDLE_Q, part)
    if large.any():
        result[large] = 1 - _complement(size[large], _LARGE_P, _LARGE_Q)
    if tail.any():
        result[tail] = 1 - _complement(size[tail], _TAIL_P, _TAIL_Q)
    return np.copysign(result, x)


def _polynomial(coefficients: tuple[float, ...], x: Floats) -> Floats:
    total = np.full_like(x, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        total *= x
        total += coefficient
    return total


def _complement(x: Floats, numerator: tuple[float, ...], denominator: tuple[float, ...]) -> Floats:
    """``1 - erf(x)`` for ``x`` from 1.25 to 6."""
    inverse = 1 / (x * x)
    ratio = _polynomial(numerator, inverse) / _polynomial(denominator, inverse)
    # head has 21 bits, so its square is exact: -x**2 = -head**2 + (head - x) * (head + x) without cancellation.
    head = (x.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
    scaled: Floats = np.exp(-head * head - 0.5625) * np.exp((head - x) * (head + x) + ratio)
    return scaled / x
