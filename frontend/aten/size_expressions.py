"""Size expressions as sympy prints them (``Min(16, s27)``, ``2*s0 + 1``, ``s0//2``) read as dimensions. Nothing is evaluated."""

from __future__ import annotations

import ast
from collections.abc import Mapping

from cgptc.ir.dims import Dim, floordiv, maximum, minimum, mod

LONGEST = 2000
"""Characters of an expression; a longer one is refused rather than parsed recursively."""


class SizeExpressionError(ValueError):
    """The text is not an integer expression over known symbols."""


def parse_size(text: str, symbols: Mapping[str, Dim]) -> Dim:
    """The dimension that ``text`` stands for. Raises `SizeExpressionError`."""
    if len(text) > LONGEST:
        raise SizeExpressionError(f"size expression of {len(text)} characters")
    try:
        return _dim(ast.parse(text.strip(), mode="eval").body, symbols)
    except SyntaxError as error:
        raise SizeExpressionError(f"'{text}' is not a size expression") from error


def _dim(tree: ast.expr, symbols: Mapping[str, Dim]) -> Dim:
    match tree:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            if name not in symbols:
                raise SizeExpressionError(f"unknown size '{name}'")
            return symbols[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return 0 - _dim(operand, symbols)
        case ast.BinOp(left=left, op=op, right=right):
            return _binary(op, _dim(left, symbols), _dim(right, symbols))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _call(name, [_dim(argument, symbols) for argument in arguments])
    raise SizeExpressionError(f"'{ast.unparse(tree)}' is not a size expression")


def _binary(op: ast.operator, left: Dim, right: Dim) -> Dim:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case ast.FloorDiv():
            return floordiv(left, right)
        case ast.Mod():
            return mod(left, right)
        case ast.Pow() if isinstance(right, int) and 0 <= right <= 8:
            result: Dim = 1
            for _ in range(right):
                result = left * result
            return result
    raise SizeExpressionError(f"'{type(op).__name__}' of sizes")


def _call(name: str, arguments: list[Dim]) -> Dim:
    match name, arguments:
        case "Min", [first, *rest]:
            for other in rest:
                first = minimum(first, other)
            return first
        case "Max", [first, *rest]:
            for other in rest:
                first = maximum(first, other)
            return first
        case (("FloorDiv" | "CleanDiv"), [left, right]):
            return floordiv(left, right)
        case (("Mod" | "PythonMod"), [left, right]):
            return mod(left, right)
    raise SizeExpressionError(f"'{name}' of sizes")
