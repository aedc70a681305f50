"""Canonical forms: identities dropped, chains of views merged, views of weights folded into the weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.dims import product
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Add, Div, Mul, Pow, Select, Sub
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Neg, Not
from cgptc.ir.ops.shape import Concat, Expand, Reshape, Slice, Transpose
from cgptc.ir.weight_expressions import reshaped, transposed
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import Scalar, Var, op
from cgptc.passes.rewrite import Rewrite, apply_rewrites, rewrite

x, y = Var("x"), Var("y")
zero, one, number = Scalar(value=0.0), Scalar(value=1.0), Scalar("number")


def _same_type(kept: Value, node: Node) -> Value | None:
    """``kept`` where it may stand for the node's result: broadcasting against the dropped operand must not have grown it."""
    return kept if kept.type == node.result.type else None


@rewrite(op(Add, x, zero, bind="node"))
def drop_add_zero(build: Builder, x: Value, node: Node) -> Value | None:
    """``x + 0`` is ``x``."""
    return _same_type(x, node)


@rewrite(op(Sub, x, zero, bind="node"))
def drop_subtract_zero(build: Builder, x: Value, node: Node) -> Value | None:
    """``x - 0`` is ``x``."""
    return _same_type(x, node)


@rewrite(op(Mul, x, one, bind="node"))
def drop_multiply_one(build: Builder, x: Value, node: Node) -> Value | None:
    """``x * 1`` is ``x``."""
    return _same_type(x, node)


@rewrite(op(Div, x, one, bind="node"))
def drop_divide_one(build: Builder, x: Value, node: Node) -> Value | None:
    """``x / 1`` is ``x``."""
    return _same_type(x, node)


@rewrite(op(Pow, x, one, bind="node"))
def drop_first_power(build: Builder, x: Value, node: Node) -> Value | None:
    """``x ** 1`` is ``x``."""
    return _same_type(x, node)


@rewrite(op(Neg, op(Neg, x, shared=True)))
def drop_double_negation(build: Builder, x: Value) -> Value:
    """``-(-x)`` is ``x``."""
    return x


@rewrite(op(Not, op(Not, x, shared=True)))
def drop_double_not(build: Builder, x: Value) -> Value:
    """``not not x`` is ``x``."""
    return x


@rewrite(op(Cast, x, bind="node"))
def drop_cast_to_same(build: Builder, x: Value, node: Node) -> Value | None:
    """A cast to the type that a value has already."""
    return _same_type(x, node)


@rewrite(op(Reshape, x, bind="node"))
def drop_reshape_to_same(build: Builder, x: Value, node: Node) -> Value | None:
    """A reshape to the shape that a value has already."""
    return _same_type(x, node)


@rewrite(op(Reshape, op(Reshape, x, shared=True), bind="node"))
def merge_reshapes(build: Builder, x: Value, node: Node) -> Value:
    """``reshape(reshape(x))`` is one reshape."""
    return build(node.op, x)


@rewrite(op(Transpose, x, bind="node"))
def drop_identity_transpose(build: Builder, x: Value, node: Node) -> Value | None:
    """A transpose that moves nothing."""
    assert isinstance(node.op, Transpose)
    return x if node.op.permutation == tuple(range(x.type.rank)) else None


@rewrite(op(Transpose, op(Transpose, x, bind="inner", shared=True), bind="outer"))
def merge_transposes(build: Builder, x: Value, inner: Node, outer: Node) -> Value:
    """``transpose(transpose(x))`` is one transpose."""
    assert isinstance(inner.op, Transpose)
    assert isinstance(outer.op, Transpose)
    return build(Transpose(tuple(inner.op.permutation[axis] for axis in outer.op.permutation)), x)


@rewrite(op(Transpose, x, bind="node"))
def reshape_for_unit_transpose(build: Builder, x: Value, node: Node) -> Value | None:
    """A transpose that moves only axes of size 1 is a reshape."""
    assert isinstance(node.op, Transpose)
    moved = [axis for axis in node.op.permutation if x.type.shape[axis] != 1]
    return build(Reshape(node.result.type.shape), x) if moved == sorted(moved) and x.type.rank else None


@rewrite(op(Expand, x, bind="node"))
def drop_expand_to_same(build: Builder, x: Value, node: Node) -> Value | None:
    """An expand to the shape that a value has already."""
    return _same_type(x, node)


@rewrite(op(Expand, op(Expand, x, shared=True), bind="node"))
def merge_expands(build: Builder, x: Value, node: Node) -> Value:
    """``expand(expand(x))`` is one expand."""
    return build(node.op, x)


@rewrite(op(Slice, x, bind="node"))
def drop_full_slice(build: Builder, x: Value, node: Node) -> Value | None:
    """A slice that takes everything."""
    assert isinstance(node.op, Slice)
    return x if (node.op.start, node.op.step) == (0, 1) and node.op.stop == x.type.shape[node.op.axis] else None


@rewrite(op(Concat, x))
def drop_concat_of_one(build: Builder, x: Value) -> Value:
    """A concatenation of one part."""
    return x


@rewrite(op(Select, Var("condition"), x, x, bind="node"))
def drop_select_of_same(build: Builder, x: Value, node: Node) -> Value | None:
    """``select(c, x, x)`` is ``x``."""
    return _same_type(x, node)


@rewrite(op(Div, x, number))
def multiply_by_reciprocal(build: Builder, x: Value, number: float) -> Value | None:
    """``x / 2**n`` is ``x * 2**-n``: exact, and then scales merge."""
    mantissa, exponent = math.frexp(number)
    if number == 0 or abs(mantissa) != 0.5 or not -14 <= exponent <= 14 or not x.type.dtype.is_float:
        return None
    return build(Mul(), x, build.constant(1 / number, x.type.dtype))


@rewrite(op(Transpose, Var("weight", lambda value: isinstance(value.op, Constant), "a weight"), bind="node"))
def transpose_weight(build: Builder, weight: Value, node: Node) -> Value:
    """A transposed weight is a weight."""
    assert isinstance(weight.op, Constant)
    assert isinstance(node.op, Transpose)
    return build.weight(transposed(weight.op.weight, node.op.permutation))


@rewrite(op(Reshape, Var("weight", lambda value: isinstance(value.op, Constant), "a weight"), bind="node"))
def reshape_weight(build: Builder, weight: Value, node: Node) -> Value | None:
    """A reshaped weight is a weight."""
    assert isinstance(weight.op, Constant)
    shape = node.result.type.shape
    if not node.result.type.is_static or product(shape) != weight.type.size:
        return None
    return build.weight(reshaped(weight.op.weight, node.result.type.static_shape))


REWRITES: tuple[Rewrite, ...] = tuple(value for value in globals().values() if isinstance(value, Rewrite))


@dataclass(frozen=True)
class Canonicalize(Pass, name="canonicalize"):
    """Drop identities, merge chains of views, fold views of weights into the weight."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        return apply_rewrites(graph, REWRITES, context)
