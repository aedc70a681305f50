"""Symbolic dimensions against plain integer arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir.binding import determined_symbols
from cgptc.ir.dims import (
    Dim,
    Expr,
    Symbol,
    apply,
    bounds,
    evaluate,
    floordiv,
    maximum,
    minimum,
    mod,
    product,
    solve,
    substitute,
    symbols,
    weighted_sum,
)
from cgptc.ir.lexer import Lexer
from cgptc.ir.value_parser import parse_dim

SYMBOLS = {
    symbol.name: symbol for symbol in (Symbol("a", 1, 4), Symbol("b", 0, 5), Symbol("c", -3, 3), Symbol("d", 7, 7), Symbol("e", 2, 1000))
}


@dataclass(frozen=True)
class Term:
    """A dimension, and the function of the symbols' sizes that it must equal."""

    dim: Dim
    meaning: Callable[[dict[str, int]], int]

    def __repr__(self) -> str:
        return str(self.dim)


def joined(make: Callable[[Dim, Dim], Dim], meaning: Callable[[int, int], int]) -> Callable[[Term, Term], Term]:
    return lambda left, right: Term(make(left.dim, right.dim), lambda sizes: meaning(left.meaning(sizes), right.meaning(sizes)))


def constant(value: int) -> Term:
    return Term(value, lambda sizes: value)


def symbol(name: str) -> Term:
    return Term(SYMBOLS[name].dim, lambda sizes: sizes[name])


LEAVES = st.integers(-5, 9).map(constant) | st.sampled_from(sorted(SYMBOLS)).map(symbol)
POSITIVE = st.integers(1, 9).map(constant) | st.sampled_from(["a", "d", "e"]).map(symbol)
DIVISORS = POSITIVE | st.builds(joined(lambda x, y: x * y, lambda x, y: x * y), POSITIVE, POSITIVE)

