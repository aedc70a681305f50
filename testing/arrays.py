"""Arrays for tests: a few kinds of data, all from one seeded generator."""

from __future__ import annotations

import numpy as np

from cgptc.ir.dtypes import DType, boolean, f16
from cgptc.ir.op import Array
from cgptc.ir.value_text import integer_range

KINDS = ("integers", "normal", "cancelling", "tiny", "huge")
"""Small whole numbers (arithmetic on them is exact) · normal numbers · pairs that nearly cancel · near the smallest · large ones."""

INTEGERS = (-4, 4)
"""Range of whole numbers, both ends included."""


def random_array(shape: tuple[int, ...], dtype: DType, generator: np.random.Generator, kind: str = "normal") -> Array:
    """An array of that kind; integers are small whatever the kind. ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"unknown kind '{kind}', expected one of {', '.join(KINDS)}")
    if dtype is boolean:
        return np.asarray(generator.random(shape) < 0.7)
    if dtype.is_integer or kind == "integers":
        low, high = INTEGERS
        return random_integers(shape, dtype, generator, max(low, integer_range(dtype)[0]) if dtype.is_integer else low, high)
    normal = np.asarray(generator.normal(size=shape))
    if kind == "cancelling":
        flat = normal.reshape(-1)
        flat[1::2] = -flat[: flat.size - 1 : 2] * (1 + 2.0**-8 * flat[1::2])
    scale = {"tiny": 1e-6, "huge": 1e3} if dtype is f16 else {"tiny": 1e-30, "huge": 1e15}
    return np.asarray(normal * scale.get(kind, 1.0)).astype(dtype.numpy)


def random_integers(shape: tuple[int, ...], dtype: DType, generator: np.random.Generator, low: int, high: int) -> Array:
    """Whole numbers from ``low`` to ``high``, both included."""
    drawn = np.asarray(generator.integers(low, high, size=shape, endpoint=True))
    return drawn.astype(np.int8 if dtype.bits < 8 else np.int64).astype(dtype.numpy)
