"""Small integer expressions: the only arithmetic that a program may do on its run-time scalars and coordinates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from cgptc.backends.wafer.faults import ProgramError


@dataclass(frozen=True)
class Affine:
    """``(((constant + Σ coefficient · variable) // divisor) % modulus) · scale``, without the modulus where it is 0.

    Variables are the program's scalars (``length``, ``position``), loop counters, and in masks the PE's ``row`` and ``column`` within
    its region and the element indices ``i0``, ``i1``, …. Terms are sorted by name, without zero coefficients.
    """

    constant: int = 0
    terms: tuple[tuple[str, int], ...] = ()
    divisor: int = 1
    modulus: int = 0
    scale: int = 1

    def __post_init__(self) -> None:
        if self.divisor < 1 or self.modulus < 0:
            raise ProgramError("affine", f"divisor must be at least 1 and modulus at least 0, got {self.divisor} and {self.modulus}")
        names = [name for name, _ in self.terms]
        if names != sorted(set(names)) or any(coefficient == 0 for _, coefficient in self.terms):
            raise ProgramError("affine", f"terms must be sorted, each once and not zero, got {self.terms}")

    @property
    def variables(self) -> frozenset[str]:
        return frozenset(name for name, _ in self.terms)

    def value(self, environment: Mapping[str, Any]) -> Any:
        """The value where every variable has one: integers give an integer, integer arrays broadcast."""
        total: Any = self.constant
        for name, coefficient in self.terms:
            total = total + environment[name] * coefficient
        if self.divisor != 1:
            total = total // self.divisor
        if self.modulus:
            total = total % self.modulus
        return total * self.scale if self.scale != 1 else total

    def __add__(self, other: Affine | int) -> Affine:
        self._require_linear()
        if isinstance(other, int):
            return Affine(self.constant + other, self.terms)
        other._require_linear()
        terms = dict(self.terms)
        for name, coefficient in other.terms:
            terms[name] = terms.get(name, 0) + coefficient
        return Affine(self.constant + other.constant, _sorted(terms))

    __radd__ = __add__

    def __neg__(self) -> Affine:
        return self * -1

    def __sub__(self, other: Affine | int) -> Affine:
        return self + -other

    def __rsub__(self, other: int) -> Affine:
        return -self + other

    def __mul__(self, factor: int) -> Affine:
        if self.divisor != 1 or self.modulus or self.scale != 1:
            return replace(self, scale=self.scale * factor)
        return Affine(self.constant * factor, _sorted({name: coefficient * factor for name, coefficient in self.terms}))

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> Affine:
        if self.modulus or self.scale != 1:
            raise ProgramError("affine", "a remainder or multiple cannot be divided")
        return Affine(self.constant, self.terms, self.divisor * divisor)

    def __mod__(self, modulus: int) -> Affine:
        if self.modulus or self.scale != 1:
            raise ProgramError("affine", "a remainder or multiple has no further remainder")
        return Affine(self.constant, self.terms, self.divisor, modulus)

    def ceil_div(self, divisor: int) -> Affine:
        """The quotient rounded up."""
        return (self + (divisor - 1)) // divisor

    def _require_linear(self) -> None:
        if self.divisor != 1 or self.modulus or self.scale != 1:
            raise ProgramError("affine", "a quotient or remainder is no term of a sum")

    def __str__(self) -> str:
        parts = [f"{coefficient}·{name}" if coefficient != 1 else name for name, coefficient in self.terms]
        text = " + ".join([*parts, str(self.constant)] if self.constant or not parts else parts)
        if self.divisor != 1:
            text = f"({text}) // {self.divisor}"
        if self.modulus:
            text = f"({text}) % {self.modulus}"
        return f"({text}) · {self.scale}" if self.scale != 1 else text


Extent: TypeAlias = "Affine | int"
"""A size, offset, count or coordinate of a step."""


def var(name: str) -> Affine:
    """The expression that is one variable."""
    return Affine(0, ((name, 1),))


def value_of(extent: Extent, environment: Mapping[str, int]) -> int:
    """The integer that an extent is under these variables."""
    return extent if isinstance(extent, int) else int(extent.value(environment))


def variables_of(extent: Extent) -> frozenset[str]:
    return frozenset() if isinstance(extent, int) else extent.variables


def _sorted(terms: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((name, coefficient) for name, coefficient in terms.items() if coefficient))
