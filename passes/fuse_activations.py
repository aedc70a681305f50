"""Activations written out with elementary functions become one node."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Add, Div, Mul, Pow
from cgptc.ir.ops.elementwise import Erf, Exp, Gelu, Neg, Reciprocal, Sigmoid, Silu, Tanh
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import Match, OneOf, Pattern, Scalar, Var, match, op
from cgptc.passes.rewrite import Rewrite, apply_rewrites, rewrite

NEVER = 99
"""For patterns whose misses are other operations: a gate is a product with a sigmoid, too."""

x = Var("x")
half, one = Scalar(value=0.5), Scalar(value=1.0)

_OUTER, _INNER = Scalar(value=math.sqrt(2 / math.pi), ulps=1), Scalar(value=0.044715)
_SQUARE = OneOf((op(Pow, x, Scalar(value=2.0)), op(Mul, x, x)))
_CUBE = OneOf((op(Pow, x, Scalar(value=3.0)), op(Mul, op(Mul, x, x), x)))
_SQUARES = OneOf((op(Mul, _INNER, _SQUARE), op(Mul, op(Mul, _INNER, x), x)))
_CUBES = OneOf((op(Mul, _INNER, _CUBE), op(Mul, op(Mul, op(Mul, _INNER, x), x), x)))
_TANH = op(
    Tanh,
    OneOf((op(Mul, _OUTER, op(Add, x, _CUBES)), op(Mul, op(Mul, _OUTER, x), op(Add, one, _SQUARES)))),
)
_ERF = op(Erf, OneOf((op(Div, x, Scalar(value=math.sqrt(2), ulps=1)), op(Mul, x, Scalar(value=1 / math.sqrt(2), ulps=1)))))


_TWICE = op(Mul, x, op(Sigmoid, op(Mul, Scalar(value=2 * math.sqrt(2 / math.pi)), op(Add, x, _CUBES))))
_QUICK = op(Sigmoid, op(Mul, Scalar("factor"), x, shared=True))


def _half_of(inner: Pattern) -> OneOf:
    """``0.5 * x * (1 + inner)`` in each of its associations, what tells it from other products first: then a miss names the rest."""
    bent = op(Add, inner, one)
    return OneOf((op(Mul, bent, op(Mul, x, half)), op(Mul, op(Mul, bent, x), half), op(Mul, op(Mul, bent, half), x)))


def _alternatives(pattern: Pattern) -> tuple[Pattern, ...]:
    return pattern.alternatives if isinstance(pattern, OneOf) else (pattern,)


def _gelu(approximate: str, pattern: Pattern, number: int) -> Rewrite:
    def build(build: Builder, x: Value) -> Value:
        """``0.5 * x * (1 + …)`` is ``gelu(x)``."""
        return build(Gelu(approximate), x)

    build.__name__ = f"gelu_{approximate}_{number}"
    return rewrite(pattern, subject="gelu", near=4)(build)


@rewrite(op(Mul, x, op(Sigmoid, x)), subject="silu", near=NEVER)
def multiply_by_sigmoid(build: Builder, x: Value) -> Value:
    """``x * sigmoid(x)`` is ``silu(x)``."""
    return build(Silu(), x)


@rewrite(op(Div, x, op(Add, one, op(Exp, op(Neg, x)))), subject="silu", near=NEVER)
def divide_by_one_and_exp(build: Builder, x: Value) -> Value:
    """``x / (1 + exp(-x))`` is ``silu(x)``."""
    return build(Silu(), x)


@rewrite(op(Div, one, op(Add, one, op(Exp, op(Neg, x)))), near=NEVER)
def sigmoid_written_out(build: Builder, x: Value) -> Value:
    """``1 / (1 + exp(-x))`` is ``sigmoid(x)``."""
    return build(Sigmoid(), x)


@rewrite(op(Reciprocal, op(Add, one, op(Exp, op(Neg, x)))))
def reciprocal_of_one_and_exp(build: Builder, x: Value) -> Value:
    """``reciprocal(1 + exp(-x))`` is ``sigmoid(x)``."""
    return build(Sigmoid(), x)


REWRITES: tuple[Rewrite, ...] = (
    *(_gelu("tanh", pattern, number) for number, pattern in enumerate(_alternatives(_half_of(_TANH)))),
    *(_gelu("none", pattern, number) for number, pattern in enumerate(_alternatives(_half_of(_ERF)))),
    _gelu("tanh", _TWICE, len(_half_of(_TANH).alternatives)),
    sigmoid_written_out,
    reciprocal_of_one_and_exp,
    divide_by_one_and_exp,
    multiply_by_sigmoid,
)


@dataclass(frozen=True)
class FuseActivations(Pass, name="fuse-activations"):
    """Fuse GELU (erf and tanh form) and SiLU written out."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = apply_rewrites(graph, REWRITES, context)
        for node in graph.nodes:
            if isinstance(node.op, Sigmoid) and (reason := _quick_gelu(node)) is not None:
                context.missed("gelu", node.location, reason, node=node)
        return changed


def _quick_gelu(node: Node) -> str | None:
    """Why ``x * sigmoid(1.702 * x)``, which is near ``gelu(x)``, stays what it is; None for any other sigmoid."""
    found = match(_QUICK, node.result)
    if not isinstance(found, Match) or not any(found.values["x"] in user.inputs for user in node.result.users if isinstance(user.op, Mul)):
        return None
    return f"x * sigmoid({found.values['factor']:g} * x) is another function than gelu: it stays a product"
