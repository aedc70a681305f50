"""Dimensions: integers, or integer expressions over named, bounded symbols.

An expression is kept in one canonical form, a polynomial with integer coefficients whose atoms are symbols and opaque
``floordiv``, ``mod``, ``max`` and ``min`` terms, so that equal polynomials are equal values. Anything that folds to a constant is
a plain ``int``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_RESERVED = {"none", "true", "false", "nan", "inf"}


@dataclass(frozen=True, order=True)
class Symbol:
    """A named size with inclusive bounds, such as ``batch: 1..8``."""

    name: str
    low: int
    high: int

    def __post_init__(self) -> None:
        if not _NAME.match(self.name) or self.name in _RESERVED:
            raise ValueError(f"'{self.name}' is not a name for a symbol: letters, digits and '_', and not a word of the text form")
        if self.low > self.high:
            raise ValueError(f"the bounds of '{self.name}' are out of order: {self.low}..{self.high}")

    def __str__(self) -> str:
        return self.name

    @property
    def dim(self) -> Expr:
        """The symbol as a dimension."""
        return Expr((((self,), 1),))


@dataclass(frozen=True)
class Opaque:
    """An atom that polynomials do not look into: ``floordiv``, ``mod``, ``max`` or ``min`` of two dimensions."""

    function: str
    left: Dim
    right: Dim

    def __str__(self) -> str:
        return f"{self.function}({self.left}, {self.right})"


Atom: TypeAlias = Symbol | Opaque
Monomial: TypeAlias = tuple[Atom, ...]


@dataclass(frozen=True)
class Expr:
    """A polynomial that is not a constant. Build it with operators on symbols' ``dim``, not by hand.

    ``terms`` are (monomial, coefficient) in canonical order; the constant's monomial is ``()``.
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        text = ""
        for monomial, coefficient in self.terms:
            factors = [str(atom) for atom in monomial]
            if abs(coefficient) != 1 or not factors:
                factors.insert(0, str(abs(coefficient)))
            term = "*".join(factors)
            if text:
                text += f" - {term}" if coefficient < 0 else f" + {term}"
            else:
                text = f"-{term}" if coefficient < 0 else term
        return text

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __hash__(self) -> int:
        return self._hash

    def __add__(self, other: Dim) -> Dim:
        return weighted_sum([self, other], [1, 1])

    __radd__ = __add__

    def __sub__(self, other: Dim) -> Dim:
        return weighted_sum([self, other], [1, -1])

    def __rsub__(self, other: Dim) -> Dim:
        return weighted_sum([other, self], [1, -1])

    def __neg__(self) -> Dim:
        return weighted_sum([self], [-1])

    def __mul__(self, other: Dim) -> Dim:
        terms: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in _terms(other):
                monomial = tuple(sorted(left + right, key=_order))
                terms[monomial] = terms.get(monomial, 0) + a * b
        return _canonical(terms)

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)


Dim: TypeAlias = int | Expr
Shape: TypeAlias = tuple[Dim, ...]


def _order(atom: Atom) -> tuple[str, str]:
    return (str(atom), type(atom).__name__)


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    return dim.terms if isinstance(dim, Expr) else (((), dim),)


def _canonical(terms: Mapping[Monomial, int]) -> Dim:
    kept = [(monomial, coefficient) for monomial, coefficient in terms.items() if coefficient]
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    # Constants last and higher degrees first; names decide the rest.
    kept.sort(key=lambda term: (-len(term[0]), [_order(atom) for atom in term[0]]))
    return Expr(tuple(kept))


def weighted_sum(dims: Iterable[Dim], weights: Iterable[int]) -> Dim:
    """The sum of ``dims[i] * weights[i]``."""
    terms: dict[Monomial, int] = {}
    for dim, weight in zip(dims, weights, strict=True):
        for monomial, coefficient in _terms(dim):
            terms[monomial] = terms.get(monomial, 0) + weight * coefficient
    return _canonical(terms)


def _opaque(function: str, left: Dim, right: Dim) -> Dim:
    return Expr((((Opaque(function, left, right),), 1),))


def _exact_quotient(dim: Dim, divisor: Dim) -> Dim | None:
    """``dim / divisor`` where the division is exact term by term, else None."""
    divisors = _terms(divisor)
    if len(divisors) != 1:
        return 1 if dim == divisor else None
    atoms, coefficient = divisors[0]
    if coefficient == 0:
        return None
    quotient: dict[Monomial, int] = {}
    for monomial, value in _terms(dim):
        rest = list(monomial)
        for atom in atoms:
            if atom not in rest:
                return None
            rest.remove(atom)
        if value % coefficient:
            return None
        quotient[tuple(rest)] = value // coefficient
    return _canonical(quotient)


def floordiv(left: Dim, right: Dim) -> Dim:
    """``left // right``, rounded down; ``right`` is positive."""
    if isinstance(left, int) and isinstance(right, int):
        return left // right
    if left == 0:
        return 0
    exact = _exact_quotient(left, right)
    if exact is not None:
        return exact
    if isinstance(right, int) and right > 0:
        # (right*a + b) // right == a + b // right, which also bounds the opaque remainder.
        whole: dict[Monomial, int] = {}
        rest: dict[Monomial, int] = {}
        for monomial, coefficient in _terms(left):
            whole[monomial], rest[monomial] = divmod(coefficient, right)
        remainder = _canonical(rest)
        low, high = bounds(remainder)
        if low // right == high // right:
            return _canonical(whole) + low // right
        return _canonical(whole) + _opaque("floordiv", remainder, right)
    return _opaque("floordiv", left, right)


