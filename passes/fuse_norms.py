"""Layer norm and RMS norm written out with means become one node."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Add, Div, Maximum, Mul, Pow, Sub
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Rsqrt, Sqrt
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.reduction import ReduceMean, ReduceSum
from cgptc.ir.ops.shape import Expand, Reshape
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import OneOf, Pattern, Scalar, Var, op, scalar_of
from cgptc.passes.rewrite import Rewrite, apply_rewrites, rewrite

NEVER = 99
"""Misses are told by what is left of a norm, once for each: see `_left_over`."""


def _is_vector(value: Value) -> bool:
    return value.type.rank >= 1 and all(dim == 1 for dim in value.type.shape[:-1])


x, eps = Var("x"), Scalar("eps")
weight, bias = Var("weight", _is_vector, "a vector"), Var("bias", _is_vector, "a vector")


def _vector(build: Builder, value: Value, x: Value) -> Value | None:
    """A vector over the last axis of ``x``, without axes of size 1 before it; None where it has another length."""
    if value.type.shape[-1:] != x.type.shape[-1:]:
        return None
    return value if value.type.rank == 1 else build(Reshape(value.type.shape[-1:]), value)


def _square(value: Pattern) -> Pattern:
    return OneOf((op(Pow, value, Scalar(value=2.0)), op(Mul, value, value)))


def _mean(value: Pattern) -> Pattern:
    return op(ReduceMean, value, keepdims=True, bind="mean")


def _over_last(node: Node) -> bool:
    """Whether a reduction runs over the last axis alone."""
    assert isinstance(node.op, ReduceMean)
    return node.op.axes == (node.inputs[0].type.rank - 1,)


_ROOT = op(Rsqrt, op(Add, _mean(_square(x)), eps))
_RMS = op(Mul, x, _ROOT)
_RMS_DIVIDED = op(Div, x, op(Sqrt, op(Add, _mean(_square(x)), eps)))
_RMS_WEIGHTED = OneOf((op(Mul, op(Mul, x, weight), _ROOT), op(Mul, x, op(Mul, weight, _ROOT))))


@rewrite(_RMS, subject="rms-norm", near=NEVER)
def rms_norm(build: Builder, x: Value, eps: float, mean: Node) -> Value | None:
    """``x * rsqrt(mean(x ** 2) + eps)`` is ``rms_norm(x)``."""
    return build(RmsNorm(eps), x) if _over_last(mean) else None


@rewrite(_RMS_DIVIDED, subject="rms-norm", near=NEVER)
def rms_norm_by_division(build: Builder, x: Value, eps: float, mean: Node) -> Value | None:
    """``x / sqrt(mean(x ** 2) + eps)`` is ``rms_norm(x)``."""
    return build(RmsNorm(eps), x) if _over_last(mean) else None


def _weighted_rms_norm(pattern: Pattern, number: int) -> Rewrite:
    def build(build: Builder, x: Value, eps: float, mean: Node, weight: Value) -> Value | None:
        """``weight * x * rsqrt(mean(x ** 2) + eps)``, however it is associated, is ``rms_norm(x, weight)``."""
        vector = _vector(build, weight, x)
        return build(RmsNorm(eps), x, vector) if vector is not None and _over_last(mean) else None

    build.__name__ = f"weighted_rms_norm_{number}"
    return rewrite(pattern, subject="rms-norm", near=NEVER)(build)


@rewrite(op(Mul, op(RmsNorm, x, bind="norm"), weight), subject="rms-norm")
def rms_norm_weight(build: Builder, x: Value, norm: Node, weight: Value) -> Value | None:
    """``rms_norm(x) * weight`` is ``rms_norm(x, weight)``."""
    vector = _vector(build, weight, x)
    return build(norm.op, x, vector) if vector is not None else None


@rewrite(op(Cast, op(RmsNorm, op(Cast, x, shared=True), bind="norm"), bind="outer"), subject="rms-norm")
def rms_norm_in_own_type(build: Builder, x: Value, norm: Node, outer: Node) -> Value | None:
    """A norm that only widens its statistics is a norm of the narrow type: statistics are at least float32 anyway."""
    wide: DType = norm.result.type.dtype
    return build(norm.op, x) if outer.result.type == x.type and wide.bits <= 32 else None


_CENTRED = op(Sub, x, op(ReduceMean, x, keepdims=True, bind="mean", shared=True), shared=True)
_VARIANCE = op(ReduceMean, _square(_CENTRED), keepdims=True, bind="variance")
_DEVIATION, _PRECISION = op(Sqrt, op(Add, _VARIANCE, eps)), op(Rsqrt, op(Add, _VARIANCE, eps))
_WEIGHTED = op(Mul, _CENTRED, weight)


def _layer_norm(pattern: Pattern, name: str) -> Rewrite:
    def build(build: Builder, x: Value, eps: float, mean: Node, variance: Node) -> Value | None:
        """``(x - mean) / sqrt(var + eps)`` is ``layer_norm(x)``."""
        return build(LayerNorm(eps), x) if _over_last(mean) and _over_last(variance) else None

    build.__name__ = name
    return rewrite(pattern, subject="layer-norm", near=NEVER)(build)


def _weighted_layer_norm(pattern: Pattern, name: str) -> Rewrite:
    def build(build: Builder, x: Value, eps: float, mean: Node, variance: Node, weight: Value) -> Value | None:
        """``weight * (x - mean) / sqrt(var + eps)`` is ``layer_norm(x, weight)``."""
        vector = _vector(build, weight, x)
        return build(LayerNorm(eps), x, vector) if vector is not None and _over_last(mean) and _over_last(variance) else None

    build.__name__ = name
    return rewrite(pattern, subject="layer-norm", near=NEVER)(build)


@rewrite(op(Mul, op(LayerNorm, x, bind="norm"), weight), subject="layer-norm")
def layer_norm_weight(build: Builder, x: Value, norm: Node, weight: Value) -> Value | None:
    """``layer_norm(x) * weight`` is ``layer_norm(x, weight)``."""
    vector = _vector(build, weight, x)
    return build(norm.op, x, vector) if vector is not None else None


@rewrite(op(Add, op(LayerNorm, x, Var("weight"), bind="norm"), bias), subject="layer-norm")
def layer_norm_bias(build: Builder, x: Value, norm: Node, weight: Value, bias: Value) -> Value | None:
    """``layer_norm(x, weight) + bias`` is ``layer_norm(x, weight, bias)``."""
    vector = _vector(build, bias, x)
    return build(norm.op, x, weight, vector) if vector is not None else None


REWRITES: tuple[Rewrite, ...] = (
    # First, since what a layer norm divides is a mean of squares, too.
    _layer_norm(op(Div, _CENTRED, _DEVIATION), "layer_norm_by_division"),
    _layer_norm(op(Mul, _CENTRED, _PRECISION), "layer_norm"),
    _weighted_layer_norm(op(Div, _WEIGHTED, _DEVIATION), "weighted_layer_norm_by_division"),
    _weighted_layer_norm(op(Mul, _WEIGHTED, _PRECISION), "weighted_layer_norm"),
    rms_norm,
    rms_norm_by_division,
    *(_weighted_rms_norm(pattern, number) for number, pattern in enumerate(_RMS_WEIGHTED.alternatives)),
    rms_norm_weight,
    rms_norm_in_own_type,
    layer_norm_weight,
    layer_norm_bias,
)


@dataclass(frozen=True)
class FuseNorms(Pass, name="fuse-norms"):
    """Fuse layer norm and RMS norm written out, with their weight and bias."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = apply_rewrites(graph, REWRITES, context)
        for node in graph.nodes:
            if isinstance(node.op, Sqrt | Rsqrt) and (found := _left_over(node)) is not None:
                context.missed(found[0], node.location, found[1], node=node)
        return changed


