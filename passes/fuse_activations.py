"""Activations written out with elementary functions become one node."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph, Value
from cgptc.ir.ops.binary import Add, Div, Mul, Pow
from cgptc.ir.ops.elementwise import Erf, Gelu, Sigmoid, Silu, Tanh
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import OneOf, Pattern, Scalar, Var, op
from cgptc.passes.rewrite import Rewrite, apply_rewrites, rewrite

x = Var("x")
half, one = Scalar(value=0.5), Scalar(value=1.0)

_CUBE = OneOf((op(Pow, x, Scalar(value=3.0)), op(Mul, op(Mul, x, x), x)))
_TANH = op(Tanh, op(Mul, Scalar(value=math.sqrt(2 / math.pi)), op(Add, x, op(Mul, Scalar(value=0.044715), _CUBE))))
_ERF = op(Erf, OneOf((op(Div, x, Scalar(value=math.sqrt(2))), op(Mul, x, Scalar(value=1 / math.sqrt(2))))))


def _half_of(inner: Pattern) -> Pattern:
    """``0.5 * x * (1 + inner)`` in each of its associations."""
    return OneOf(
        (
            op(Mul, op(Mul, x, half), op(Add, inner, one)),
            op(Mul, half, op(Mul, x, op(Add, inner, one))),
            op(Mul, x, op(Mul, half, op(Add, inner, one))),
        )
    )


def _alternatives(pattern: Pattern) -> tuple[Pattern, ...]:
    return pattern.alternatives if isinstance(pattern, OneOf) else (pattern,)


def _gelu(approximate: str, pattern: Pattern, number: int) -> Rewrite:
    def build(build: Builder, x: Value) -> Value:
        """``0.5 * x * (1 + …)`` is ``gelu(x)``."""
        return build(Gelu(approximate), x)

    build.__name__ = f"gelu_{approximate}_{number}"
    return rewrite(pattern, subject="gelu", near=4)(build)


@rewrite(op(Mul, x, op(Sigmoid, x)), subject="silu")
def multiply_by_sigmoid(build: Builder, x: Value) -> Value:
    """``x * sigmoid(x)`` is ``silu(x)``."""
    return build(Silu(), x)


REWRITES: tuple[Rewrite, ...] = (
    *(_gelu("tanh", pattern, number) for number, pattern in enumerate(_alternatives(_half_of(_TANH)))),
    *(_gelu("none", pattern, number) for number, pattern in enumerate(_alternatives(_half_of(_ERF)))),
    multiply_by_sigmoid,
)


@dataclass(frozen=True)
class FuseActivations(Pass, name="fuse-activations"):
    """Fuse GELU (erf and tanh form) and SiLU written out."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        return apply_rewrites(graph, REWRITES, context)
