"""Element types by the numbers that ONNX gives them (``TensorProto.DataType``), without importing onnx."""

from __future__ import annotations

from cgptc.ir import dtypes
from cgptc.ir.dtypes import DType

CODES: dict[DType, int] = {
    dtypes.f32: 1,
    dtypes.u8: 2,
    dtypes.i8: 3,
    dtypes.i32: 6,
    dtypes.i64: 7,
    dtypes.boolean: 9,
    dtypes.f16: 10,
    dtypes.f64: 11,
    dtypes.bf16: 16,
    dtypes.i4: 22,
}
DTYPES_BY_CODE = {code: dtype for dtype, code in CODES.items()}

ORT_NAMES: dict[str, DType] = {
    "tensor(double)": dtypes.f64,
    "tensor(float)": dtypes.f32,
    "tensor(float16)": dtypes.f16,
    "tensor(bfloat16)": dtypes.bf16,
    "tensor(int64)": dtypes.i64,
    "tensor(int32)": dtypes.i32,
    "tensor(int8)": dtypes.i8,
    "tensor(uint8)": dtypes.u8,
    "tensor(int4)": dtypes.i4,
    "tensor(bool)": dtypes.boolean,
}
"""onnxruntime's names of element types."""
