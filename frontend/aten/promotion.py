"""PyTorch's type promotion: tensors outrank rank-0 tensors, which outrank Python numbers, within bool < integer < float."""

from __future__ import annotations

from collections.abc import Iterable

from cgptc.frontend.aten.table import Operand, UnsupportedError
from cgptc.ir.dtypes import DType, bf16, boolean, f16, f32, f64, i8, i32, i64, u8
from cgptc.ir.graph import Value

_INTEGERS = (i8, i32, i64)


def promote(left: DType | None, right: DType | None) -> DType | None:
    """The smallest type that both promote to; None stands for nothing to promote."""
    if left is None or right is None or left == right:
        return left or right
    if left.is_float or right.is_float:
        if not (left.is_float and right.is_float):
            return left if left.is_float else right
        if {left, right} == {f16, bf16}:
            return f32
        return max(left, right, key=lambda dtype: (f16, bf16, f32, f64).index(dtype))
    if boolean in (left, right):
        return right if left == boolean else left
    if u8 in (left, right):
        signed = right if left == u8 else left
        if signed == i8:
            raise UnsupportedError("promotes u8 and i8 to int16, which the IR lacks")
        return signed
    return max(left, right, key=_INTEGERS.index)


def _category(dtype: DType | None) -> int:
    if dtype is None:
        return -1
    return 2 if dtype.is_float else 1 if dtype.is_integer else 0


def _outrank(higher: DType | None, lower: DType | None) -> DType | None:
    return promote(higher, lower) if _category(lower) > _category(higher) else higher


def result_type(operands: Iterable[Operand], default_float: DType = f32) -> DType:
    """`torch.result_type` of tensors and Python numbers; symbolic sizes count as integers."""
    tensors: DType | None = None
    scalars: DType | None = None
    numbers: DType | None = None
    for operand in operands:
        if isinstance(operand, Value):
            if operand.type.rank:
                tensors = promote(tensors, operand.type.dtype)
            else:
                scalars = promote(scalars, operand.type.dtype)
        else:
            numbers = promote(numbers, number_type(operand, default_float))
    result = _outrank(tensors, _outrank(scalars, numbers))
    assert result is not None, "no operands"
    return result


def number_type(number: Operand, default_float: DType = f32) -> DType:
    """The type that a Python number has on its own."""
    if isinstance(number, Value):
        return number.type.dtype
    if isinstance(number, bool):
        return boolean
    return default_float if isinstance(number, float) else i64
