"""Normalisation over the last axis."""

from __future__ import annotations

from cgptc.backends.onnx.emit import Emit, OnnxValue
from cgptc.backends.onnx.lowering import lowers
from cgptc.backends.onnx.precision import fits_attribute, rounded, widened
from cgptc.ir.ops.norm import LayerNorm, RmsNorm


def ones(emit: Emit, x: OnnxValue) -> OnnxValue:
    """The weight that changes nothing: ONNX's norms demand one."""
    return emit.Expand(emit.scalar(1, x), emit.shape(emit.type_of(x).shape[-1:]))


@lowers(LayerNorm)
def _layer_norm(emit: Emit, op: LayerNorm, x: OnnxValue, weight: OnnxValue | None, bias: OnnxValue | None) -> OnnxValue:
    if fits_attribute(emit, op.eps, x):
        return emit.LayerNormalization(x, weight if weight is not None else ones(emit, x), bias, axis=-1, epsilon=op.eps)
    wide = widened(emit, x)
    centred = emit.Sub(wide, emit.ReduceMean(wide, emit.ints([-1])))
    variance = emit.ReduceMean(emit.Mul(centred, centred), emit.ints([-1]))
    result = emit.Div(centred, emit.Sqrt(emit.Add(variance, emit.scalar(op.eps, wide))))
    if weight is not None:
        result = emit.Mul(result, emit.cast(weight, emit.dtype_of(wide)))
    if bias is not None:
        result = emit.Add(result, emit.cast(bias, emit.dtype_of(wide)))
    return rounded(emit, result, x)


@lowers(RmsNorm)
def _rms_norm(emit: Emit, op: RmsNorm, x: OnnxValue, weight: OnnxValue | None) -> OnnxValue:
    if emit.options.opset >= 23 and fits_attribute(emit, op.eps, x):
        return emit.RMSNormalization(x, weight if weight is not None else ones(emit, x), axis=-1, epsilon=op.eps)
    wide = widened(emit, x)
    mean = emit.ReduceMean(emit.Mul(wide, wide), emit.ints([-1]))
    result = emit.Div(wide, emit.Sqrt(emit.Add(mean, emit.scalar(op.eps, wide))))
    if weight is not None:
        result = emit.Mul(result, emit.cast(weight, emit.dtype_of(wide)))
    return rounded(emit, result, x)
