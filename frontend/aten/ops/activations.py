"""Activations and softmax."""

from __future__ import annotations

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.exported import Unknown
from cgptc.frontend.aten.ops.arithmetic import clamp
from cgptc.frontend.aten.table import Number, aten
from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Add, Div, Greater, Minimum, Mul, Select, Sub
from cgptc.ir.ops.elementwise import Abs, Exp, Expm1, Gelu, Neg, Relu, Sigmoid, Silu, Softplus, Tanh
from cgptc.ir.ops.reduction import LogSoftmax, Softmax
from cgptc.ir.ops.shape import Split


@aten("relu")
def relu(emit: Emit, self: Value) -> Value:
    return emit(Relu(), self)


@aten("relu6")
def relu6(emit: Emit, self: Value) -> Value:
    return clamp(emit, self, 0.0, 6.0)


@aten("gelu")
def gelu(emit: Emit, self: Value, approximate: str = "none") -> Value:
    return emit(Gelu(approximate), self)


@aten("silu")
def silu(emit: Emit, self: Value) -> Value:
    return emit(Silu(), self)


@aten("mish")
def mish(emit: Emit, self: Value) -> Value:
    return emit(Mul(), self, emit(Tanh(), emit(Softplus(), self)))


@aten("softplus")
def softplus(emit: Emit, self: Value, beta: Number = 1, threshold: Number = 20) -> Value:
    """Linear beyond ``threshold``, as torch has it."""
    dtype = self.type.dtype
    scaled = self if beta == 1 else emit(Mul(), self, emit.number(beta, dtype))
    smooth = emit(Softplus(), scaled)
    if beta != 1:
        smooth = emit(Div(), smooth, emit.number(beta, dtype))
    return emit(Select(), emit(Greater(), scaled, emit.number(threshold, dtype)), self, smooth)


@aten("log_sigmoid")
def log_sigmoid(emit: Emit, self: Value) -> Value:
    return emit(Neg(), emit(Softplus(), emit(Neg(), self)))


@aten("leaky_relu")
def leaky_relu(emit: Emit, self: Value, negative_slope: Number = 0.01) -> Value:
    zero = emit.number(0.0, self.type.dtype)
    slope = emit(Mul(), self, emit.number(negative_slope, self.type.dtype))
    return emit(Select(), emit(Greater(), self, zero), self, slope)


@aten("prelu", "_prelu_kernel")
def prelu(emit: Emit, self: Value, weight: Value) -> Value:
    if weight.type.rank == 1 and self.type.rank > 1:
        weight = emit.reshape(weight, (*weight.type.shape, *[1] * (self.type.rank - 2)))
    return emit(Select(), emit(Greater(), self, emit.number(0.0, self.type.dtype)), self, emit(Mul(), self, weight))


@aten("elu")
def elu(emit: Emit, self: Value, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Value:
    dtype = self.type.dtype
    inner = self if input_scale == 1 else emit(Mul(), self, emit.number(input_scale, dtype))
    negative = emit(Expm1(), emit(Minimum(), inner, emit.number(0.0, dtype)))
    if alpha != 1:
        negative = emit(Mul(), negative, emit.number(alpha, dtype))
    value = emit(Select(), emit(Greater(), self, emit.number(0.0, dtype)), self, negative)
    return value if scale == 1 else emit(Mul(), value, emit.number(scale, dtype))


@aten("selu")
def selu(emit: Emit, self: Value) -> Value:
    return elu(emit, self, 1.6732632423543772, 1.0507009873554805)


@aten("hardtanh")
def hardtanh(emit: Emit, self: Value, min_val: Number = -1, max_val: Number = 1) -> Value:
    return clamp(emit, self, min_val, max_val)


@aten("hardsigmoid")
def hardsigmoid(emit: Emit, self: Value) -> Value:
    dtype = self.type.dtype
    return emit(Div(), clamp(emit, emit(Add(), self, emit.number(3.0, dtype)), 0.0, 6.0), emit.number(6.0, dtype))


@aten("hardswish")
def hardswish(emit: Emit, self: Value) -> Value:
    return emit(Mul(), self, hardsigmoid(emit, self))


@aten("glu")
def glu(emit: Emit, self: Value, dim: int = -1) -> Value:
    axis = emit.axis(dim, self.type.rank)
    half = self.type.shape[axis] // 2
    value, gate = emit.all(Split(axis, (half, half)), self)
    return emit(Mul(), value, emit(Sigmoid(), gate))


@aten("softsign")
def softsign(emit: Emit, self: Value) -> Value:
    return emit(Div(), self, emit(Add(), emit.number(1.0, self.type.dtype), emit(Abs(), self)))


@aten("sinh")
def sinh(emit: Emit, self: Value) -> Value:
    value = emit.floating(self)
    return emit(Mul(), emit(Sub(), emit(Exp(), value), emit(Exp(), emit(Neg(), value))), emit.number(0.5, value.type.dtype))


@aten("cosh")
def cosh(emit: Emit, self: Value) -> Value:
    value = emit.floating(self)
    return emit(Mul(), emit(Add(), emit(Exp(), value), emit(Exp(), emit(Neg(), value))), emit.number(0.5, value.type.dtype))


@aten("softmax.int", "special_softmax")
def softmax(emit: Emit, self: Value, dim: int, dtype: DType | Unknown | None = None) -> Value:
    value = emit.floating(emit.cast(self, emit.dtype(dtype, self.type.dtype)))
    return emit(Softmax(emit.axis(dim, value.type.rank)), value)


@aten("_softmax")
def softmax_kernel(emit: Emit, self: Value, dim: int, half_to_float: bool = False, dtype: DType | None = None) -> Value:
    return softmax(emit, self, dim, dtype)


@aten("log_softmax.int", "special_log_softmax")
def log_softmax(emit: Emit, self: Value, dim: int, dtype: DType | Unknown | None = None) -> Value:
    value = emit.floating(emit.cast(self, emit.dtype(dtype, self.type.dtype)))
    return emit(LogSoftmax(emit.axis(dim, value.type.rank)), value)


@aten("_log_softmax")
def log_softmax_kernel(emit: Emit, self: Value, dim: int, half_to_float: bool = False) -> Value:
    return log_softmax(emit, self, dim)
