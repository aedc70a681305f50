"""Adding a negative is subtracting."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph, Value
from cgptc.ir.ops.binary import Add, Sub
from cgptc.ir.ops.elementwise import Neg
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import Var, op
from cgptc.passes.rewrite import apply_rewrites, rewrite

x, y = Var("x"), Var("y")


@rewrite(op(Add, x, op(Neg, y)))
def add_of_negative(build: Builder, x: Value, y: Value) -> Value | None:
    """``x + (-y)`` becomes ``x - y``."""
    return build(Sub(), x, y)


@dataclass(frozen=True)
class SubtractNegatives(Pass, name="subtract-negatives"):
    """Subtract instead of adding a negative."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        return apply_rewrites(graph, [add_of_negative], context)
