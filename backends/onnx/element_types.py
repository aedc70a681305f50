"""Element types of the IR as ONNX names them."""

from __future__ import annotations

import onnx_ir

from cgptc.ir import dtypes
from cgptc.ir.dtypes import DType

TO_ONNX: dict[DType, onnx_ir.DataType] = {
    dtypes.f64: onnx_ir.DataType.DOUBLE,
    dtypes.f32: onnx_ir.DataType.FLOAT,
    dtypes.f16: onnx_ir.DataType.FLOAT16,
    dtypes.bf16: onnx_ir.DataType.BFLOAT16,
    dtypes.i64: onnx_ir.DataType.INT64,
    dtypes.i32: onnx_ir.DataType.INT32,
    dtypes.i8: onnx_ir.DataType.INT8,
    dtypes.u8: onnx_ir.DataType.UINT8,
    dtypes.i4: onnx_ir.DataType.INT4,
    dtypes.boolean: onnx_ir.DataType.BOOL,
}
FROM_ONNX = {onnx: dtype for dtype, onnx in TO_ONNX.items()}
