"""Number formats: how a value is stored in a PE, what carries it while computing, and how each result is rounded.

f16 and bf16 are carried in float32 and rounded after every operation. That is exact: the product of two such numbers fits float32, and
a float32 sum rounded again is the correctly rounded sum, since 24 ≥ 2 · 11 + 2. f64 is for checking only; no PE has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.faults import ProgramError

Array: TypeAlias = NDArray[Any]
Rounding = Literal["none", "half", "brain"]


@dataclass(frozen=True)
class Format:
    """A number format of the PE. ``unit`` is its unit roundoff (0 for integers)."""

    name: str
    bytes: int
    storage: np.dtype[Any]
    carrier: np.dtype[Any]
    rounding: Rounding
    unit: float

    @property
    def is_float(self) -> bool:
        return self.unit > 0

    @property
    def wide(self) -> Format:
        """The format in which scalar functions of this one are computed."""
        return F64 if self.name == "f64" else F32

    def words(self, count: int) -> int:
        """32-bit wavelets that ``count`` elements travel in; halves travel in pairs."""
        return (count * self.bytes + 3) // 4

    def round(self, carried: Array) -> Array:
        """Carrier values rounded to nearest even in this format."""
        if self.rounding == "none":
            return carried if carried.dtype == self.carrier else carried.astype(self.carrier)
        wide = carried if carried.dtype == np.float32 else carried.astype(np.float32)
        return wide.astype(self.storage).astype(np.float32)

    def carried(self, stored: Array) -> Array:
        """Stored values as the carrier type; exact."""
        return stored.astype(self.carrier)

    def stored(self, carried: Array) -> Array:
        """Carrier values, already rounded, as they lie in memory."""
        return carried.astype(self.storage)


F64 = Format("f64", 8, np.dtype(np.float64), np.dtype(np.float64), "none", 2.0**-53)
F32 = Format("f32", 4, np.dtype(np.float32), np.dtype(np.float32), "none", 2.0**-24)
F16 = Format("f16", 2, np.dtype(np.float16), np.dtype(np.float32), "half", 2.0**-11)
BF16 = Format("bf16", 2, np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32), "brain", 2.0**-8)
I32 = Format("i32", 4, np.dtype(np.int32), np.dtype(np.int32), "none", 0.0)

FORMATS: dict[str, Format] = {entry.name: entry for entry in (F64, F32, F16, BF16, I32)}


def format_of(name: str) -> Format:
    """The format of that name. Raises ProgramError."""
    if name not in FORMATS:
        raise ProgramError("format", f"unknown number format {name!r}", fix=f"one of {', '.join(FORMATS)}")
    return FORMATS[name]


def add(target: Format, left: Array, right: Array) -> Array:
    return target.round(left + right)


def subtract(target: Format, left: Array, right: Array) -> Array:
    return target.round(left - right)


def multiply(target: Format, left: Array, right: Array) -> Array:
    return target.round(left * right)


def multiply_add(target: Format, total: Array, left: Array, right: Array) -> Array:
    """``total + left · right`` with two roundings: the product's, then the sum's."""
    return target.round(total + target.round(left * right))


def maximum(target: Format, left: Array, right: Array) -> Array:
    """The larger; NaN where either is NaN; of two zeros the left one."""
    return target.round(np.where((left >= right) | (left != left), left, right))


def minimum(target: Format, left: Array, right: Array) -> Array:
    """The smaller; NaN where either is NaN; of two zeros the left one."""
    return target.round(np.where((left <= right) | (left != left), left, right))


def bitwise_or(target: Format, left: Array, right: Array) -> Array:
    """The union of the stored bits: exact merging of values of which all but one are +0."""
    found: Array = merged(target, np.stack([left, right]), 0)[0]
    return found


def merged(target: Format, values: Array, axis: int) -> Array:
    """`bitwise_or` of all along an axis, which stays with one element: the same in whatever order."""
    bits = target.stored(values).view(np.dtype(f"u{target.bytes}"))
    return target.carried(np.bitwise_or.reduce(bits, axis=axis, keepdims=True).view(target.storage))


COMBINERS = {"add": add, "max": maximum, "or": bitwise_or}
"""What a receiver of a collective may do with what it holds and what arrives."""
