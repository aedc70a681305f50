"""Element types."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np


@dataclass(frozen=True)
class DType:
    """An element type: its name in the text form, its numpy type and its width in storage."""

    name: str
    kind: str  # "float", "int", "uint" or "bool"
    bits: int
    numpy: np.dtype[np.generic]

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """Whether it is a signed or unsigned integer; bool is not."""
        return self.kind in ("int", "uint")

    def bytes(self, count: int) -> int:
        """Bytes that ``count`` elements take in storage (4-bit elements are packed in pairs)."""
        return (count * self.bits + 7) // 8


f64 = DType("f64", "float", 64, np.dtype(np.float64))
f32 = DType("f32", "float", 32, np.dtype(np.float32))
f16 = DType("f16", "float", 16, np.dtype(np.float16))
bf16 = DType("bf16", "float", 16, np.dtype(ml_dtypes.bfloat16))
i64 = DType("i64", "int", 64, np.dtype(np.int64))
i32 = DType("i32", "int", 32, np.dtype(np.int32))
i8 = DType("i8", "int", 8, np.dtype(np.int8))
u8 = DType("u8", "uint", 8, np.dtype(np.uint8))
i4 = DType("i4", "int", 4, np.dtype(ml_dtypes.int4))
boolean = DType("bool", "bool", 8, np.dtype(np.bool_))

DTYPES: dict[str, DType] = {dtype.name: dtype for dtype in (f64, f32, f16, bf16, i64, i32, i8, u8, i4, boolean)}
FLOATS = (f64, f32, f16, bf16)
_BY_NUMPY = {dtype.numpy: dtype for dtype in DTYPES.values()}


def from_numpy(dtype: np.dtype[np.generic]) -> DType:
    """The `DType` of a numpy type; KeyError where the IR has none."""
    return _BY_NUMPY[np.dtype(dtype)]
