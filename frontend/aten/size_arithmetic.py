"""Arithmetic on sizes: Python operators that torch.export records between ``sym_size`` and the shapes that use it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.table import Number, UnsupportedError
from cgptc.ir.dims import Dim, Expr, floordiv, maximum, minimum, mod
from cgptc.ir.graph import Value


def _integers(*numbers: Number) -> bool:
    return all(isinstance(number, (int, Expr)) and not isinstance(number, bool) for number in numbers)


def _binary(on_sizes: Callable[[Any, Any], Dim], on_floats: Callable[[Any, Any], Any]) -> Callable[..., Number]:
    def apply(emit: Emit, left: Number, right: Number) -> Number:
        if _integers(left, right):
            return on_sizes(left, right)
        if isinstance(left, Expr) or isinstance(right, Expr):
            raise UnsupportedError("computes a fraction of a symbolic size")
        number: Number = on_floats(left, right)
        return number

    return apply


def _true_division(emit: Emit, left: Number, right: Number) -> Number:
    if isinstance(left, Expr) or isinstance(right, Expr):
        raise UnsupportedError("divides a symbolic size into a fraction")
    return left / right


def _power(emit: Emit, left: Number, right: Number) -> Number:
    if isinstance(left, Expr) and isinstance(right, int) and 0 <= right <= 8:
        result: Dim = 1
        for _ in range(right):
            result = left * result
        return result
    if isinstance(left, Expr) or isinstance(right, Expr):
        raise UnsupportedError("raises a symbolic size to a power")
    return left**right


def _to_float(emit: Emit, number: Number) -> Number:
    if isinstance(number, Expr):
        return number  # promoted where it meets a tensor
    return float(number)


def _square_root(emit: Emit, number: Number) -> Number:
    if isinstance(number, Expr):
        raise UnsupportedError("takes the square root of a symbolic size")
    return math.sqrt(number)


def _negative(emit: Emit, number: Number) -> Number:
    return 0 - number if isinstance(number, Expr) else -number


def _check(emit: Emit, *values: Any) -> None:
    """A condition on sizes, which only assertions use: the symbols' bounds, taken from the exporter, hold them already."""


def _of_sizes(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(emit: Emit, *numbers: Any) -> Any:
        if any(isinstance(number, Value) for number in numbers):
            raise UnsupportedError("computes a size from data")
        return function(emit, *numbers)

    return apply


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "sym.add": _binary(lambda a, b: a + b, lambda a, b: a + b),
    "sym.sub": _binary(lambda a, b: a - b, lambda a, b: a - b),
    "sym.mul": _binary(lambda a, b: a * b, lambda a, b: a * b),
    "sym.floordiv": _binary(floordiv, lambda a, b: a // b),
    "sym.mod": _binary(mod, lambda a, b: a % b),
    "sym.truediv": _true_division,
    "sym.pow": _power,
    "sym.neg": _negative,
    "sym.min": _binary(minimum, min),
    "sym.max": _binary(maximum, max),
    "sym.float": _to_float,
    "sym.int": lambda emit, number: number if isinstance(number, Expr) else int(number),
    "sym.sqrt": _square_root,
}

SIZE_OPS: dict[str, Callable[..., Any]] = {
    **{name: _of_sizes(function) for name, function in _ARITHMETIC.items()},
    **{f"sym.{name}": _check for name in ("ge", "gt", "le", "lt", "eq", "ne", "and", "or", "not", "check")},
}
"""By target: what it gives for sizes and Python numbers."""
