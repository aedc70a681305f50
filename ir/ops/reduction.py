"""Folding, scanning and softmax along axes. f16 and bf16 are accumulated in f32 and rounded once."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Shape
from cgptc.ir.graph import Value
from cgptc.ir.op import Array, Axis, Cost, Op, Role
from cgptc.ir.ops.binary import Div, Sub
from cgptc.ir.ops.elementwise import Exp, Log
from cgptc.ir.ops.operands import BOOL, FLOAT, NUMBER, require_axes, require_axis, require_kind
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.ops.spelling import cast, widen
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class Reduction(Op):
    """Base of the folds along ``axes`` (non-negative, ascending), which stay as size 1 with ``keepdims``. No axes: no change."""

    axes: tuple[int, ...]
    keepdims: bool = False

    accepts: ClassVar[frozenset[str]] = NUMBER

    def infer(self, x: TensorType) -> TensorType:
        require_kind("x", x, self.accepts)
        require_axes(self.axes, x)
        return x.with_shape(reduced_shape(x.shape, self.axes, self.keepdims))

    @np.errstate(all="ignore")
    def evaluate(self, x: Array) -> Array:
        return rounded(self.fold(widened(x)), x)

    @abstractmethod
    def fold(self, x: Array) -> Array:
        """The fold of an array of f32, f64, an integer type or bool, without regard to numpy's warnings."""

    def cost(self, x: TensorType) -> Cost:
        return Cost(x.size, x.bytes + self.infer(x).bytes)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return folding_axes(x, self.axes, self.keepdims, Role.REDUCTION)


@dataclass(frozen=True)
class ReduceSum(Reduction, name="reduce_sum"):
    """The sum; 0 of nothing. Integers wrap."""

    def fold(self, x: Array) -> Array:
        return np.asarray(np.sum(x, axis=self.axes, keepdims=self.keepdims, dtype=x.dtype))


@dataclass(frozen=True)
class ReduceMean(Reduction, name="reduce_mean"):
    """The mean; NaN of nothing."""

    accepts = FLOAT

    def fold(self, x: Array) -> Array:
        count = int(np.prod([x.shape[axis] for axis in self.axes], dtype=np.int64))
        total = np.sum(x, axis=self.axes, keepdims=self.keepdims, dtype=x.dtype)
        return np.asarray(total / np.asarray(count, x.dtype))


@dataclass(frozen=True)
class ReduceMax(Reduction, name="reduce_max"):
    """The largest element; NaN where there is one; of nothing -inf, or the smallest integer, as in ONNX."""

    def fold(self, x: Array) -> Array:
        return np.asarray(np.max(x, axis=self.axes, keepdims=self.keepdims, initial=_lowest(x)))


@dataclass(frozen=True)
class ReduceMin(Reduction, name="reduce_min"):
    """The smallest element; NaN where there is one; of nothing inf, or the largest integer, as in ONNX."""

    def fold(self, x: Array) -> Array:
        return np.asarray(np.min(x, axis=self.axes, keepdims=self.keepdims, initial=_highest(x)))


@dataclass(frozen=True)
class ReduceProd(Reduction, name="reduce_prod"):
    """The product; 1 of nothing. Integers wrap."""

    def fold(self, x: Array) -> Array:
        return np.asarray(np.prod(x, axis=self.axes, keepdims=self.keepdims, dtype=x.dtype))


@dataclass(frozen=True)
class ReduceAny(Reduction, name="reduce_any"):
    """Whether any element is true; false of nothing."""

    accepts = BOOL

    def fold(self, x: Array) -> Array:
        return np.asarray(np.any(x, axis=self.axes, keepdims=self.keepdims))


@dataclass(frozen=True)
class ReduceAll(Reduction, name="reduce_all"):
    """Whether all elements are true; true of nothing."""

    accepts = BOOL

    def fold(self, x: Array) -> Array:
        return np.asarray(np.all(x, axis=self.axes, keepdims=self.keepdims))


