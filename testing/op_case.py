"""An operation with operands that it accepts, and the register of the strategies that draw such cases."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter

from cgptc.ir.dtypes import DType, f64
from cgptc.ir.op import Array, Op
from cgptc.ir.types import TensorType

Draw: TypeAlias = st.DrawFn


@dataclass(frozen=True)
class Operand:
    """One operand of a case, and which elements it may have.

    ``elements``: "normal" (floats of both signs, integers from -4 to 4, bools), "positive" (from 0.1, or 1, up), "nonzero", or "index"
    (integers from ``-limit`` to ``limit - 1``; from 0 with ``signed`` off), "hiding" (floats, a third of them -inf).
    """

    type: TensorType
    elements: str = "normal"
    limit: int = 0
    signed: bool = True

    def array(self, random: np.random.Generator) -> Array:
        """Elements drawn from ``random``."""
        shape, dtype = self.type.static_shape, self.type.dtype
        if self.elements == "index":
            return random.integers(-self.limit if self.signed else 0, max(self.limit, 1), shape).astype(dtype.numpy)
        if dtype.kind == "bool":
            return random.integers(0, 2, shape).astype(np.bool_)
        if dtype.is_float:
            floats = random.normal(size=shape)
            if self.elements == "positive":
                floats = np.abs(floats) + 0.1
            elif self.elements == "hiding":
                floats = np.where(random.integers(0, 3, shape) == 0, -np.inf, floats)
            return np.asarray(floats).astype(dtype.numpy)
        low = 1 if self.elements == "positive" else 0 if dtype.kind == "uint" else -4
        integers = random.integers(low, 5, shape)
        if self.elements == "nonzero":
            integers = np.where(integers == 0, 3, integers)
        return integers.astype(dtype.numpy)


@dataclass(frozen=True)
class OpCase:
    """An operation and operands that it accepts; None stands for an optional operand that is absent."""

    op: Op
    operands: tuple[Operand | None, ...]

    def __repr__(self) -> str:
        operands = (f"{operand.type}" if operand is not None else "_" for operand in self.operands)
        return f"{self.op}({', '.join(operands)})"

    def _repr_pretty_(self, printer: RepresentationPrinter, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis would show class variables as if they were attributes

    @property
    def types(self) -> tuple[TensorType | None, ...]:
        return tuple(operand.type if operand is not None else None for operand in self.operands)

    def arrays(self, seed: int) -> tuple[Array | None, ...]:
        """Operands with elements drawn from ``seed``."""
        random = np.random.default_rng(seed)
        return tuple(operand.array(random) if operand is not None else None for operand in self.operands)

    @property
    def widened(self) -> OpCase:
        """The case in float64: every floating-point dtype is f64."""
        operands = tuple(_widened(operand) if operand is not None else None for operand in self.operands)
        return OpCase(self.op.widened(), operands)


CASES: dict[type[Op], Callable[[], st.SearchStrategy[OpCase]]] = {}
"""For every operation that can be evaluated, the strategy that draws cases of it."""


def draws(*ops: type[Op]) -> Callable[[Callable[[Draw, type[Op]], OpCase]], Callable[[Draw, type[Op]], OpCase]]:
    """Register a function of (draw, op class) as the strategy of some operations."""

    def register(function: Callable[[Draw, type[Op]], OpCase]) -> Callable[[Draw, type[Op]], OpCase]:
        strategy = st.composite(function)
        for op in ops:
            CASES[op] = _bound(strategy, op)
        return function

    return register


def _bound(strategy: Callable[[type[Op]], st.SearchStrategy[OpCase]], op: type[Op]) -> Callable[[], st.SearchStrategy[OpCase]]:
    return lambda: strategy(op)


def _widened(operand: Operand) -> Operand:
    if not operand.type.dtype.is_float:
        return operand
    return dataclasses.replace(operand, type=operand.type.with_dtype(f64))


def operand(dtype: DType, *shape: int, elements: str = "normal", limit: int = 0, signed: bool = True) -> Operand:
    """An `Operand` of a dtype and a shape."""
    return Operand(TensorType(dtype, shape), elements, limit, signed)
