"""The table from ATen op to importer function.

An importer function takes an `Emit` and the op's arguments by their schema's names, tensors as IR values, and gives what the op
returns. Arguments that do not change the result (device, layout, memory format) never reach it. In-place and ``out`` variants need no
entry: they are the functional op followed by a write (`cgptc.frontend.aten.memory`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from cgptc.ir.dims import Dim
from cgptc.ir.graph import Value

Number: TypeAlias = bool | int | float | Dim
Operand: TypeAlias = Value | Number
Imported: TypeAlias = Any
"""What an importer function gives: a value, a number, a dimension, or a tuple of these."""

Importer = TypeVar("Importer", bound=Callable[..., Any])

INERT = frozenset(
    {
        "check_stride",
        "copy",
        "device",
        "generator",
        "implicit",
        "layout",
        "memory_format",
        "non_blocking",
        "pin_memory",
        "requires_grad",
        "sparse",
        "sparse_grad",
    }
)
"""Schema arguments that never change the numbers."""


class UnsupportedError(Exception):
    """The op is in the table, but not with these arguments. The message completes 'op …'."""


class RefusedError(UnsupportedError):
    """The op is not wanted in a captured model, however PyTorch would spell it: it draws numbers, or learns."""


@dataclass(frozen=True)
class Entry:
    """An op's importer function. ``write`` makes it a view: ``write(emit, base, new, **arguments)`` is the base after writing to it."""

    function: Callable[..., Imported]
    write: Callable[..., Value] | None = None
    may_alias: bool = False  # a view for some strides and a copy for others, such as reshape
    passes_through: bool = False  # gives the operand itself where there is nothing to change, such as a cast to the same type


TABLE: dict[str, Entry] = {}
"""Entries by target, such as ``aten.add.Tensor``."""


def aten(
    *names: str, write: Callable[..., Value] | None = None, may_alias: bool = False, passes_through: bool = False
) -> Callable[[Importer], Importer]:
    """Register an importer function for ops named as ``add.Tensor``; a bare name stands for its ``default`` overload, and
    ``cgptc::`` before it for another namespace than ATen."""

    def register(function: Importer) -> Importer:
        for name in names:
            namespace, _, op = name.rpartition("::")
            target = f"{namespace or 'aten'}.{op}" if "." in op else f"{namespace or 'aten'}.{op}.default"
            if target in TABLE:
                raise TypeError(f"'{target}' is already in the table")
            TABLE[target] = Entry(function, write, may_alias, passes_through)
        return function

    return register


def lookup(target: str) -> Entry | None:
    """The entry of a target, None where there is none."""
    return TABLE.get(target)
