"""Layer norm and RMS norm written out with means become one node."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.ops.binary import Add, Div, Mul, Pow, Sub
from cgptc.ir.ops.elementwise import Cast, Rsqrt, Sqrt
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.reduction import ReduceMean
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pattern import OneOf, Pattern, Scalar, Var, op
from cgptc.passes.rewrite import Rewrite, apply_rewrites, rewrite

x, eps = Var("x"), Scalar("eps")
weight = Var("weight", lambda value: value.type.rank == 1, "a vector")
bias = Var("bias", lambda value: value.type.rank == 1, "a vector")


def _square(value: Pattern) -> Pattern:
    return OneOf((op(Pow, value, Scalar(value=2.0)), op(Mul, value, value)))


def _mean(value: Pattern, shared: bool = False) -> Pattern:
    return op(ReduceMean, value, keepdims=True, shared=shared, bind="mean")


def _over_last(node: Node) -> bool:
    """Whether a reduction runs over the last axis alone."""
    assert isinstance(node.op, ReduceMean)
    return node.op.axes == (node.inputs[0].type.rank - 1,)


_RMS = op(Mul, x, op(Rsqrt, op(Add, _mean(_square(x)), eps)))
_RMS_DIVIDED = op(Div, x, op(Sqrt, op(Add, _mean(_square(x)), eps)))


@rewrite(_RMS, subject="rms-norm")
def rms_norm(build: Builder, x: Value, eps: float, mean: Node) -> Value | None:
    """``x * rsqrt(mean(x ** 2) + eps)`` is ``rms_norm(x)``."""
    return build(RmsNorm(eps), x) if _over_last(mean) else None


@rewrite(_RMS_DIVIDED, subject="rms-norm")
def rms_norm_by_division(build: Builder, x: Value, eps: float, mean: Node) -> Value | None:
    """``x / sqrt(mean(x ** 2) + eps)`` is ``rms_norm(x)``."""
    return build(RmsNorm(eps), x) if _over_last(mean) else None


@rewrite(op(Mul, op(RmsNorm, x, bind="norm"), weight), subject="rms-norm")
def rms_norm_weight(build: Builder, x: Value, norm: Node, weight: Value) -> Value | None:
    """``rms_norm(x) * weight`` is ``rms_norm(x, weight)``."""
    return build(norm.op, x, weight) if weight.type.shape == x.type.shape[-1:] else None


@rewrite(op(Cast, op(RmsNorm, op(Cast, x, shared=True), bind="norm"), bind="outer"), subject="rms-norm")
def rms_norm_in_own_type(build: Builder, x: Value, norm: Node, outer: Node) -> Value | None:
    """A norm that only widens its statistics is a norm of the narrow type: statistics are at least float32 anyway."""
    wide: DType = norm.result.type.dtype
    return build(norm.op, x) if outer.result.type == x.type and wide.bits <= 32 else None


_CENTRED = op(Sub, x, op(ReduceMean, x, keepdims=True, bind="mean", shared=True), shared=True)
_VARIANCE = op(ReduceMean, _square(_CENTRED), keepdims=True, bind="variance")
_NORMED = OneOf(
    (
        op(Div, _CENTRED, op(Sqrt, op(Add, _VARIANCE, eps))),
        op(Mul, _CENTRED, op(Rsqrt, op(Add, _VARIANCE, eps))),
    )
)


def _layer_norm(pattern: Pattern, number: int) -> Rewrite:
    def build(build: Builder, x: Value, eps: float, mean: Node, variance: Node) -> Value | None:
        """``(x - mean) / sqrt(var + eps)`` is ``layer_norm(x)``."""
        return build(LayerNorm(eps), x) if _over_last(mean) and _over_last(variance) else None

    build.__name__ = f"layer_norm_{number}"
    return rewrite(pattern, subject="layer-norm")(build)


@rewrite(op(Mul, op(LayerNorm, x, bind="norm"), weight), subject="layer-norm")
def layer_norm_weight(build: Builder, x: Value, norm: Node, weight: Value) -> Value | None:
    """``layer_norm(x) * weight`` is ``layer_norm(x, weight)``."""
    return build(norm.op, x, weight) if weight.type.shape == x.type.shape[-1:] else None


@rewrite(op(Add, op(LayerNorm, x, Var("weight"), bind="norm"), bias), subject="layer-norm")
def layer_norm_bias(build: Builder, x: Value, norm: Node, weight: Value, bias: Value) -> Value | None:
    """``layer_norm(x, weight) + bias`` is ``layer_norm(x, weight, bias)``."""
    return build(norm.op, x, weight, bias) if bias.type.shape == x.type.shape[-1:] else None


REWRITES: tuple[Rewrite, ...] = (
    rms_norm,
    rms_norm_by_division,
    rms_norm_weight,
    rms_norm_in_own_type,
    *(_layer_norm(pattern, number) for number, pattern in enumerate(_NORMED.alternatives)),
    layer_norm_weight,
    layer_norm_bias,
)


@dataclass(frozen=True)
class FuseNorms(Pass, name="fuse-norms"):
    """Fuse layer norm and RMS norm written out, with their weight and bias."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        return apply_rewrites(graph, REWRITES, context)
