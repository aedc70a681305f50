"""Products with weights become `linear`, with their bias, over the tokens as they lie."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.dims import product
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.matmul import Linear, MatMul
from cgptc.ir.ops.shape import Reshape
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import Var, op
from cgptc.passes.rewrite import Rewrite, apply_rewrites, rewrite

x, bias = Var("x"), Var("bias", lambda value: value.type.rank == 1, "a vector")
weight = Var("weight", lambda value: isinstance(value.op, Constant) and value.type.rank == 2, "a weight matrix")


@rewrite(op(MatMul, x, weight), subject="linear")
def matmul_to_linear(build: Builder, x: Value, weight: Value) -> Value | None:
    """``matmul(x, weight)`` is ``linear(x, weight)``."""
    return build(Linear(), x, weight) if x.type.rank >= 2 else None


@rewrite(op(Add, op(Linear, x, weight), bias), subject="linear", near=3)
def add_bias_to_linear(build: Builder, x: Value, weight: Value, bias: Value) -> Value | None:
    """``linear(x, weight) + bias`` is ``linear(x, weight, bias)``."""
    return build(Linear(), x, weight, bias) if bias.type.shape == weight.type.shape[1:] else None


@rewrite(op(Reshape, op(Linear, op(Reshape, x, shared=True), weight, Var("bias")), bind="outer"))
def keep_tokens_in_linear(build: Builder, x: Value, weight: Value, bias: Value, outer: Node) -> Value | None:
    """``reshape(linear(reshape(x)))`` around flattened tokens is ``linear(x)``."""
    return _unflattened(build, x, weight, bias, outer)


@rewrite(op(Reshape, op(Linear, op(Reshape, x, shared=True), weight), bind="outer"))
def keep_tokens_in_linear_without_bias(build: Builder, x: Value, weight: Value, outer: Node) -> Value | None:
    """The same without a bias."""
    return _unflattened(build, x, weight, None, outer)


def _unflattened(build: Builder, x: Value, weight: Value, bias: Value | None, outer: Node) -> Value | None:
    """The linear over tokens as the result has them: ``outer`` may also split the features, into heads say."""
    linear = outer.inputs[0].producer
    assert linear is not None
    flat = linear.inputs[0]
    features, width = weight.type.shape
    token_count, shape = flat.type.shape[0], outer.result.type.shape
    lead = next((rank for rank in range(2, len(shape)) if product(shape[:rank]) == token_count), None)
    if flat.type.rank != 2 or lead is None:
        return None
    tokens = shape[:lead]
    source = build(Reshape((*tokens, features)), x)
    inner = build(Linear(), source, weight, bias) if bias is not None else build(Linear(), source, weight)
    return inner if shape == (*tokens, width) else build(Reshape(shape), inner)


REWRITES: tuple[Rewrite, ...] = tuple(value for value in globals().values() if isinstance(value, Rewrite))


@dataclass(frozen=True)
class FuseLinear(Pass, name="fuse-linear"):
    """Fuse matmul with a weight, and its bias, to `linear`; drop the flattening of tokens around it."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        return apply_rewrites(graph, REWRITES, context)
