"""Element types of the IR as onnx-ir has them."""

from __future__ import annotations

import onnx_ir

from cgptc.backends.onnx.element_codes import CODES
from cgptc.ir.dtypes import DType

TO_ONNX: dict[DType, onnx_ir.DataType] = {dtype: onnx_ir.DataType(code) for dtype, code in CODES.items()}
FROM_ONNX: dict[onnx_ir.DataType, DType] = {onnx: dtype for dtype, onnx in TO_ONNX.items()}