def _is_mean(value: Value) -> bool:
    """Whether a value is a mean, or a power of one."""
    while value.producer is not None and isinstance(value.op, Pow | Mul):
        value = value.producer.inputs[0]
    return isinstance(value.op, ReduceMean)


def _left_over(root: Node) -> tuple[str, str] | None:
    """The norm that the root of a mean of squares belongs to, and why it did not fuse; None where there is no such mean."""
    below, added = root.inputs[0], None
    if isinstance(below.op, Add | Maximum) and below.producer is not None:
        below, added = sorted(below.producer.inputs, key=lambda value: isinstance(value.op, Constant))
    if isinstance(below.op, Sub) and below.producer is not None and all(_is_mean(value) for value in below.producer.inputs):
        return "layer-norm", "its variance is a difference of means, which is 0 or negative where the variance is small"
    total, divisor = below.producer, None
    if total is not None and isinstance(total.op, Div | Mul):
        divisor = next((number for value in total.inputs if (number := scalar_of(value)) is not None), None)
        total = next((value.producer for value in total.inputs if isinstance(value.op, ReduceSum)), None)
    if total is None or not isinstance(total.op, ReduceMean | ReduceSum):
        return None
    squares = total.inputs[0].producer
    if squares is None or not (isinstance(squares.op, Pow) or (isinstance(squares.op, Mul) and squares.inputs[0] is squares.inputs[1])):
        return None
    source, rank = squares.inputs[0], squares.result.type.rank
    if len(total.op.axes) != 1:
        return None
    centred = isinstance(source.op, Sub) and source.producer is not None and isinstance(source.producer.inputs[1].op, ReduceMean)
    subject = "layer-norm" if centred else "rms-norm"
    users = [user.op.name for user in root.result.users]
    if isinstance(total.op, ReduceSum) and divisor is None:
        reason = _by_length(root, source) if total.op.axes == (rank - 1,) else None
        return ("rms-norm", reason) if reason is not None else None
    if total.op.axes != (rank - 1,):
        return subject, f"its mean runs over axis {total.op.axes[0]} of {rank}, not the last"
    if divisor is not None:
        return subject, f"its sum of squares over {squares.result.type.shape[-1]} is not divided by their number"
    if added is None or isinstance(root.inputs[0].op, Maximum):
        return subject, f"'eps' is not added to the mean below the root, whose result goes to {', '.join(map(repr, users))}"
    if scalar_of(added) is None or added.type.rank > below.type.rank:
        return subject, f"what is added below the root is {added.type}, not a number that the graph holds"
    return subject, f"its root goes to {', '.join(map(repr, users))}, not to a product or a quotient with what was squared"


