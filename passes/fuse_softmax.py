"""Softmax and its logarithm written out with exponentials become one node."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Add, Div, Select, Sub
from cgptc.ir.ops.elementwise import Exp, IsInf, Log
from cgptc.ir.ops.reduction import LogSoftmax, ReduceMax, ReduceSum, Softmax
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import OneOf, OpPattern, Pattern, Scalar, Var, op
from cgptc.passes.rewrite import Rewrite, apply_rewrites, rewrite

x = Var("x")
_HIGHEST = op(ReduceMax, x, keepdims=True, bind="highest", shared=True)
_SHIFTED = op(Sub, x, _HIGHEST, shared=True)
# torch.logsumexp takes an infinite maximum as 0.
_SHIFT = OneOf((_HIGHEST, op(Select, op(IsInf, _HIGHEST, shared=True), Scalar(value=0.0), _HIGHEST, shared=True)))


def _share_of(powers: Pattern) -> Pattern:
    """Powers over their sum; the model may compute them once or twice."""
    return op(Div, powers, _sum(powers))


def _sum(powers: Pattern) -> OpPattern:
    return op(ReduceSum, powers, keepdims=True, bind="total")


def _axis(total: Node, highest: Node | None = None) -> int | None:
    """The one axis of the sum. What was taken off before must be the same along it: a maximum over that axis, or over more."""
    assert isinstance(total.op, ReduceSum)
    over = total.op.axes if highest is None or not isinstance(highest.op, ReduceMax) else highest.op.axes
    return total.op.axes[0] if len(total.op.axes) == 1 and total.op.axes[0] in over else None


@rewrite(_share_of(op(Exp, _SHIFTED, shared=True)), subject="softmax", near=4)
def shifted_softmax(build: Builder, x: Value, highest: Node, total: Node) -> Value | None:
    """``exp(x - max(x)) / sum(exp(x - max(x)))`` is ``softmax(x)``."""
    axis = _axis(total, highest)
    return build(Softmax(axis), x) if axis is not None else None


@rewrite(_share_of(op(Exp, x, shared=True)))
def plain_softmax(build: Builder, x: Value, total: Node) -> Value | None:
    """``exp(x) / sum(exp(x))`` is ``softmax(x)``, which does not overflow."""
    axis = _axis(total)
    return build(Softmax(axis), x) if axis is not None else None


@rewrite(op(Exp, op(LogSoftmax, x, bind="logarithm")))
def exponential_of_log_softmax(build: Builder, x: Value, logarithm: Node) -> Value:
    """``exp(log_softmax(x))`` is ``softmax(x)``."""
    assert isinstance(logarithm.op, LogSoftmax)
    return build(Softmax(logarithm.op.axis), x)


@rewrite(op(Sub, x, op(Add, op(Log, _sum(op(Exp, op(Sub, x, _SHIFT)))), _SHIFT)), subject="softmax", near=4)
def difference_to_log_sum_exp(build: Builder, x: Value, highest: Node, total: Node) -> Value | None:
    """``x - (log(sum(exp(x - max(x)))) + max(x))`` is ``log_softmax(x)``."""
    axis = _axis(total, highest)
    return build(LogSoftmax(axis), x) if axis is not None else None


@rewrite(op(Sub, _SHIFTED, op(Log, _sum(op(Exp, _SHIFTED)))), subject="softmax", near=4)
def shifted_log_softmax(build: Builder, x: Value, highest: Node, total: Node) -> Value | None:
    """``x - max(x) - log(sum(exp(x - max(x))))`` is ``log_softmax(x)``."""
    axis = _axis(total, highest)
    return build(LogSoftmax(axis), x) if axis is not None else None


@rewrite(op(Sub, x, op(Log, _sum(op(Exp, x)))), subject="softmax", near=4)
def plain_log_softmax(build: Builder, x: Value, total: Node) -> Value | None:
    """``x - log(sum(exp(x)))`` is ``log_softmax(x)``, which does not overflow."""
    axis = _axis(total)
    return build(LogSoftmax(axis), x) if axis is not None else None


REWRITES: tuple[Rewrite, ...] = (
    shifted_softmax,
    plain_softmax,
    difference_to_log_sum_exp,
    shifted_log_softmax,
    plain_log_softmax,
    exponential_of_log_softmax,
)


@dataclass(frozen=True)
class FuseSoftmax(Pass, name="fuse-softmax"):
    """Fuse softmax and log-softmax written out with `exp`, with the maximum taken off before or not."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        return apply_rewrites(graph, REWRITES, context)
