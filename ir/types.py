"""Types of values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cgptc.ir.dims import Dim, Expr, Shape, bounds, product, substitute
from cgptc.ir.dtypes import DType


@dataclass(frozen=True)
class TensorType:
    """An element type and a shape; printed ``f32[batch, seq, 768]``."""

    dtype: DType
    shape: Shape = ()

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"

    def __repr__(self) -> str:
        return str(self)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.shape)

    @property
    def bytes(self) -> Dim:
        """Bytes in storage; 4-bit elements are packed in pairs."""
        size = self.size
        return self.dtype.bytes(size) if isinstance(size, int) else (size * self.dtype.bits + 7) // 8

    @property
    def is_static(self) -> bool:
        """Whether every dimension is an integer."""
        return not any(isinstance(dim, Expr) for dim in self.shape)

    @property
    def largest(self) -> TensorType:
        """The type with every dimension at its upper bound."""
        return TensorType(self.dtype, tuple(bounds(dim)[1] for dim in self.shape))

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as integers; ValueError where a dimension is symbolic."""
        sizes = tuple(dim for dim in self.shape if isinstance(dim, int))
        if len(sizes) != len(self.shape):
            raise ValueError(f"{self} is not static")
        return sizes

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.shape)

    def with_shape(self, shape: Shape) -> TensorType:
        return TensorType(self.dtype, shape)

    def substitute(self, values: Mapping[str, Dim]) -> TensorType:
        """The type with symbols replaced by name."""
        return TensorType(self.dtype, tuple(substitute(dim, values) for dim in self.shape))
