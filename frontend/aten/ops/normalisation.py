"""Norms."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import RefusedError, aten
from cgptc.ir.dims import Dim, product
from cgptc.ir.dtypes import bf16, f16, f32, f64
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Add, Mul, Sub
from cgptc.ir.ops.elementwise import Rsqrt
from cgptc.ir.ops.norm import LayerNorm, RmsNorm
from cgptc.ir.ops.reduction import ReduceMean

_EPSILON = {f64: 2.0**-52, f32: 2.0**-23, f16: 2.0**-10, bf16: 2.0**-7}
"""`torch.finfo(dtype).eps`, which `rms_norm` uses when no eps is given."""


def _flat(emit: Emit, value: Value, axes: int) -> Value:
    """The last ``axes`` axes as one."""
    shape = value.type.shape
    kept = len(shape) - axes
    return value if axes == 1 else emit.reshape(value, (*shape[:kept], product(shape[kept:])))


@aten("layer_norm")
def layer_norm(
    emit: Emit,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Value:
    """Over the last axes; several are one for the norm's sake."""
    count = len(normalized_shape)
    x = _flat(emit, input, count)
    scale = None if weight is None else _flat(emit, weight, count)
    shift = None if bias is None else _flat(emit, bias, count)
    return emit.reshape(emit(LayerNorm(eps), x, scale, shift), input.type.shape)


@aten("native_layer_norm")
def native_layer_norm(
    emit: Emit,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None,
    bias: Value | None,
    eps: float,
) -> tuple[Value, Value, Value]:
    """The result with the mean and the reciprocal deviation that it was made with."""
    axes = tuple(range(input.type.rank - len(normalized_shape), input.type.rank))
    mean, deviation = _statistics(emit, input, axes, eps)
    return layer_norm(emit, input, normalized_shape, weight, bias, eps), mean, deviation


def _statistics(emit: Emit, x: Value, axes: tuple[int, ...], eps: float) -> tuple[Value, Value]:
    mean = emit(ReduceMean(axes, True), x)
    centred = emit(Sub(), x, mean)
    variance = emit(ReduceMean(axes, True), emit(Mul(), centred, centred))
    return mean, emit(Rsqrt(), emit(Add(), variance, emit.number(eps, x.type.dtype)))


@aten("rms_norm")
def rms_norm(
    emit: Emit,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    eps: float | None = None,
) -> Value:
    count = len(normalized_shape)
    epsilon = _EPSILON[input.type.dtype] if eps is None else eps
    scale = None if weight is None else _flat(emit, weight, count)
    return emit.reshape(emit(RmsNorm(epsilon), _flat(emit, input, count), scale), input.type.shape)


def _per_channel(emit: Emit, value: Value, rank: int) -> Value:
    """A vector over channels (axis 1) shaped to broadcast against a tensor of ``rank``."""
    return emit.reshape(value, (*value.type.shape, *[1] * (rank - 2)))


def _affine(emit: Emit, x: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        x = emit(Mul(), x, _per_channel(emit, weight, x.type.rank))
    return x if bias is None else emit(Add(), x, _per_channel(emit, bias, x.type.rank))


@aten("group_norm")
def group_norm(
    emit: Emit,
    input: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Value:
    """Each group of channels of each sample is one layer norm."""
    shape = input.type.shape
    per_group: Dim = product(shape[1:]) // num_groups
    grouped = emit.reshape(input, (shape[0], num_groups, per_group))
    return _affine(emit, emit.reshape(emit(LayerNorm(eps), grouped, None, None), shape), weight, bias)


@aten("instance_norm")
def instance_norm(
    emit: Emit,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Value:
    if not use_input_stats:
        return batch_norm(emit, input, weight, bias, running_mean, running_var, False, momentum, eps)
    shape = input.type.shape
    flat = emit.reshape(input, (*shape[:2], product(shape[2:])))
    return _affine(emit, emit.reshape(emit(LayerNorm(eps), flat, None, None), shape), weight, bias)


@aten("batch_norm")
def batch_norm(
    emit: Emit,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Value:
    """With running statistics."""
    if training or running_mean is None or running_var is None:
        raise RefusedError("normalises by the statistics of the batch; call the module's eval() before capture")
    rank = input.type.rank
    centred = emit(Sub(), input, _per_channel(emit, running_mean, rank))
    deviation = emit(Rsqrt(), emit(Add(), running_var, emit.number(eps, running_var.type.dtype)))
    return _affine(emit, emit(Mul(), centred, _per_channel(emit, deviation, rank)), weight, bias)


@aten("_native_batch_norm_legit_no_training")
def native_batch_norm(
    emit: Emit,
    input: Value,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value,
    running_var: Value,
    momentum: float,
    eps: float,
) -> tuple[Value, None, None]:
    return batch_norm(emit, input, weight, bias, running_mean, running_var, False, momentum, eps), None, None
