"""Predicates over the positions of a tensor's elements: the algebra in which masks are understood."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cgptc.ir.dims import Dim, bounds
from cgptc.ir.graph import Value

MASKED = -1e4
"""A score lowered by at least this much counts as masked: its exponential is 0 in every dtype beside an unmasked score."""


@dataclass(frozen=True)
class Affine:
    """``sum(coefficient * index of axis) + constant`` over the axes of the value described."""

    coefficients: tuple[tuple[int, int], ...]
    constant: Dim

    def combine(self, other: Affine, sign: int) -> Affine:
        total = dict(self.coefficients)
        for axis, coefficient in other.coefficients:
            total[axis] = total.get(axis, 0) + sign * coefficient
        return Affine(sorted_coefficients(total), self.constant + sign * other.constant)

    def scaled(self, factor: int) -> Affine:
        return Affine(sorted_coefficients({axis: factor * c for axis, c in self.coefficients}), factor * self.constant)


@dataclass(frozen=True)
class AtLeastZero:
    """True where the affine form is not negative."""

    affine: Affine


@dataclass(frozen=True)
class Flag:
    """The element of a given tensor; ``axes[k]`` is the described value's axis that indexes its axis k, None for index 0.

    A tensor of integers counts as true where it is not 0.
    """

    source: Value
    axes: tuple[int | None, ...]


@dataclass(frozen=True)
class AllOf:
    """Every part holds; true for none."""

    parts: frozenset[Predicate]


@dataclass(frozen=True)
class AnyOf:
    """Some part holds; false for none."""

    parts: frozenset[Predicate]


@dataclass(frozen=True)
class Negated:
    """The flag does not hold."""

    flag: Flag


Predicate: TypeAlias = AtLeastZero | Flag | Negated | AllOf | AnyOf


@dataclass(frozen=True)
class Cases:
    """``then`` where the predicate holds, else ``otherwise``; leaves are numbers."""

    predicate: Predicate
    then: Number
    otherwise: Number


Number: TypeAlias = float | Cases
Element: TypeAlias = Affine | Predicate | float | Cases

TRUE = AllOf(frozenset())
FALSE = AnyOf(frozenset())


def sorted_coefficients(coefficients: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((axis, value) for axis, value in coefficients.items() if value))


def all_of(parts: Iterable[Predicate]) -> Predicate:
    """Conjunction, flattened."""
    flat: set[Predicate] = set()
    for part in parts:
        if isinstance(part, AllOf):
            flat |= part.parts
        elif part == FALSE:
            return FALSE
        else:
            flat.add(part)
    return next(iter(flat)) if len(flat) == 1 else AllOf(frozenset(flat))


def any_of(parts: Iterable[Predicate]) -> Predicate:
    """Disjunction, flattened."""
    flat: set[Predicate] = set()
    for part in parts:
        if isinstance(part, AnyOf):
            flat |= part.parts
        elif part == TRUE:
            return TRUE
        else:
            flat.add(part)
    return next(iter(flat)) if len(flat) == 1 else AnyOf(frozenset(flat))


def negate(predicate: Predicate) -> Predicate:
    """The opposite, with negation pushed to the leaves. Affine forms are integers, so not (x >= 0) is -x - 1 >= 0."""
    match predicate:
        case AtLeastZero(affine):
            return AtLeastZero(affine.scaled(-1).combine(Affine((), -1), 1))
        case Flag():
            return Negated(predicate)
        case Negated(flag):
            return flag
        case AllOf(parts):
            return any_of(negate(part) for part in parts)
        case AnyOf(parts):
            return all_of(negate(part) for part in parts)


def visible(element: Element) -> Predicate | None:
    """Where a mask lets a score through: a Boolean mask's true elements, an additive mask's zeros.

    None where an additive mask holds numbers other than 0 and `MASKED` or less, so that it is a bias.
    """
    match element:
        case Affine():
            return None
        case float():
            return TRUE if element == 0 else FALSE if element <= MASKED else None
        case Cases(predicate, then, otherwise):
            left, right = visible(then), visible(otherwise)
            if left is None or right is None:
                return None
            return any_of([all_of([predicate, left]), all_of([negate(predicate), right])])
        case _:
            return element


@dataclass(frozen=True)
class Visibility:
    """A mask over ``[batch, heads, queries, keys]`` in the attention operation's terms, without a past.

    ``padding`` is true, or not 0, at real tokens, or the opposite where it is `Negated`; its axes are the batch, unless it is the same
    for all, and the keys.
    """

    causal: bool = False
    window: int | None = None
    padding: Flag | Negated | None = None


def classify(predicate: Predicate, shape: tuple[Dim, Dim, Dim, Dim]) -> Visibility | str:
    """Read a predicate over the axes of ``shape``; a string says what is in it that the attention operation has no word for."""
    query, key = 2, 3
    causal, window = False, None
    padding: Flag | Negated | None = None
    for part in predicate.parts if isinstance(predicate, AllOf) else [predicate]:
        match part:
            case AtLeastZero(affine):
                if always(affine, shape) is True:
                    continue
                coefficients = dict(affine.coefficients)
                if coefficients == {query: 1, key: -1} and affine.constant == 0:
                    causal = True
                elif coefficients == {query: -1, key: 1} and isinstance(affine.constant, int):
                    size = affine.constant + 1
                    window = size if window is None else min(window, size)
                else:
                    return "a comparison of positions that is neither causal nor a window"
            case Flag(_, axes) | Negated(Flag(_, axes)):
                used = [axis for axis in axes if axis is not None]
                if used not in ([key], [0, key]):
                    return "a flag that is not one per key position"
                if padding not in (None, part):
                    return "two padding masks"
                padding = part
            case AnyOf(parts) if not parts:
                return "a mask that hides everything"
            case _:
                return "alternatives that are neither causal, window nor padding"
    if window is not None and (not causal or window < 1):
        return "a window without causality"
    return Visibility(causal, window, padding)


def always(affine: Affine, shape: tuple[Dim, ...]) -> bool | None:
    """Whether the form is never negative (True), always negative (False), or neither, over all positions."""
    low: Dim = affine.constant
    high: Dim = affine.constant
    for axis, coefficient in affine.coefficients:
        reach = coefficient * (shape[axis] - 1)
        low, high = (low + reach, high) if coefficient < 0 else (low, high + reach)
    if bounds(low)[0] >= 0:
        return True
    return False if bounds(high)[1] < 0 else None


Index: TypeAlias = tuple[int | None, Dim]
"""How an axis of the old value is indexed: by an axis of the new one (None: by 0) plus an offset."""


def reindex(element: Element, index: Sequence[Index]) -> Element:
    """The element function over new axes: old axis k is indexed as ``index[k]`` says. Raises `UnknownError` where that has no form."""
    match element:
        case Affine(coefficients, constant):
            total: dict[int, int] = {}
            for axis, coefficient in coefficients:
                target, offset = index[axis]
                constant = constant + coefficient * offset
                if target is not None:
                    total[target] = total.get(target, 0) + coefficient
            return Affine(sorted_coefficients(total), constant)
        case float():
            return element
        case Cases(predicate, then, otherwise):
            return Cases(reindex_predicate(predicate, index), _reindex_number(then, index), _reindex_number(otherwise, index))
        case _:
            return reindex_predicate(element, index)


def _reindex_number(number: Number, index: Sequence[Index]) -> Number:
    moved = reindex(number, index)
    assert isinstance(moved, float | Cases)
    return moved


def reindex_predicate(predicate: Predicate, index: Sequence[Index]) -> Predicate:
    """`reindex` of a predicate."""
    match predicate:
        case AtLeastZero(affine):
            moved = reindex(affine, index)
            assert isinstance(moved, Affine)
            return AtLeastZero(moved)
        case Flag(source, axes):
            if any(axis is not None and index[axis][1] != 0 for axis in axes):
                raise UnknownError
            return Flag(source, tuple(None if axis is None else index[axis][0] for axis in axes))
        case Negated(flag):
            return negate(reindex_predicate(flag, index))
        case AllOf(parts):
            return all_of(reindex_predicate(part, index) for part in parts)
        case AnyOf(parts):
            return any_of(reindex_predicate(part, index) for part in parts)


class UnknownError(Exception):
    """The analysis has no word for this."""