def mod(left: Dim, right: Dim) -> Dim:
    """``left % right``; ``right`` is positive."""
    if isinstance(left, int) and isinstance(right, int):
        return left % right
    if left == 0 or _exact_quotient(left, right) is not None:
        return 0
    if isinstance(right, int):
        low, high = bounds(left)
        if low >= 0 and high < right:
            return left
    return _opaque("mod", left, right)


def _plainness(dim: Dim) -> tuple[bool, str]:
    """Integers first, then by text."""
    return isinstance(dim, Expr), str(dim)


def maximum(left: Dim, right: Dim) -> Dim:
    """The larger of two dimensions; of two that are always equal the plainer one, whichever way round they come."""
    left, right = sorted((left, right), key=_plainness)
    low, high = bounds(left - right)
    if low >= 0:
        return left
    if high <= 0:
        return right
    return _opaque("max", left, right)


def minimum(left: Dim, right: Dim) -> Dim:
    """The smaller of two dimensions; of two that are always equal the plainer one, whichever way round they come."""
    left, right = sorted((left, right), key=_plainness)
    low, high = bounds(left - right)
    if high <= 0:
        return left
    if low >= 0:
        return right
    return _opaque("min", left, right)


FUNCTIONS: dict[str, Callable[[Dim, Dim], Dim]] = {"floordiv": floordiv, "mod": mod, "max": maximum, "min": minimum}
"""The functions of two dimensions, by their names in the text form."""


def apply(function: str, left: Dim, right: Dim) -> Dim:
    """``floordiv``, ``mod``, ``max`` or ``min`` by name; KeyError for any other."""
    return FUNCTIONS[function](left, right)


def _atom_bounds(atom: Atom) -> tuple[int, int]:
    if isinstance(atom, Symbol):
        return atom.low, atom.high
    (left_low, left_high), (right_low, right_high) = bounds(atom.left), bounds(atom.right)
    match atom.function:
        case "max":
            return max(left_low, right_low), max(left_high, right_high)
        case "min":
            return min(left_low, right_low), min(left_high, right_high)
        case "floordiv":
            corners = [a // b for a in (left_low, left_high) for b in (max(right_low, 1), max(right_high, 1))]
            return min(corners), max(corners)
        case _:
            return 0, max(right_high - 1, 0)


def bounds(dim: Dim) -> tuple[int, int]:
    """Inclusive bounds by interval arithmetic: sound, and exact where every atom occurs once."""
    if isinstance(dim, int):
        return dim, dim
    low = high = 0
    for monomial, coefficient in dim.terms:
        least = most = 1
        for atom in monomial:
            atom_low, atom_high = _atom_bounds(atom)
            corners = [a * b for a in (least, most) for b in (atom_low, atom_high)]
            least, most = min(corners), max(corners)
        low += min(coefficient * least, coefficient * most)
        high += max(coefficient * least, coefficient * most)
    return low, high


def symbols(dims: Iterable[Dim]) -> dict[str, Symbol]:
    """Every symbol that occurs, by name, in order of first occurrence."""
    found: dict[str, Symbol] = {}
    pending = [dim for dim in dims if isinstance(dim, Expr)]
    for dim in pending:
        for monomial, _ in dim.terms:
            for atom in monomial:
                if isinstance(atom, Symbol):
                    found.setdefault(atom.name, atom)
                else:
                    pending += [part for part in (atom.left, atom.right) if isinstance(part, Expr)]
    return found


def substitute(dim: Dim, values: Mapping[str, Dim]) -> Dim:
    """``dim`` with symbols replaced by name; symbols without a value stay."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        product: Dim = coefficient
        for atom in monomial:
            if isinstance(atom, Symbol):
                factor = values.get(atom.name, atom.dim)
            else:
                factor = apply(atom.function, substitute(atom.left, values), substitute(atom.right, values))
            product = factor * product if isinstance(factor, Expr) else product * factor
        total = total + product
    return total


def evaluate(dim: Dim, values: Mapping[str, int]) -> int:
    """The size that ``dim`` has for given sizes of its symbols; KeyError names a symbol without one."""
    result = substitute(dim, values)
    if isinstance(result, Expr):
        raise KeyError(next(iter(symbols([result]))))
    return result


def product(dims: Iterable[Dim]) -> Dim:
    """The product of all dimensions, 1 for none."""
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def solve(dim: Dim, size: int, values: Mapping[str, int]) -> dict[str, int] | None:
    """The value of the one unknown symbol of ``dim`` that makes it ``size``.

    Gives {} where all symbols are known and ``dim`` is ``size``, None where no value fits or the unknown is not linear and alone.
    """
    rest = substitute(dim, values) - size
    if isinstance(rest, int):
        return {} if rest == 0 else None
    unknown = [(monomial, coefficient) for monomial, coefficient in rest.terms if monomial]
    if len(unknown) != 1 or len(unknown[0][0]) != 1 or not isinstance(unknown[0][0][0], Symbol):
        return None
    ((symbol,), coefficient) = unknown[0]
    constant = sum(value for monomial, value in rest.terms if not monomial)
    if constant % coefficient:
        return None
    assert isinstance(symbol, Symbol)
    return {symbol.name: -constant // coefficient}
