"""Element types as files spell them, and what the IR makes of them.

A type that the IR has is read as it is; a type whose every value another one holds is widened (i16 → i32, u16 → i32,
u32 → i64); any other is known by name and size only, so that a tensor of it can be refused by name.
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from cgptc.frontend.readers.quoting import quoted
from cgptc.ir import dtypes
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.dtypes import DType


@dataclass(frozen=True)
class Element:
    """An element type of a file: torch's name, and bytes each."""

    name: str
    size: int


@dataclass(frozen=True)
class ReadableElement(Element):
    """An element type that the IR can hold: numpy's type in the file, and the IR's type once read."""

    stored: np.dtype[np.generic]
    dtype: DType


def _readable(name: str, stored: type[np.generic], dtype: DType) -> Element:
    numpy = np.dtype(stored)
    return ReadableElement(name, numpy.itemsize, numpy, dtype)


_ALL = (
    _readable("float64", np.float64, dtypes.f64),
    _readable("float32", np.float32, dtypes.f32),
    _readable("float16", np.float16, dtypes.f16),
    _readable("bfloat16", ml_dtypes.bfloat16, dtypes.bf16),
    _readable("int64", np.int64, dtypes.i64),
    _readable("int32", np.int32, dtypes.i32),
    _readable("int16", np.int16, dtypes.i32),
    _readable("int8", np.int8, dtypes.i8),
    _readable("uint8", np.uint8, dtypes.u8),
    _readable("uint16", np.uint16, dtypes.i32),
    _readable("uint32", np.uint32, dtypes.i64),
    _readable("bool", np.bool_, dtypes.boolean),
    Element("uint64", 8),
    Element("complex32", 4),
    Element("complex64", 8),
    Element("complex128", 16),
    Element("float8_e4m3fn", 1),
    Element("float8_e4m3fnuz", 1),
    Element("float8_e5m2", 1),
    Element("float8_e5m2fnuz", 1),
    Element("float8_e8m0fnu", 1),
    Element("float4_e2m1fn_x2", 1),
    Element("qint8", 1),
    Element("quint8", 1),
    Element("qint32", 4),
    Element("quint4x2", 1),
    Element("quint2x4", 1),
)
BY_TORCH_NAME = {element.name: element for element in _ALL}

BY_STORAGE_CLASS = {
    f"{prefix}Storage": BY_TORCH_NAME[name]
    for prefix, name in {
        "Double": "float64",
        "Float": "float32",
        "Half": "float16",
        "BFloat16": "bfloat16",
        "Long": "int64",
        "Int": "int32",
        "Short": "int16",
        "Char": "int8",
        "Byte": "uint8",
        "Bool": "bool",
        "ComplexFloat": "complex64",
        "ComplexDouble": "complex128",
        "QInt8": "qint8",
        "QUInt8": "quint8",
        "QInt32": "qint32",
        "QUInt4x2": "quint4x2",
        "QUInt2x4": "quint2x4",
        "Untyped": "uint8",
    }.items()
}
"""torch's storage classes; an untyped storage counts bytes."""

BY_SAFETENSORS_NAME = {
    name: BY_TORCH_NAME[torch_name]
    for name, torch_name in {
        "F64": "float64",
        "F32": "float32",
        "F16": "float16",
        "BF16": "bfloat16",
        "I64": "int64",
        "I32": "int32",
        "I16": "int16",
        "I8": "int8",
        "U64": "uint64",
        "U32": "uint32",
        "U16": "uint16",
        "U8": "uint8",
        "BOOL": "bool",
        "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2": "float8_e5m2",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
    }.items()
}

BY_SCALAR_TYPE = {
    number: BY_TORCH_NAME[name]
    for number, name in {
        1: "uint8",
        2: "int8",
        3: "int16",
        4: "int32",
        5: "int64",
        6: "float16",
        7: "float32",
        8: "float64",
        9: "complex32",
        10: "complex64",
        11: "complex128",
        12: "bool",
        13: "bfloat16",
        28: "uint16",
        29: "float8_e4m3fn",
        30: "float8_e5m2",
        31: "float8_e4m3fnuz",
        32: "float8_e5m2fnuz",
        33: "float8_e8m0fnu",
        34: "uint32",
        35: "uint64",
    }.items()
}
"""Numbers of torch.export's schema, major version 8."""


def require_readable(element: Element, tensor: str, label: str) -> ReadableElement:
    """The element as a readable one; refuses, by name, a tensor whose element type the IR cannot hold without loss."""
    if isinstance(element, ReadableElement):
        return element
    raise CompileError(
        "unsupported-dtype",
        f"tensor {quoted(tensor)} has element type {element.name}",
        file=label,
        fix="convert it to float32, float16, bfloat16 or an integer type and save again",
    )
