"""Weights with zeros on purpose: where they lie is read once, so that the planner can price what skips them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.kernels.sparse import SparseLinear
from cgptc.ir.dtypes import i32
from cgptc.ir.op import Array
from cgptc.ir.sparsity import sparsity_of
from cgptc.ir.types import TensorType
from cgptc.ir.weights import Weight, WeightStore, content_key


@dataclass(frozen=True)
class Zeros:
    """Where a weight ``[k, n]`` is not zero; equal where the weight's content is."""

    key: str
    pattern: NDArray[Any] = field(compare=False, repr=False)

    @property
    def density(self) -> float:
        return float(self.pattern.mean())


def zeros_of(weight: Weight, store: WeightStore) -> Zeros | None:
    """The zeros of a weight that was made sparse; None for any other, and where only shapes are known."""
    if len(weight.shape) != 2 or sparsity_of(weight).kind in ("dense", "unknown"):
        return None
    try:
        return Zeros(weight.key, np.asarray(weight.read(store) != 0))
    except KeyError:
        return None


@dataclass(frozen=True)
class Packed(Weight):
    """What the PEs of a sparse kernel store of ``base``: its values, or where they belong (``places``)."""

    kernel: SparseLinear
    base: Weight
    places: bool

    @property
    def type(self) -> TensorType:
        grid = self.kernel.dense.grid
        stored = self.kernel.stored_shape[:1] if self.places else self.kernel.stored_shape
        return TensorType(i32 if self.places else self.base.dtype, (grid.height, grid.width, *stored))

    @property
    def key(self) -> str:
        return content_key("packed", self.base.key, repr(self.kernel), str(self.places))

    def rows(self, store: WeightStore, start: int, stop: int) -> Array:
        return self.kernel.pack(self.base.read(store))[int(self.places)][start:stop]

    def blocks(self, store: WeightStore) -> Iterator[Array]:
        yield self.read(store)
