"""Contractions. Accumulation is in at least f32; f16 and bf16 results are rounded once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import require
from cgptc.ir.dims import bounds, floordiv, mod, product
from cgptc.ir.graph import Value
from cgptc.ir.op import Array, Axis, Cost, Op, Role, moved_bytes
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.broadcast import broadcast_shapes, parallel_axes
from cgptc.ir.ops.operands import FLOAT, NUMBER, require_dtype, require_kind, require_rank, require_shape, require_size
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.ops.shape import Reshape
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class MatMul(Op, name="matmul"):
    """``a [.., m, k] @ b [.., k, n]``, the leading axes broadcast."""

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        require_kind("a", a, NUMBER)
        require_dtype("b", b, a.dtype)
        require_rank("a", a, 2, -1)
        require_rank("b", b, 2, -1)
        require_size(f"axis {b.rank - 2} of 'b' {b}, which meets the last of 'a' {a},", b.shape[-2], a.shape[-1])
        return a.with_shape((*broadcast_shapes(a.shape[:-2], b.shape[:-2], ("a", "b")), a.shape[-2], b.shape[-1]))

    @np.errstate(all="ignore")
    def evaluate(self, a: Array, b: Array) -> Array:
        return rounded(product_of(widened(a), widened(b)), a)

    def cost(self, a: TensorType, b: TensorType) -> Cost:
        result = self.infer(a, b)
        return Cost(2 * result.size * a.shape[-1], moved_bytes(a, b, result))

    def axis_roles(self, a: TensorType, b: TensorType) -> tuple[Axis, ...]:
        result = self.infer(a, b)
        rank = result.rank
        batch = parallel_axes([a.with_shape(a.shape[:-2]), b.with_shape(b.shape[:-2])], result.shape[:-2])
        return (
            *batch,
            Axis(Role.PARALLEL, (a.rank - 2, None), (rank - 2,)),
            Axis(Role.PARALLEL, (None, b.rank - 1), (rank - 1,)),
            Axis(Role.REDUCTION, (a.rank - 1, b.rank - 2), (None,)),
        )


@dataclass(frozen=True)
class Linear(Op, name="linear"):
    """``x [.., in] @ weight [in, out] + bias [out]``; the weight is always [in, out]."""

    def infer(self, x: TensorType, weight: TensorType, bias: TensorType | None = None) -> TensorType:
        require_kind("x", x, FLOAT)
        require_rank("x", x, 1, -1)
        require_dtype("weight", weight, x.dtype)
        require_rank("weight", weight, 2)
        require_size(f"axis 0 of 'weight' {weight}, which meets the last of 'x' {x},", weight.shape[0], x.shape[-1])
        if bias is not None:
            require_dtype("bias", bias, x.dtype)
            require_shape("bias", bias, weight.shape[1:])
        return x.with_shape((*x.shape[:-1], weight.shape[1]))

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        result = product_of(widened(x), widened(weight))
        return rounded(result if bias is None else result + widened(bias), x)

    def decompose(self, build: Builder, x: Value, weight: Value, bias: Value | None = None) -> Value:
        flat = x.type.rank == 1
        rows = build(Reshape((1, *x.type.shape)), x) if flat else x
        result = build(MatMul(), rows, weight)
        if flat:
            result = build(Reshape(result.type.shape[1:]), result)
        return result if bias is None else build(Add(), result, bias)

    def cost(self, x: TensorType, weight: TensorType, bias: TensorType | None = None) -> Cost:
        result = self.infer(x, weight, bias)
        flops = 2 * result.size * x.shape[-1] + (result.size if bias is not None else 0)
        return Cost(flops, moved_bytes(x, weight, bias, result))

    def axis_roles(self, x: TensorType, weight: TensorType, bias: TensorType | None = None) -> tuple[Axis, ...]:
        last = x.rank - 1
        return (
            *(Axis(Role.PARALLEL, (axis, None, None), (axis,)) for axis in range(last)),
            Axis(Role.PARALLEL, (None, 1, 0 if bias is not None else None), (last,)),
            Axis(Role.REDUCTION, (last, 0, None), (None,)),
        )


@dataclass(frozen=True)
class Conv1d(Op, name="conv1d"):
    """Cross-correlation along the last axis: ``x [n, c, l]``, ``weight [out, c/groups, k]``, ``bias [out]`` → ``[n, out, l']``.

    ``l' = (l + 2 padding - dilation (k - 1) - 1) // stride + 1``; ``padding`` zeros stand at either end.
    """

    stride: int = 1
    padding: int = 0
    dilation: int = 1
    groups: int = 1

    def infer(self, x: TensorType, weight: TensorType, bias: TensorType | None = None) -> TensorType:
        require_kind("x", x, FLOAT)
        require_rank("x", x, 3)
        require_dtype("weight", weight, x.dtype)
        require_rank("weight", weight, 3)
        for attribute, value, least in (
            ("stride", self.stride, 1),
            ("padding", self.padding, 0),
            ("dilation", self.dilation, 1),
            ("groups", self.groups, 1),
        ):
            require(value >= least, f"'{attribute}' must be at least {least}, got {value}")
        (batch, channels, length), (out, per_group, kernel) = x.shape, weight.shape
        require(mod(out, self.groups) == 0, f"axis 0 of 'weight' {weight} must be a multiple of the {self.groups} groups")
        require_size(f"axis 1 of 'x' {x} for {self.groups} groups of 'weight' {weight}", channels, per_group * self.groups)
        if bias is not None:
            require_dtype("bias", bias, x.dtype)
            require_shape("bias", bias, (out,))
        room = length + 2 * self.padding - self.dilation * (kernel - 1) - 1
        require(bounds(room)[1] >= 0, f"axis 2 of 'x' {x} must hold the kernel of 'weight' {weight} with its padding and dilation")
        return x.with_shape((batch, out, floordiv(room, self.stride) + 1))

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        batch, (out, per_group, kernel) = x.shape[0], weight.shape
        padded = np.pad(widened(x), ((0, 0), (0, 0), (self.padding, self.padding)))
        span = self.dilation * (kernel - 1) + 1
        windows = np.lib.stride_tricks.sliding_window_view(padded, span, axis=2)[:, :, :: self.stride, :: self.dilation]
        length = windows.shape[2]
        columns = windows.transpose(0, 1, 3, 2).reshape(batch, self.groups, per_group * kernel, length)
        kernels = widened(weight).reshape(self.groups, out // self.groups, per_group * kernel)
        result = np.matmul(kernels, columns).reshape(batch, out, length)
        return rounded(result if bias is None else result + widened(bias)[:, None], x)

    def cost(self, x: TensorType, weight: TensorType, bias: TensorType | None = None) -> Cost:
        result = self.infer(x, weight, bias)
        flops = 2 * result.size * product(weight.shape[1:]) + (result.size if bias is not None else 0)
        return Cost(flops, moved_bytes(x, weight, bias, result))

    def axis_roles(self, x: TensorType, weight: TensorType, bias: TensorType | None = None) -> tuple[Axis, ...]:
        batch = Axis(Role.PARALLEL, (0, None, None), (0,))
        length = Axis(Role.MIXED, (2, None, None), (2,))
        if self.groups != 1:
            return batch, length
        out = Axis(Role.PARALLEL, (None, 0, 0 if bias is not None else None), (1,))
        return batch, out, Axis(Role.REDUCTION, (1, 1, None), (None,)), length


def product_of(a: Array, b: Array) -> Array:
    """``a @ b``; one product for the whole batch where only ``a`` has one."""
    if b.ndim == 2 and a.ndim > 2 and a.size:
        return np.asarray((a.reshape(-1, a.shape[-1]) @ b).reshape(*a.shape[:-1], b.shape[-1]))
    return np.asarray(np.matmul(a, b))
