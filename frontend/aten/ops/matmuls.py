"""Products of matrices. A product with a bias vector, and any `nn.Linear`, is one `Linear` with its weight as [in, out]."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.ops.einsum import contract
from cgptc.frontend.aten.table import Number, aten
from cgptc.ir.dims import product
from cgptc.ir.graph import Value
from cgptc.ir.ops.binary import Add, Mul
from cgptc.ir.ops.matmul import Linear, MatMul
from cgptc.ir.ops.reduction import ReduceSum


@aten("linear")
def linear(emit: Emit, input: Value, weight: Value, bias: Value | None = None) -> Value:
    if weight.type.rank == 1:
        product = emit.squeeze(emit(MatMul(), input, emit.unsqueeze(weight, 1)), input.type.rank - 1)
        return product if bias is None else emit(Add(), product, bias)
    return emit(Linear(), input, emit.transpose(weight, (1, 0)), bias)


@aten("mm", "bmm")
def mm(emit: Emit, self: Value, mat2: Value) -> Value:
    return emit(MatMul(), self, mat2)


@aten("matmul")
def matmul(emit: Emit, self: Value, other: Value) -> Value:
    """Vectors take part as one row or one column."""
    x, y = self, other
    if self.type.rank == 1 and other.type.rank == 1:
        return emit(ReduceSum((0,)), emit(Mul(), x, y))
    if self.type.rank == 1:
        product = emit(MatMul(), emit.unsqueeze(x, 0), y)
        return emit.squeeze(product, product.type.rank - 2)
    if other.type.rank == 1:
        product = emit(MatMul(), x, emit.unsqueeze(y, 1))
        return emit.squeeze(product, product.type.rank - 1)
    return emit(MatMul(), x, y)


@aten("mv")
def mv(emit: Emit, self: Value, vec: Value) -> Value:
    return matmul(emit, self, vec)


@aten("dot")
def dot(emit: Emit, self: Value, tensor: Value) -> Value:
    return matmul(emit, self, tensor)


@aten("vdot")
def vdot(emit: Emit, self: Value, other: Value) -> Value:
    return matmul(emit, self, other)


@aten("inner")
def inner(emit: Emit, self: Value, other: Value) -> Value:
    """Over the last axis of both, every row of one with every row of the other."""
    x, y = emit.promoted(self, other)
    if not x.type.rank or not y.type.rank:
        return emit(Mul(), x, y)
    k = x.type.shape[-1]
    rows, columns = (emit.reshape(value, (product(value.type.shape[:-1]), k)) for value in (x, y))
    result = emit(MatMul(), rows, emit.transpose(columns, (1, 0)))
    return emit.reshape(result, (*x.type.shape[:-1], *y.type.shape[:-1]))


@aten("outer")
def outer(emit: Emit, self: Value, vec2: Value) -> Value:
    x, y = emit.promoted(self, vec2)
    return emit(Mul(), emit.unsqueeze(x, 1), y)


@aten("bilinear")
def bilinear(emit: Emit, input1: Value, input2: Value, weight: Value, bias: Value | None = None) -> Value:
    """``x1 · weight[o] · x2`` for each feature ``o`` of the result."""
    result = contract(emit, "...i,oij,...j->...o", (input1, weight, input2))
    return result if bias is None else emit(Add(), result, bias)


def _blend(emit: Emit, product: Value, addend: Value, beta: Number, alpha: Number) -> Value:
    """``beta * addend + alpha * product``; with beta 0 the addend does not count, NaN or not."""
    dtype = product.type.dtype
    if alpha != 1:
        product = emit(Mul(), product, emit.number(alpha, dtype))
    if beta == 0:
        return product
    return emit(Add(), product, addend if beta == 1 else emit(Mul(), addend, emit.number(beta, dtype)))


@aten("addmm")
def addmm(emit: Emit, self: Value, mat1: Value, mat2: Value, beta: Number = 1, alpha: Number = 1) -> Value:
    if self.type.rank == 1 and self.type.shape[0] == mat2.type.shape[1] and beta == 1 and alpha == 1:
        return emit(Linear(), mat1, mat2, self)
    return _blend(emit, emit(MatMul(), mat1, mat2), self, beta, alpha)


@aten("addbmm")
def addbmm(emit: Emit, self: Value, batch1: Value, batch2: Value, beta: Number = 1, alpha: Number = 1) -> Value:
    return _blend(emit, emit(ReduceSum((0,)), emit(MatMul(), batch1, batch2)), self, beta, alpha)


@aten("baddbmm")
def baddbmm(emit: Emit, self: Value, batch1: Value, batch2: Value, beta: Number = 1, alpha: Number = 1) -> Value:
    return _blend(emit, emit(MatMul(), batch1, batch2), self, beta, alpha)


@aten("addmv")
def addmv(emit: Emit, self: Value, mat: Value, vec: Value, beta: Number = 1, alpha: Number = 1) -> Value:
    return _blend(emit, matmul(emit, mat, vec), self, beta, alpha)


@aten("einsum")
def einsum(emit: Emit, equation: str, tensors: Sequence[Value], path: Sequence[int] | None = None) -> Value:
    return contract(emit, equation, emit.promoted(*tensors))
