"""Arrays as onnxruntime's values and back, including the element types that numpy itself lacks."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from cgptc.backends.onnx.element_codes import CODES, DTYPES_BY_CODE
from cgptc.ir.dtypes import DType, bf16
from cgptc.ir.op import Array

if TYPE_CHECKING:
    import onnxruntime


def to_value(array: Array, dtype: DType) -> onnxruntime.OrtValue:
    """A value on the CPU that shares the memory of ``array``, which is made contiguous first."""
    import onnxruntime

    array = np.ascontiguousarray(array).reshape(array.shape)  # the former makes rank 0 rank 1
    if dtype == bf16:
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), CODES[bf16])
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def to_array(value: onnxruntime.OrtValue) -> Array:
    """A copy of a value that lies on the CPU."""
    dtype = DTYPES_BY_CODE[value.element_type()]
    if dtype != bf16:
        array: Array = value.numpy()
        return array
    shape = tuple(value.shape())
    count = int(np.prod(shape, dtype=np.int64))
    bits: Array = np.zeros(count, np.uint16)
    ctypes.memmove(bits.ctypes.data, value.data_ptr(), bits.nbytes)
    return bits.view(bf16.numpy).reshape(shape)