@dataclass(frozen=True)
class CumSum(Op, name="cum_sum"):
    """The sum of all elements up to and with this one along ``axis``. Integers wrap."""

    axis: int

    def infer(self, x: TensorType) -> TensorType:
        require_kind("x", x, NUMBER)
        require_axis(self.axis, x)
        return x

    @np.errstate(all="ignore")
    def evaluate(self, x: Array) -> Array:
        wide = widened(x)
        return rounded(np.cumsum(wide, axis=self.axis, dtype=wide.dtype), x)

    def cost(self, x: TensorType) -> Cost:
        return Cost(x.size, 2 * x.bytes)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return same_shape_axes(x, self.axis)


@dataclass(frozen=True)
class Softmax(Op, name="softmax"):
    """``exp(x - max(x)) / sum(exp(x - max(x)))`` along ``axis``, in at least f32. A row of -inf alone gives NaN."""

    axis: int

    def infer(self, x: TensorType) -> TensorType:
        require_kind("x", x, FLOAT)
        require_axis(self.axis, x)
        return x

    @np.errstate(all="ignore")
    def evaluate(self, x: Array) -> Array:
        wide = widened(x)
        powers = np.exp(wide - np.max(wide, axis=self.axis, keepdims=True, initial=-np.inf))
        return rounded(powers / np.sum(powers, axis=self.axis, keepdims=True), x)

    def decompose(self, build: Builder, x: Value) -> Value:
        wide = widen(build, x)
        powers = build(Exp(), build(Sub(), wide, build(ReduceMax((self.axis,), keepdims=True), wide)))
        result = build(Div(), powers, build(ReduceSum((self.axis,), keepdims=True), powers))
        return cast(build, result, x.type.dtype)

    def cost(self, x: TensorType) -> Cost:
        return Cost(5 * x.size, 2 * x.bytes)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return same_shape_axes(x, self.axis)


@dataclass(frozen=True)
class LogSoftmax(Op, name="log_softmax"):
    """``x - max(x) - log(sum(exp(x - max(x))))`` along ``axis``, in at least f32. A row of -inf alone gives NaN."""

    axis: int

    def infer(self, x: TensorType) -> TensorType:
        require_kind("x", x, FLOAT)
        require_axis(self.axis, x)
        return x

    @np.errstate(all="ignore")
    def evaluate(self, x: Array) -> Array:
        return rounded(log_softmax(widened(x), self.axis), x)

    def decompose(self, build: Builder, x: Value) -> Value:
        wide = widen(build, x)
        shifted = build(Sub(), wide, build(ReduceMax((self.axis,), keepdims=True), wide))
        sums = build(ReduceSum((self.axis,), keepdims=True), build(Exp(), shifted))
        return cast(build, build(Sub(), shifted, build(Log(), sums)), x.type.dtype)

    def cost(self, x: TensorType) -> Cost:
        return Cost(5 * x.size, 2 * x.bytes)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return same_shape_axes(x, self.axis)


def log_softmax(x: Array, axis: int) -> Array:
    """The logarithm of softmax, in the type of ``x``."""
    shifted = x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True)))


def reduced_shape(shape: Shape, axes: tuple[int, ...], keepdims: bool) -> Shape:
    """``shape`` without ``axes``, or with 1 in their place."""
    if keepdims:
        return tuple(1 if axis in axes else dim for axis, dim in enumerate(shape))
    return tuple(dim for axis, dim in enumerate(shape) if axis not in axes)


def folding_axes(x: TensorType, axes: tuple[int, ...], keepdims: bool, role: Role) -> tuple[Axis, ...]:
    """``axes`` with ``role`` and absent from the result; every other axis parallel."""
    found = []
    place = 0
    for axis in range(x.rank):
        if axis in axes:
            found.append(Axis(role, (axis,), (None,)))
            place += keepdims
        else:
            found.append(Axis(Role.PARALLEL, (axis,), (place,)))
            place += 1
    return tuple(found)


def same_shape_axes(x: TensorType, mixed: int, results: int = 1) -> tuple[Axis, ...]:
    """One mixed axis, every other one parallel; all results have the shape of ``x``."""
    return tuple(Axis(Role.MIXED if axis == mixed else Role.PARALLEL, (axis,), (axis,) * results) for axis in range(x.rank))


def _lowest(x: Array) -> Any:
    return -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min


def _highest(x: Array) -> Any:
    return np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).max