TERMS = st.recursive(
    LEAVES,
    lambda terms: (
        st.builds(joined(lambda x, y: x + y, lambda x, y: x + y), terms, terms)
        | st.builds(joined(lambda x, y: x - y, lambda x, y: x - y), terms, terms)
        | st.builds(joined(lambda x, y: x * y, lambda x, y: x * y), terms, terms)
        | st.builds(joined(maximum, max), terms, terms)
        | st.builds(joined(minimum, min), terms, terms)
        | st.builds(joined(floordiv, lambda x, y: x // y), terms, DIVISORS)
        | st.builds(joined(mod, lambda x, y: x % y), terms, DIVISORS)
        | st.builds(joined(lambda x, y: x // y, lambda x, y: x // y), terms, DIVISORS)
        | st.builds(joined(lambda x, y: x % y, lambda x, y: x % y), terms, DIVISORS)
        | terms.map(lambda term: Term(-term.dim, lambda sizes: -term.meaning(sizes)))
    ),
    max_leaves=8,
)

SIZES = st.fixed_dictionaries({name: st.integers(found.low, min(found.high, found.low + 20)) for name, found in SYMBOLS.items()})


@given(TERMS, SIZES)
def test_expressions_evaluate_as_integers_do(term: Term, sizes: dict[str, int]) -> None:
    assert evaluate(term.dim, sizes) == term.meaning(sizes)


@given(TERMS, SIZES)
def test_bounds_hold_for_all_sizes(term: Term, sizes: dict[str, int]) -> None:
    low, high = bounds(term.dim)
    assert low <= term.meaning(sizes) <= high


@given(TERMS)
def test_what_is_printed_parses_to_the_same_value(term: Term) -> None:
    lexer = Lexer(str(term.dim))
    parsed = parse_dim(lexer, SYMBOLS)
    assert lexer.token.kind == "end"
    assert parsed == term.dim
    assert str(parsed) == str(term.dim)
    assert hash(parsed) == hash(term.dim)


@given(TERMS, SIZES, st.sets(st.sampled_from(sorted(SYMBOLS))))
def test_substituting_some_symbols_first_changes_nothing(term: Term, sizes: dict[str, int], first: set[str]) -> None:
    partly = substitute(term.dim, {name: sizes[name] for name in first})
    assert not set(symbols([partly])) & first
    assert evaluate(partly, sizes) == term.meaning(sizes)


@given(TERMS, TERMS, SIZES)
def test_substituting_expressions_composes(outer: Term, inner: Term, sizes: dict[str, int]) -> None:
    composed = substitute(outer.dim, {"c": inner.dim})
    try:
        size = inner.meaning(sizes)
        expected = outer.meaning(sizes | {"c": size})
    except ZeroDivisionError:
        return
    if not SYMBOLS["c"].low <= size <= SYMBOLS["c"].high:  # simplification relies on the bounds
        return
    assert evaluate(composed, sizes) == expected


@given(TERMS, TERMS)
def test_equal_polynomials_are_equal_values(left: Term, right: Term) -> None:
    x, y = left.dim, right.dim
    assert x + y == y + x
    assert x * y == y * x
    assert x - x == 0
    assert (x + y) - y == x
    assert 2 * x == x + x
    assert (x + 1) * y == x * y + y
    assert maximum(x, y) == maximum(y, x)
    assert minimum(x, y) == minimum(y, x)
    assert weighted_sum([x, y], [2, -3]) == 2 * x - 3 * y
    assert product([x, y, 2]) == 2 * x * y
    assert isinstance(x, int) or symbols([x])


@given(TERMS, SIZES)
def test_a_solution_is_the_size_that_was_asked_for(term: Term, sizes: dict[str, int]) -> None:
    target = term.meaning(sizes)
    found = solve(term.dim, target, {})
    if found is not None:
        assert set(found) <= set(symbols([term.dim]))
        assert evaluate(substitute(term.dim, found), sizes) == target


@given(TERMS, SIZES, st.sampled_from(sorted(SYMBOLS)))
def test_a_symbol_that_counts_as_determined_is_solved(term: Term, sizes: dict[str, int], name: str) -> None:
    others = {other: size for other, size in sizes.items() if other != name}
    dim = substitute(term.dim, others)
    if name in determined_symbols([dim]):
        assert solve(dim, evaluate(dim, sizes), {}) == {name: sizes[name]}


@given(st.integers(-50, 50).filter(bool), st.integers(-50, 50), st.integers(-100, 100))
def test_a_linear_size_has_a_solution_exactly_where_the_division_is_exact(factor: int, offset: int, size: int) -> None:
    found = solve(factor * SYMBOLS["c"].dim + offset, size, {})
    if (size - offset) % factor:
        assert found is None
    else:
        assert found == {"c": (size - offset) // factor}


def test_solving_gives_nothing_new_where_all_is_known() -> None:
    a, b = SYMBOLS["a"].dim, SYMBOLS["b"].dim
    assert solve(a + b, 5, {"a": 2, "b": 3}) == {}
    assert solve(a + b, 6, {"a": 2, "b": 3}) is None
    assert solve(a + b, 6, {"a": 2}) == {"b": 4}
    assert solve(a * b, 6, {"a": 2}) == {"b": 3}
    assert solve(a * b, 6, {}) is None
    assert solve(4, 4, {}) == {}
    assert solve(4, 5, {}) is None
    assert solve(maximum(a, b), 4, {}) is None


def test_dimensions_read_as_documented() -> None:
    batch, seq = Symbol("batch", 1, 8).dim, Symbol("seq", 1, 2048).dim
    past = Symbol("past", 0, 2048).dim
    assert str(past + seq) == "past + seq"
    assert str(2 * seq * batch - 1) == "2*batch*seq - 1"
    assert str(-seq) == "-seq"
    assert str((4 * seq + 3) // 4) == "seq"
    assert str((4 * seq + batch) // 4) == "floordiv(batch, 4) + seq"
    assert str(maximum(past, seq) % 7) == "mod(max(past, seq), 7)"
    assert maximum(past + seq, seq) == past + seq
    assert minimum(batch, 8) == batch
    assert batch % 9 == batch
    assert (6 * seq) % 3 == 0
    assert (6 * seq) // (2 * seq) == 3
    assert isinstance(past + seq - past - seq, int)


def test_arithmetic_with_plain_integers_on_the_left() -> None:
    a = SYMBOLS["a"].dim
    assert evaluate(7 - a, {"a": 2}) == 5
    assert evaluate(7 // a, {"a": 2}) == 3
    assert evaluate(7 % a, {"a": 2}) == 1
    assert evaluate(7 * a, {"a": 2}) == 14


def test_a_missing_size_is_named() -> None:
    with pytest.raises(KeyError, match="b"):
        evaluate(SYMBOLS["a"].dim + SYMBOLS["b"].dim, {"a": 1})


def test_functions_are_applied_by_name() -> None:
    assert apply("max", 2, 3) == 3
    assert apply("mod", SYMBOLS["a"].dim, 2) == SYMBOLS["a"].dim % 2
    with pytest.raises(KeyError):
        apply("log", 1, 2)


@pytest.mark.parametrize("name", ["", "a b", "1a", "none", "true", "nan", "inf", "a-b", "a.b", "_a", "a\n"])
def test_a_symbol_has_a_name_that_the_text_form_can_tell_apart(name: str) -> None:
    with pytest.raises(ValueError, match="is not a name for a symbol"):
        Symbol(name, 1, 2)


def test_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"out of order: 3\.\.2"):
        Symbol("a", 3, 2)


def test_symbols_are_found_inside_functions_in_order() -> None:
    a, b, c = (SYMBOLS[name].dim for name in "abc")
    assert list(symbols([c, maximum(a, b // 2) + 1, 4])) == ["c", "a", "b"]
    assert isinstance(c, Expr)


def test_zero_divided_by_a_size_is_zero() -> None:
    size = Symbol("a", 1, 8).dim
    assert floordiv(0, size) == 0
    assert mod(0, size) == 0


def test_of_two_dimensions_that_are_always_equal_the_plainer_one_stands_for_both() -> None:
    one = Symbol("a", 1, 1).dim  # a size of which only 1 is possible
    for function in (maximum, minimum):
        assert function(one, 1) == function(1, one) == 1
