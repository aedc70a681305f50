"""Values that need no operand: constants, iotas, sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.diagnostics import require
from cgptc.ir.dims import Dim, bounds
from cgptc.ir.dtypes import DType, i64
from cgptc.ir.op import Array, Cost, Op
from cgptc.ir.types import TensorType
from cgptc.ir.weights import Weight


@dataclass(frozen=True)
class Constant(Op, name="constant"):
    """A weight, by reference. The interpreter reads it from the graph's store."""

    weight: Weight

    def infer(self) -> TensorType:
        return self.weight.type

    def evaluate(self) -> Array:
        raise TypeError("the interpreter reads constants from the graph's store")

    def cost(self, *types: TensorType | None) -> Cost:
        return Cost()


@dataclass(frozen=True)
class Iota(Op, name="iota"):
    """``0, 1, …, size - 1``."""

    size: Dim
    dtype: DType = i64

    def infer(self) -> TensorType:
        require(bounds(self.size)[1] >= 0, f"'size' must not be negative, got {self.size}")
        _require_number(self.dtype)
        return TensorType(self.dtype, (self.size,))

    def evaluate(self) -> Array:
        assert isinstance(self.size, int)
        return np.arange(self.size, dtype=self.dtype.numpy)


@dataclass(frozen=True)
class DimSize(Op, name="dim_size"):
    """The size of a dimension as a scalar."""

    dim: Dim
    dtype: DType = i64

    def infer(self) -> TensorType:
        _require_number(self.dtype)
        return TensorType(self.dtype, ())

    def evaluate(self) -> Array:
        assert isinstance(self.dim, int)
        return np.asarray(self.dim, self.dtype.numpy)


def _require_number(dtype: DType) -> None:
    fits = (dtype.is_float or dtype.is_integer) and dtype.bits >= 8
    require(fits, f"'dtype' must be a floating-point or integer type of at least 8 bits, got {dtype}")
