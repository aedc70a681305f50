"""Canonical forms: identities dropped, chains of views merged, views of weights folded into the weight."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.dims import product
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Add, Div, Mul, Pow, Select, Sub
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Neg, Not, Reciprocal, Rsqrt, Sqrt
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.reduction import ReduceMean, ReduceSum, Softmax
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


def _swap(rank: int) -> tuple[int, ...]:
    return (*range(rank - 2), rank - 1, rank - 2)


def _is_swap(node: Node) -> bool:
    assert isinstance(node.op, Transpose)
    return len(node.op.permutation) >= 2 and node.op.permutation == _swap(len(node.op.permutation))


@rewrite(op(MatMul, op(Transpose, x, bind="left"), op(Transpose, y, bind="right")))
def product_of_transposes(build: Builder, x: Value, y: Value, left: Node, right: Node) -> Value | None:
    """``xᵀ @ yᵀ`` is ``(y @ x)ᵀ``; where ``y`` is a softmax, which attention has in front, ``x`` may be turned otherwise."""
    assert isinstance(left.op, Transpose)
    if not _is_swap(right) or not (_is_swap(left) or isinstance(y.op, Softmax)):
        return None
    merged = tuple(left.op.permutation[axis] for axis in _swap(x.type.rank))
    product = build(MatMul(), y, build(Transpose(merged), x) if merged != tuple(range(x.type.rank)) else x)
    return build(Transpose(_swap(product.type.rank)), product)


@rewrite(op(Transpose, op(MatMul, x, op(Transpose, y, bind="inner")), bind="outer"))
def transpose_of_product(build: Builder, x: Value, y: Value, inner: Node, outer: Node) -> Value | None:
    """``(x @ yᵀ)ᵀ`` is ``y @ xᵀ``; where ``x`` is turned anyway, ``y`` may be turned otherwise."""
    assert isinstance(inner.op, Transpose)
    if not _is_swap(outer) or not (_is_swap(inner) or isinstance(x.op, Transpose)) or x.type.rank < 2:
        return None
    merged = tuple(inner.op.permutation[axis] for axis in _swap(y.type.rank))
    left = y if merged == tuple(range(y.type.rank)) else build(Transpose(merged), y)
    return build(MatMul(), left, build(Transpose(_swap(x.type.rank)), x))


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


@rewrite(op(Div, op(ReduceSum, x, bind="total"), number))
def divided_sum(build: Builder, x: Value, total: Node, number: float) -> Value | None:
    """``sum(x) / n`` of n elements is ``mean(x)``; it is looked at before the quotient by a power of two becomes a product."""
    assert isinstance(total.op, ReduceSum)
    size = product(x.type.shape[axis] for axis in total.op.axes)
    return build(ReduceMean(total.op.axes, total.op.keepdims), x) if x.type.dtype.is_float and size == number else None


@rewrite(op(Div, x, number))
def multiply_by_reciprocal(build: Builder, x: Value, number: float) -> Value | None:
    """``x / 2**n`` is ``x * 2**-n``: exact, and then scales merge."""
    mantissa, exponent = math.frexp(number)
    if number == 0 or abs(mantissa) != 0.5 or not -14 <= exponent <= 14 or not x.type.dtype.is_float:
        return None
    return build(Mul(), x, build.constant(1 / number, x.type.dtype))


@rewrite(op(Pow, x, Scalar(value=0.5), bind="node"))
def square_root(build: Builder, x: Value, node: Node) -> Value | None:
    """``x ** 0.5`` is ``sqrt(x)``, as PyTorch computes it."""
    return build(Sqrt(), x) if x.type == node.result.type else None


@rewrite(op(Pow, op(Add, x, number, bind="total", shared=True), Scalar(value=-0.5), bind="node"))
def inverse_square_root(build: Builder, number: float, total: Node, node: Node) -> Value | None:
    """``(x + eps) ** -0.5`` is ``rsqrt(x + eps)``: the sum is never -0, whose powers and roots have other signs."""
    return build(Rsqrt(), total.result) if number > 0 and total.result.type == node.result.type else None


@rewrite(op(Div, one, op(Sqrt, x), bind="node"))
def reciprocal_of_root(build: Builder, x: Value, node: Node) -> Value | None:
    """``1 / sqrt(x)`` is ``rsqrt(x)``."""
    return build(Rsqrt(), x) if x.type == node.result.type else None


@rewrite(op(Reciprocal, op(Sqrt, x)))
def reciprocal_of_root_in_one(build: Builder, x: Value) -> Value:
    """``reciprocal(sqrt(x))`` is ``rsqrt(x)``."""
    return build(Rsqrt(), x)


@rewrite(op(Reshape, op(ReduceMean, x, keepdims=False, bind="mean"), bind="node"))
def keep_reduced_axes(build: Builder, x: Value, mean: Node, node: Node) -> Value | None:
    """``unsqueeze(mean(x, axis), axis)`` keeps the axis."""
    assert isinstance(mean.op, ReduceMean)
    kept = tuple(1 if axis in mean.op.axes else dim for axis, dim in enumerate(x.type.shape))
    return build(ReduceMean(mean.op.axes, True), x) if node.result.type.shape == kept else None


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