def _by_length(root: Node, x: Value) -> str | None:
    """Why ``x / (|x| / sqrt(n) + eps)`` or ``x / max(|x|, eps) * sqrt(n)``, an RMS norm by the length of a vector of n features, stays what
    it is; None for anything else that is made of the length.
    """
    value, factor, eps = root.result, 1.0, "no 'eps' below the root"
    divided = False
    while value.use_count == 1 and (node := value.uses[0].user) is not None:
        number = next((found for operand in node.inputs if (found := scalar_of(operand)) is not None), None)
        match node.op:
            case Mul() if number is not None:
                factor *= number
            case Div() if number is not None and node.inputs[0] is value:
                factor /= number
            case Add() if number is not None and not divided:
                eps = f"{number:g} is added to it, not to the mean of squares"
            case Maximum() if number is not None and not divided:
                eps = f"it is at least {number:g}, where a norm adds 'eps' to the mean of squares"
            case Div() if node.inputs[0] is x and not divided:
                factor, divided = 1 / factor, True
            case Expand() | Reshape():
                pass
            case _:
                break
        value = node.result
    width = x.type.shape[-1]
    is_norm = divided and isinstance(width, int) and math.isclose(factor, math.sqrt(width), rel_tol=1e-3)
    return f"it divides by the length of the vector: {eps}" if is_norm else None
