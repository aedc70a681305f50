"""Normalisation over the last axis. Statistics are in at least f32; f16 and bf16 results are rounded once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Value
from cgptc.ir.op import Array, Axis, Cost, Op, Role, moved_bytes
from cgptc.ir.ops.binary import Add, Div, Mul, Sub
from cgptc.ir.ops.elementwise import Sqrt
from cgptc.ir.ops.operands import FLOAT, require_dtype, require_kind, require_rank, require_shape
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.ops.reduction import ReduceMean
from cgptc.ir.ops.spelling import cast, widen
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class LayerNorm(Op, name="layer_norm"):
    """``(x - mean(x)) / sqrt(mean((x - mean(x))**2) + eps) * weight + bias``; weight and bias have the last axis of ``x``."""

    eps: float = 1e-5

    def infer(self, x: TensorType, weight: TensorType | None = None, bias: TensorType | None = None) -> TensorType:
        _require_normed(x, weight=weight, bias=bias)
        return x

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, weight: Array | None = None, bias: Array | None = None) -> Array:
        wide = widened(x)
        centred = wide - np.mean(wide, axis=-1, keepdims=True)
        result = centred / np.sqrt(np.mean(centred * centred, axis=-1, keepdims=True) + self.eps)
        if weight is not None:
            result = result * widened(weight)
        if bias is not None:
            result = result + widened(bias)
        return rounded(result, x)

    def decompose(self, build: Builder, x: Value, weight: Value | None = None, bias: Value | None = None) -> Value:
        last = (x.type.rank - 1,)
        wide = widen(build, x)
        centred = build(Sub(), wide, build(ReduceMean(last, keepdims=True), wide))
        result = _over_root_mean_square(build, centred, self.eps)
        if weight is not None:
            result = build(Mul(), result, widen(build, weight))
        if bias is not None:
            result = build(Add(), result, widen(build, bias))
        return cast(build, result, x.type.dtype)

    def cost(self, x: TensorType, weight: TensorType | None = None, bias: TensorType | None = None) -> Cost:
        flops = 6 + (weight is not None) + (bias is not None)
        return Cost(flops * x.size, moved_bytes(x, weight, bias, x))

    def axis_roles(self, x: TensorType, weight: TensorType | None = None, bias: TensorType | None = None) -> tuple[Axis, ...]:
        return _last_axis_mixed(x, weight, bias)


@dataclass(frozen=True)
class RmsNorm(Op, name="rms_norm"):
    """``x / sqrt(mean(x**2) + eps) * weight``; the weight has the last axis of ``x``."""

    eps: float = 1e-5

    def infer(self, x: TensorType, weight: TensorType | None = None) -> TensorType:
        _require_normed(x, weight=weight)
        return x

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, weight: Array | None = None) -> Array:
        wide = widened(x)
        result = wide / np.sqrt(np.mean(wide * wide, axis=-1, keepdims=True) + self.eps)
        return rounded(result if weight is None else result * widened(weight), x)

    def decompose(self, build: Builder, x: Value, weight: Value | None = None) -> Value:
        wide = widen(build, x)
        result = _over_root_mean_square(build, wide, self.eps)
        if weight is not None:
            result = build(Mul(), result, widen(build, weight))
        return cast(build, result, x.type.dtype)

    def cost(self, x: TensorType, weight: TensorType | None = None) -> Cost:
        return Cost((3 + (weight is not None)) * x.size, moved_bytes(x, weight, x))

    def axis_roles(self, x: TensorType, weight: TensorType | None = None) -> tuple[Axis, ...]:
        return _last_axis_mixed(x, weight)


def _require_normed(x: TensorType, **affine: TensorType | None) -> None:
    require_kind("x", x, FLOAT)
    require_rank("x", x, 1, -1)
    for name, operand in affine.items():
        if operand is not None:
            require_dtype(name, operand, x.dtype)
            require_shape(name, operand, x.shape[-1:])


def _over_root_mean_square(build: Builder, x: Value, eps: float) -> Value:
    mean = build(ReduceMean((x.type.rank - 1,), keepdims=True), build(Mul(), x, x))
    return build(Div(), x, build(Sqrt(), build(Add(), mean, build.constant(eps, x.type.dtype))))


def _last_axis_mixed(x: TensorType, *affine: TensorType | None) -> tuple[Axis, ...]:
    last = x.rank - 1
    absent = (None,) * len(affine)
    return (
        *(Axis(Role.PARALLEL, (axis, *absent), (axis,)) for axis in range(last)),
        Axis(Role.MIXED, (last, *(None if operand is None else 0 for operand in affine)), (last,)),
    )
