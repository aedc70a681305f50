"""Changes of element type; changes of device, layout and memory format are none."""

from __future__ import annotations

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.exported import Unknown
from cgptc.frontend.aten.table import aten
from cgptc.ir.dtypes import DType, boolean, f32, f64, i32, i64
from cgptc.ir.graph import Value


@aten("to.dtype", "to.dtype_layout", "to.device", passes_through=True)
def to(emit: Emit, self: Value, dtype: DType | Unknown | None = None) -> Value:
    return emit.cast(self, emit.dtype(dtype, self.type.dtype))


@aten("_to_copy")
def to_copy(emit: Emit, self: Value, dtype: DType | Unknown | None = None) -> Value:
    return emit.cast(self, emit.dtype(dtype, self.type.dtype))


@aten("to.other", "type_as", passes_through=True)
def to_other(emit: Emit, self: Value, other: Value) -> Value:
    return emit.cast(self, other.type.dtype)


@aten("float", passes_through=True)
def to_float(emit: Emit, self: Value) -> Value:
    return emit.cast(self, f32)


@aten("double", passes_through=True)
def to_double(emit: Emit, self: Value) -> Value:
    return emit.cast(self, f64)


@aten("long", passes_through=True)
def to_long(emit: Emit, self: Value) -> Value:
    return emit.cast(self, i64)


@aten("int", passes_through=True)
def to_int(emit: Emit, self: Value) -> Value:
    return emit.cast(self, i32)


@aten("bool", passes_through=True)
def to_bool(emit: Emit, self: Value) -> Value:
    return emit.cast(self, boolean)
