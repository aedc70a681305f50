"""Losses."""

from __future__ import annotations

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import aten
from cgptc.ir.dims import Shape, product
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Add, Div, Less, Mul, NotEqual, Select, Sub
from cgptc.ir.ops.elementwise import Abs, Neg, Softplus
from cgptc.ir.ops.indexing import Gather, GatherElements
from cgptc.ir.ops.loss import CrossEntropy, MseLoss
from cgptc.ir.ops.reduction import LogSoftmax, ReduceMean, ReduceSum

REDUCTIONS = ("none", "mean", "sum")
"""Torch passes the reduction by its index."""


def _reduced(emit: Emit, value: Value, reduction: int) -> Value:
    axes = tuple(range(value.type.rank))
    if reduction == 0 or not axes:
        return value
    return emit(ReduceMean(axes) if reduction == 1 else ReduceSum(axes), value)


def _classes_last(emit: Emit, value: Value) -> Value:
    """[n, c, d…] to [n · d…, c]; [c] to [1, c]."""
    shape = value.type.shape
    if len(shape) == 1:
        return emit.reshape(value, (1, *shape))
    moved = emit.transpose(value, [0, *range(2, len(shape)), 1])
    return emit.reshape(moved, (product((shape[0], *shape[2:])), shape[1]))


