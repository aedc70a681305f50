"""Losses, as PyTorch defines them. f16 and bf16 are computed in f32 and rounded once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import require
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Value
from cgptc.ir.op import Array, Axis, Cost, Op, Role
from cgptc.ir.ops.binary import Div, Mul, NotEqual, Select, Sub
from cgptc.ir.ops.broadcast import parallel_axes
from cgptc.ir.ops.elementwise import Cast, Neg
from cgptc.ir.ops.indexing import GatherElements
from cgptc.ir.ops.operands import FLOAT, require_choice, require_dtype, require_kind, require_rank, require_shape
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.ops.reduction import LogSoftmax, ReduceMean, ReduceSum, log_softmax
from cgptc.ir.ops.shape import Reshape
from cgptc.ir.ops.spelling import cast, widen
from cgptc.ir.types import TensorType

REDUCTIONS = ("mean", "sum", "none")


@dataclass(frozen=True)
class CrossEntropy(Op, name="cross_entropy"):
    """``-sum_c p[c] * log_softmax(logits)[c]`` per row, p being the target class, smoothed: its mean, sum, or [n] for "none".

    ``p = (1 - label_smoothing) * onehot(target) + label_smoothing / c``. Rows whose target is ``ignore_index`` are 0 and do not count in
    the mean, which is NaN where all are ignored. Targets are otherwise from 0 to c - 1.
    """

    reduction: str = "mean"
    ignore_index: int = -100
    label_smoothing: float = 0.0

    def infer(self, logits: TensorType, target: TensorType) -> TensorType:
        require_choice("reduction", self.reduction, REDUCTIONS)
        require(0 <= self.label_smoothing <= 1, f"'label_smoothing' must be within 0 and 1, got {self.label_smoothing}")
        require_kind("logits", logits, FLOAT)
        require_rank("logits", logits, 2)
        require(logits.shape[1] != 0, f"'logits' must have classes along axis 1, got {logits}")
        require_dtype("target", target, i64)
        require_shape("target", target, logits.shape[:1])
        return logits.with_shape(logits.shape[:1] if self.reduction == "none" else ())

    @np.errstate(all="ignore")
    def evaluate(self, logits: Array, target: Array) -> Array:
        logarithms = log_softmax(widened(logits), 1)
        counted = target != self.ignore_index
        losses = -np.take_along_axis(logarithms, np.where(counted, target, 0)[:, None], 1)[:, 0]
        if self.label_smoothing:
            losses = (1 - self.label_smoothing) * losses - self.label_smoothing * np.mean(logarithms, axis=1)
        losses = np.where(counted, losses, np.zeros((), losses.dtype))
        if self.reduction == "none":
            return rounded(losses, logits)
        total = np.sum(losses, dtype=losses.dtype)
        if self.reduction == "mean":
            total = total / np.asarray(np.count_nonzero(counted), losses.dtype)
        return rounded(total, logits)

    def decompose(self, build: Builder, logits: Value, target: Value) -> Value:
        (count,) = target.type.shape
        logarithms = build(LogSoftmax(1), widen(build, logits))
        dtype = logarithms.type.dtype
        counted = build(NotEqual(), target, build.constant(self.ignore_index, i64))
        classes = build(Reshape((count, 1)), build(Select(), counted, target, build.constant(0, i64)))
        losses = build(Neg(), build(Reshape((count,)), build(GatherElements(1), logarithms, classes)))
        if self.label_smoothing:
            kept = build(Mul(), losses, build.constant(1 - self.label_smoothing, dtype))
            spread = build(Mul(), build(ReduceMean((1,)), logarithms), build.constant(self.label_smoothing, dtype))
            losses = build(Sub(), kept, spread)
        result = build(Select(), counted, losses, build.constant(0.0, dtype))
        if self.reduction != "none":
            result = build(ReduceSum((0,)), result)
        if self.reduction == "mean":
            result = build(Div(), result, build(ReduceSum((0,)), build(Cast(dtype), counted)))
        return cast(build, result, logits.type.dtype)

    def cost(self, logits: TensorType, target: TensorType) -> Cost:
        return Cost(5 * logits.size, logits.bytes + target.bytes + self.infer(logits, target).bytes)

    def axis_roles(self, logits: TensorType, target: TensorType) -> tuple[Axis, ...]:
        classes = Axis(Role.MIXED, (1, None), (None,))
        if self.reduction == "none":
            return Axis(Role.PARALLEL, (0, 0), (0,)), classes
        return Axis(Role.REDUCTION, (0, 0), (None,)), classes


@dataclass(frozen=True)
class MseLoss(Op, name="mse_loss"):
    """``(x - y)**2``, its mean, or its sum; both operands have one shape."""

    reduction: str = "mean"

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        require_choice("reduction", self.reduction, REDUCTIONS)
        require_kind("x", x, FLOAT)
        require_dtype("y", y, x.dtype)
        require_shape("y", y, x.shape)
        return x if self.reduction == "none" else x.with_shape(())

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, y: Array) -> Array:
        difference = widened(x) - widened(y)
        squares = difference * difference
        if self.reduction == "none":
            return rounded(squares, x)
        total = np.sum(squares, dtype=squares.dtype)
        return rounded(total if self.reduction == "sum" else total / np.asarray(squares.size, squares.dtype), x)

    def decompose(self, build: Builder, x: Value, y: Value) -> Value:
        difference = build(Sub(), widen(build, x), widen(build, y))
        result = build(Mul(), difference, difference)
        axes = tuple(range(x.type.rank))
        if self.reduction == "sum":
            result = build(ReduceSum(axes), result)
        elif self.reduction == "mean":
            result = build(ReduceMean(axes), result)
        return cast(build, result, x.type.dtype)

    def cost(self, x: TensorType, y: TensorType) -> Cost:
        return Cost(3 * x.size, x.bytes + y.bytes + self.infer(x, y).bytes)

    def axis_roles(self, x: TensorType, y: TensorType) -> tuple[Axis, ...]:
        if self.reduction == "none":
            return parallel_axes([x, y], x.shape)
        return tuple(Axis(Role.REDUCTION, (axis, axis), (None,)) for axis in range(x.rank))
