"""What operations demand of their operands: each check says what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.ir.diagnostics import OpTypeError, require
from cgptc.ir.dims import Dim, Shape
from cgptc.ir.dtypes import DType
from cgptc.ir.types import TensorType

FLOAT = frozenset({"float"})
NUMBER = frozenset({"float", "int", "uint"})
SIGNED = frozenset({"float", "int"})
INTEGER = frozenset({"int", "uint"})
BOOL = frozenset({"bool"})
BITS = BOOL | INTEGER
ANY = NUMBER | BOOL

_WORDS = {
    FLOAT: "floating-point",
    NUMBER: "floating-point or integer",
    SIGNED: "floating-point or signed integer",
    INTEGER: "integer",
    BOOL: "bool",
    BITS: "bool or integer",
    ANY: "floating-point, integer or bool",
}


def show(shape: Shape) -> str:
    """A shape as the text form has it."""
    return f"[{', '.join(map(str, shape))}]"


def require_kind(name: str, type: TensorType, kinds: frozenset[str]) -> None:
    """Raise `OpTypeError` unless the element type is of one of ``kinds``; 4-bit integers are for storage, cast before any arithmetic."""
    if type.dtype.kind not in kinds or type.dtype.bits < 8:
        raise OpTypeError(f"'{name}' must have {_WORDS[kinds]} elements of at least 8 bits, got {type}")


def require_dtype(name: str, type: TensorType, dtype: DType) -> None:
    """Raise `OpTypeError` unless the element type is ``dtype``."""
    require(type.dtype == dtype, f"'{name}' must have elements of type {dtype}, got {type}")


def require_shape(name: str, type: TensorType, shape: Shape) -> None:
    """Raise `OpTypeError` unless the shape is ``shape``, dimension by dimension."""
    require(type.shape == shape, f"'{name}' must have shape {show(shape)}, got {type}")


def require_rank(name: str, type: TensorType, least: int, most: int | None = None) -> None:
    """Raise `OpTypeError` unless the rank is within ``least`` and ``most`` (``least`` where None; -1 for no bound)."""
    most = least if most is None else most
    fits = type.rank >= least and (most < 0 or type.rank <= most)
    wanted = f"at least {least}" if most < 0 else str(least) if most == least else f"{least} to {most}"
    require(fits, f"'{name}' must have rank {wanted}, got {type}")


def require_axis(axis: int, type: TensorType, attribute: str = "axis") -> None:
    """Raise `OpTypeError` unless ``axis`` is a non-negative axis of ``type``."""
    require(0 <= axis < type.rank, f"'{attribute}' must be within 0 and {type.rank - 1} for {type}, got {axis}")


def require_axes(axes: Sequence[int], type: TensorType, attribute: str = "axes") -> None:
    """Raise `OpTypeError` unless ``axes`` are non-negative, ascending axes of ``type``."""
    fits = all(0 <= axis < type.rank for axis in axes) and list(axes) == sorted(set(axes))
    require(fits, f"'{attribute}' must be ascending axes within 0 and {type.rank - 1} for {type}, got {tuple(axes)}")


def require_choice(attribute: str, value: str, choices: Sequence[str]) -> None:
    """Raise `OpTypeError` unless an attribute has one of its values."""
    require(value in choices, f"'{attribute}' must be one of {', '.join(choices)}, got '{value}'")


def require_size(what: str, size: Dim, expected: Dim) -> None:
    """Raise `OpTypeError` unless two dimensions are equal as expressions."""
    require(size == expected, f"{what} must be {expected}, got {size}")
