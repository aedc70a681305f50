"""Finding and sorting elements along an axis. NaN counts as the largest, and equal elements keep their order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.diagnostics import require
from cgptc.ir.dims import bounds
from cgptc.ir.dtypes import i64
from cgptc.ir.op import Array, Axis, Cost, Op, Role, moved_bytes
from cgptc.ir.ops.operands import NUMBER, require_axis, require_kind
from cgptc.ir.ops.precision import widened
from cgptc.ir.ops.reduction import folding_axes, reduced_shape, same_shape_axes
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class ArgMax(Op, name="arg_max"):
    """The index (i64) of the largest element along ``axis``, the first of equal ones; of the first NaN where there is one."""

    axis: int
    keepdims: bool = False

    def infer(self, x: TensorType) -> TensorType:
        return _infer_position(x, self.axis, self.keepdims)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.argmax(widened(x), axis=self.axis, keepdims=self.keepdims), np.int64)

    def cost(self, x: TensorType) -> Cost:
        return Cost(x.size, x.bytes + self.infer(x).bytes)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return folding_axes(x, (self.axis,), self.keepdims, Role.MIXED)


@dataclass(frozen=True)
class ArgMin(Op, name="arg_min"):
    """The index (i64) of the smallest element along ``axis``, the first of equal ones; of the first NaN where there is one."""

    axis: int
    keepdims: bool = False

    def infer(self, x: TensorType) -> TensorType:
        return _infer_position(x, self.axis, self.keepdims)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.argmin(widened(x), axis=self.axis, keepdims=self.keepdims), np.int64)

    def cost(self, x: TensorType) -> Cost:
        return Cost(x.size, x.bytes + self.infer(x).bytes)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return folding_axes(x, (self.axis,), self.keepdims, Role.MIXED)


@dataclass(frozen=True)
class TopK(Op, name="top_k"):
    """The ``k`` largest (or smallest) elements along ``axis``, first the most extreme: (values, indices in i64)."""

    k: int
    axis: int
    largest: bool = True

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        require_kind("x", x, NUMBER)
        require_axis(self.axis, x)
        fits = 0 <= self.k <= bounds(x.shape[self.axis])[1]
        require(fits, f"'k' must be within 0 and the size of axis {self.axis} of {x}, got {self.k}")
        values = x.with_shape((*x.shape[: self.axis], self.k, *x.shape[self.axis + 1 :]))
        return values, values.with_dtype(i64)

    def evaluate(self, x: Array) -> tuple[Array, Array]:
        if self.k > x.shape[self.axis]:
            raise ValueError(f"axis {self.axis} of {x.shape} has no {self.k} elements")
        first = (slice(None),) * self.axis + (slice(0, self.k),)
        indices = order(x, self.axis, descending=self.largest)[first]
        return np.take_along_axis(x, indices, self.axis), indices

    def cost(self, x: TensorType) -> Cost:
        values, indices = self.infer(x)
        return Cost(x.size, moved_bytes(x, values, indices))

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return same_shape_axes(x, self.axis, results=2)


@dataclass(frozen=True)
class Sort(Op, name="sort"):
    """All elements along ``axis`` in ascending or descending order, equal ones as they stood: (values, indices in i64)."""

    axis: int
    descending: bool = False

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        require_kind("x", x, NUMBER)
        require_axis(self.axis, x)
        return x, x.with_dtype(i64)

    def evaluate(self, x: Array) -> tuple[Array, Array]:
        indices = order(x, self.axis, self.descending)
        return np.take_along_axis(x, indices, self.axis), indices

    def cost(self, x: TensorType) -> Cost:
        return Cost(x.size, 2 * x.bytes + x.with_dtype(i64).bytes)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return same_shape_axes(x, self.axis, results=2)


def order(x: Array, axis: int, descending: bool) -> Array:
    """The indices that sort ``x`` along ``axis``, keeping the order of equal elements either way."""
    wide = widened(x)
    if not descending:
        return np.argsort(wide, axis=axis, kind="stable")
    # Sorting the reversed axis and reversing the outcome keeps equal elements in order; negating would fail for integers and NaN.
    reverse = np.argsort(np.flip(wide, axis), axis=axis, kind="stable")
    return np.asarray(x.shape[axis] - 1 - np.flip(reverse, axis))


def _infer_position(x: TensorType, axis: int, keepdims: bool) -> TensorType:
    require_kind("x", x, NUMBER)
    require_axis(axis, x)
    require(x.shape[axis] != 0, f"'x' must have elements along axis {axis}, got {x}")
    return TensorType(i64, reduced_shape(x.shape, (axis,), keepdims))
