"""Computing symbolic dimensions inside the model, each once, from the shapes of its inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

import onnx_ir

from cgptc.backends.onnx.interface_names import PAST_PREFIX
from cgptc.backends.onnx.kernels import UnlowerableError
from cgptc.ir.dims import Dim, Expr, Opaque, Shape, Symbol, bounds, symbols
from cgptc.ir.graph import Value

if TYPE_CHECKING:
    from cgptc.backends.onnx.emit import Emit, OnnxValue

    Inputs: TypeAlias = list[tuple[Value, OnnxValue]]


class ShapeComputer:
    """Gives dimensions as i64 vectors of one element.

    A symbol is read from the first input that has it as a dimension of its own, else from the first whose dimension is linear in it
    (``past`` from ``past + seq`` of the mask). Past tensors come last: a shared buffer is longer than what it holds.
    """

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._inputs: Inputs = []
        self._past_inputs: Inputs = []
        self._given: dict[Dim, OnnxValue] = {}

    def give(self, symbol: Symbol, size: OnnxValue) -> None:
        """A symbol that no input's shape tells, as i64[1]."""
        self._given[symbol.dim] = size

    def set_inputs(self, inputs: Sequence[tuple[Value, OnnxValue]]) -> None:
        """The model's inputs, before anything is asked for."""
        self._inputs = [pair for pair in inputs if not pair[0].name.startswith(PAST_PREFIX)]
        self._past_inputs = [pair for pair in inputs if pair[0].name.startswith(PAST_PREFIX)]

    def size(self, dim: Dim) -> OnnxValue:
        """A dimension as i64[1]."""
        if isinstance(dim, int):
            return self._emit.ints([dim])
        return self._emit.once(("size", dim), lambda: self._compute(dim))

    def scalar(self, dim: Dim) -> OnnxValue:
        """A dimension as i64[]."""
        size = self.size(dim)
        return self._emit.Reshape(size, self._emit.ints([])) if isinstance(dim, Expr) else self._emit.scalar(dim, size)

    def vector(self, dims: Shape) -> OnnxValue:
        """Dimensions as i64[rank]; neighbouring constants share one part."""
        parts: list[OnnxValue] = []
        constant: list[int] = []
        for dim in dims:
            if isinstance(dim, int):
                constant.append(dim)
                continue
            if constant:
                parts.append(self._emit.ints(constant))
                constant = []
            parts.append(self.size(dim))
        if constant or not parts:
            parts.append(self._emit.ints(constant))
        return parts[0] if len(parts) == 1 else self._emit.Concat(*parts, axis=0)

    def _compute(self, dim: Expr) -> OnnxValue:
        if dim in self._given:
            return self._given[dim]
        for inputs in (self._inputs, self._past_inputs):
            if (found := self._whole_dimension(dim, inputs)) is not None:
                return found
            if (symbol := _lone_symbol(dim)) is not None and (found := self._solved(symbol, inputs)) is not None:
                return found
        if len(dim.terms) == 1 and dim.terms[0][1] == 1 and len(dim.terms[0][0]) == 1:
            (atom,) = dim.terms[0][0]
            if isinstance(atom, Symbol):
                raise UnlowerableError(f"no input's shape tells the size of '{atom}'")
            return self._opaque(atom)
        total: OnnxValue | None = None
        for monomial, coefficient in dim.terms:
            term: OnnxValue | None = None
            for atom in monomial:
                factor = self.size(Expr((((atom,), 1),)))
                term = factor if term is None else self._emit.Mul(term, factor)
            if term is None:
                term = self._emit.ints([abs(coefficient)])
            elif abs(coefficient) != 1:
                term = self._emit.Mul(term, self._emit.ints([abs(coefficient)]))
            if total is None:
                total = term if coefficient > 0 else self._emit.Neg(term)
            else:
                total = self._emit.Add(total, term) if coefficient > 0 else self._emit.Sub(total, term)
        assert total is not None
        return total

    def _whole_dimension(self, dim: Expr, inputs: Inputs) -> OnnxValue | None:
        for value, onnx_value in inputs:
            for axis, size in enumerate(value.type.shape):
                if size == dim:
                    return self._axis_size(onnx_value, axis)
        return None

    def _solved(self, symbol: Symbol, inputs: Inputs) -> OnnxValue | None:
        """A symbol from a dimension ``coefficient * symbol + rest`` whose rest is known."""
        for value, onnx_value in inputs:
            for axis, size in enumerate(value.type.shape):
                if not isinstance(size, Expr):
                    continue
                linear = [(coefficient, monomial) for monomial, coefficient in size.terms if symbol in monomial]
                if len(linear) != 1 or linear[0][1] != (symbol,) or linear[0][0] < 1:
                    continue
                coefficient = linear[0][0]
                rest = size - coefficient * symbol.dim
                if not self._is_plain(rest):
                    continue
                found = self._emit.Sub(self._axis_size(onnx_value, axis), self.size(rest))
                return found if coefficient == 1 else self._emit.Div(found, self._emit.ints([coefficient]))
        return None

    def _is_plain(self, dim: Dim) -> bool:
        """Whether each of its symbols is some input's dimension alone, so that solving for another cannot run in a circle."""
        alone = {size for value, _ in (*self._inputs, *self._past_inputs) for size in value.type.shape}
        return all(symbol.dim in alone for symbol in symbols([dim]).values())

    def _axis_size(self, value: OnnxValue, axis: int) -> OnnxValue:
        return self._emit.Shape(value, start=axis, end=axis + 1)

    def _opaque(self, atom: Opaque) -> OnnxValue:
        left, right = self.size(atom.left), self.size(atom.right)
        match atom.function:
            case "max":
                return self._emit.Max(left, right)
            case "min":
                return self._emit.Min(left, right)
            case "mod":
                return self._emit.Mod(left, right)
            case _:
                if bounds(atom.left)[0] < 0:  # Div rounds towards zero
                    left = self._emit.Sub(left, self._emit.Mod(left, right))
                return self._emit.Div(left, right)


def dim_text(dim: Dim) -> int | str:
    """A dimension as ONNX shapes name it."""
    return dim if isinstance(dim, int) else str(dim)


def onnx_shape(shape: Shape) -> onnx_ir.Shape:
    """A shape with symbols by name and expressions as their text."""
    return onnx_ir.Shape([dim_text(dim) for dim in shape])


def _lone_symbol(dim: Expr) -> Symbol | None:
    if len(dim.terms) != 1 or dim.terms[0][1] != 1 or len(dim.terms[0][0]) != 1:
        return None
    (atom,) = dim.terms[0][0]
    return atom if isinstance(atom, Symbol) else None