@aten("cross_entropy_loss")
def cross_entropy_loss(
    emit: Emit,
    self: Value,
    target: Value,
    weight: Value | None = None,
    reduction: int = 1,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Value:
    if target.type.dtype.is_float:
        return _soft_targets(emit, self, target, weight, reduction, label_smoothing)
    logits = _classes_last(emit, self)
    labels = emit.cast(emit.reshape(target, [target.type.size]), i64)
    if weight is not None:
        rows = emit(LogSoftmax(1), logits)
        return _weighed(emit, rows, labels, weight, reduction, ignore_index, target.type.shape, label_smoothing)
    loss = emit(CrossEntropy(REDUCTIONS[reduction], ignore_index, label_smoothing), logits, labels)
    return emit.reshape(loss, target.type.shape) if reduction == 0 else loss


def _soft_targets(emit: Emit, logits: Value, target: Value, weight: Value | None, reduction: int, smoothing: float) -> Value:
    """Targets are probabilities, smoothed towards all classes alike; the mean is over samples, not over elements or weights."""
    axis = 1 if logits.type.rank > 1 else 0
    dtype = logits.type.dtype
    if smoothing:
        spread = emit(Div(), emit.number(smoothing, dtype), emit.number(logits.type.shape[axis], dtype))
        target = emit(Add(), emit(Mul(), target, emit.number(1 - smoothing, dtype)), spread)
    rows = emit(Mul(), emit(LogSoftmax(axis), logits), target)
    if weight is not None:
        rows = emit(Mul(), rows, emit.reshape(weight, (*weight.type.shape, *[1] * (logits.type.rank - axis - 1))))
    return _reduced(emit, emit(Neg(), emit(ReduceSum((axis,)), rows)), reduction)


@aten("nll_loss", "nll_loss_nd", "nll_loss2d")
def nll_loss(emit: Emit, self: Value, target: Value, weight: Value | None = None, reduction: int = 1, ignore_index: int = -100) -> Value:
    """Minus the log-probability of each target; ignored ones count nothing."""
    rows = _classes_last(emit, self)
    labels = emit.cast(emit.reshape(target, [target.type.size]), i64)
    return _weighed(emit, rows, labels, weight, reduction, ignore_index, target.type.shape)


def _weighed(
    emit: Emit, rows: Value, labels: Value, weight: Value | None, reduction: int, ignore_index: int, shape: Shape, smoothing: float = 0.0
) -> Value:
    """Minus the log-probabilities ``rows [n, c]`` of ``labels [n]``, times the weight of their class; the mean is over the sum of weights.

    ``smoothing`` is spread over all classes, each with its own weight. ``shape`` is the target's.
    """
    dtype = rows.type.dtype
    kept = emit(NotEqual(), labels, emit.number(ignore_index, i64))
    safe = emit(Select(), kept, labels, emit.number(0, i64))
    loss = emit(Neg(), emit.squeeze(emit(GatherElements(1), rows, emit.unsqueeze(safe, 1)), 1))
    counted = emit.cast(kept, dtype)
    if weight is not None:
        each = emit(Gather(0), weight, safe)
        loss, counted = emit(Mul(), loss, each), emit(Mul(), counted, each)
    if smoothing:
        spread = rows if weight is None else emit(Mul(), rows, weight)
        uniform = emit(Neg(), emit(ReduceSum((1,)), spread))
        share = emit.number(smoothing, dtype)
        whole = emit(Mul(), loss, emit(Sub(), emit.number(1.0, dtype), share))
        loss = emit(Add(), whole, emit(Mul(), uniform, emit(Div(), share, emit.number(rows.type.shape[1], dtype))))
    loss = emit(Select(), kept, loss, emit.number(0.0, dtype))
    if reduction == 0:
        return emit.reshape(loss, shape)
    total = emit(ReduceSum((0,)), loss)
    return total if reduction == 2 else emit(Div(), total, emit(ReduceSum((0,)), counted))


@aten("nll_loss_forward")
def nll_loss_forward(emit: Emit, self: Value, target: Value, weight: Value | None, reduction: int, ignore_index: int) -> tuple[Value, None]:
    return nll_loss(emit, self, target, weight, reduction, ignore_index), None


@aten("mse_loss")
def mse_loss(emit: Emit, self: Value, target: Value, reduction: int = 1) -> Value:
    x, y = emit.promoted(self, target)
    if x.type.shape != y.type.shape:
        difference = emit(Sub(), x, y)
        return _reduced(emit, emit(Mul(), difference, difference), reduction)
    return emit(MseLoss(REDUCTIONS[reduction]), x, y)


@aten("l1_loss")
def l1_loss(emit: Emit, self: Value, target: Value, reduction: int = 1) -> Value:
    return _reduced(emit, emit(Abs(), emit(Sub(), *emit.promoted(self, target))), reduction)


@aten("smooth_l1_loss")
def smooth_l1_loss(emit: Emit, self: Value, target: Value, reduction: int = 1, beta: float = 1.0) -> Value:
    distance = emit(Abs(), emit(Sub(), *emit.promoted(self, target)))
    dtype = distance.type.dtype
    if beta == 0:
        return _reduced(emit, distance, reduction)
    near = emit(Mul(), emit(Mul(), distance, distance), emit.number(0.5 / beta, dtype))
    far = emit(Sub(), distance, emit.number(0.5 * beta, dtype))
    return _reduced(emit, emit(Select(), emit(Less(), distance, emit.number(beta, dtype)), near, far), reduction)


@aten("binary_cross_entropy_with_logits")
def binary_cross_entropy_with_logits(
    emit: Emit, self: Value, target: Value, weight: Value | None = None, pos_weight: Value | None = None, reduction: int = 1
) -> Value:
    """``softplus(x) - x * target``; where positive targets weigh ``p``, ``(1 - target) * x + (1 + (p - 1) * target) * softplus(-x)``."""
    dtype = self.type.dtype
    labels, one = emit.cast(target, dtype), emit.number(1.0, dtype)
    if pos_weight is None:
        loss = emit(Sub(), emit(Softplus(), self), emit(Mul(), self, labels))
    else:
        share = emit(Add(), one, emit(Mul(), emit(Sub(), pos_weight, one), labels))
        negative = emit(Mul(), emit(Sub(), one, labels), self)
        loss = emit(Add(), negative, emit(Mul(), share, emit(Softplus(), emit(Neg(), self))))
    if weight is not None:
        loss = emit(Mul(), loss, weight)
    return _reduced(emit, loss, reduction)
