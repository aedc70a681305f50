"""Softmax written out with exponentials becomes one node."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Div, Sub
from cgptc.ir.ops.elementwise import Exp
from cgptc.ir.ops.reduction import LogSoftmax, ReduceMax, ReduceSum, Softmax
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import Pattern, Var, op
from cgptc.passes.rewrite import Rewrite, apply_rewrites, rewrite

x = Var("x")
_SHIFTED = op(Sub, x, op(ReduceMax, x, keepdims=True, bind="highest", shared=True), shared=True)


def _share_of(powers: Pattern) -> Pattern:
    """Powers over their sum; the model may compute them once or twice."""
    return op(Div, powers, op(ReduceSum, powers, keepdims=True, bind="total"))


def _axis(total: Node) -> int | None:
    assert isinstance(total.op, ReduceSum)
    return total.op.axes[0] if len(total.op.axes) == 1 else None


@rewrite(_share_of(op(Exp, _SHIFTED, shared=True)), subject="softmax", near=4)
def shifted_softmax(build: Builder, x: Value, highest: Node, total: Node) -> Value | None:
    """``exp(x - max(x)) / sum(exp(x - max(x)))`` is ``softmax(x)``."""
    axis = _axis(total)
    assert isinstance(highest.op, ReduceMax)
    # Any maximum over the same axis or more gives the same quotient.
    return build(Softmax(axis), x) if axis is not None and axis in highest.op.axes else None


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


REWRITES: tuple[Rewrite, ...] = (shifted_softmax, plain_softmax, exponential_of_log_softmax)


@dataclass(frozen=True)
class FuseSoftmax(Pass, name="fuse-softmax"):
    """Fuse softmax written out with `exp`, with its maximum taken off before or not."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        return apply_rewrites(graph, REWRITES, context)
