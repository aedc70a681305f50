"""Attributes, types and weights in the text form: the half that reads what `value_text` gives.

Nothing is evaluated; nesting, sizes and numbers are bounded before anything is built of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import cgptc.ir.masked_weights
import cgptc.ir.quantised_weights  # noqa: F401  (both register their expressions)
from cgptc.ir.attributes import Attribute, AttributeType, accepts, attributes
from cgptc.ir.diagnostics import OpTypeError
from cgptc.ir.dims import FUNCTIONS, Dim, Expr, Symbol, apply, weighted_sum
from cgptc.ir.dtypes import DTYPES, DType
from cgptc.ir.lexer import Lexer, did_you_mean
from cgptc.ir.types import TensorType
from cgptc.ir.value_text import elements, holds_weights
from cgptc.ir.weight_expressions import EXPRESSIONS, MAX_DEPTH
from cgptc.ir.weights import Dense, Stored, Weight

Symbols: TypeAlias = Mapping[str, Symbol]

MAX_NESTING = MAX_DEPTH
"""Levels of nested dimensions, tuples and weights."""

MAX_TERMS = 128
"""Terms of a polynomial, and factors of a term, that a dimension may have."""

MAX_RANK = 32
"""Dimensions that a type may have."""


def parse_type(lexer: Lexer, symbols: Symbols) -> TensorType:
    """``f32[batch, seq, 768]``."""
    dtype = _dtype(lexer)
    lexer.expect("[", " before the shape")
    shape: list[Dim] = []
    while not lexer.is_mark("]"):
        if shape:
            lexer.expect(",", " or ']'")
        if len(shape) == MAX_RANK:
            raise lexer.error(f"a type has at most {MAX_RANK} dimensions")
        offset = lexer.token.offset
        dim = parse_dim(lexer, symbols)
        if isinstance(dim, int) and dim < 0:
            raise lexer.error(f"a dimension must not be negative, got {dim}", at=offset)
        shape.append(dim)
    lexer.expect("]")
    return TensorType(dtype, tuple(shape))


def _dtype(lexer: Lexer) -> DType:
    if lexer.token.kind != "word":
        raise lexer.expected("a dtype")
    if lexer.token.text not in DTYPES:
        raise lexer.error(f"unknown dtype '{lexer.token.text[:60]}'", fix=did_you_mean(lexer.token.text, DTYPES))
    return DTYPES[lexer.advance().text]


def parse_dim(lexer: Lexer, symbols: Symbols, depth: int = 0) -> Dim:
    """A sum of products of integers, symbols and ``floordiv``, ``mod``, ``max``, ``min`` of two dimensions."""
    start = lexer.token.offset
    terms: list[Dim] = []
    signs: list[int] = []
    while True:
        if len(terms) == MAX_TERMS:
            raise lexer.error(f"a dimension has at most {MAX_TERMS} terms")
        if not terms:
            signs.append(-1 if lexer.take("-") else 1)
        elif lexer.take("+"):
            signs.append(1)
        elif lexer.take("-"):
            signs.append(-1)
        else:
            break
        terms.append(_product(lexer, symbols, depth))
    if len(terms) == 1 and signs[0] == 1:
        return terms[0]
    if sum(map(_term_count, terms)) > MAX_TERMS:
        raise lexer.error(f"a dimension has at most {MAX_TERMS} terms", at=start)
    return weighted_sum(terms, signs)


def _term_count(dim: Dim) -> int:
    return len(dim.terms) if isinstance(dim, Expr) else 1


def _product(lexer: Lexer, symbols: Symbols, depth: int) -> Dim:
    start = lexer.token.offset
    product = _factor(lexer, symbols, depth)
    count = 1
    while lexer.take("*"):
        factor = _factor(lexer, symbols, depth)
        count += 1
        if count > MAX_TERMS or _term_count(product) * _term_count(factor) > MAX_TERMS:
            raise lexer.error(f"a product has at most {MAX_TERMS} factors and terms", at=start)
        product = product * factor
    return product


def _factor(lexer: Lexer, symbols: Symbols, depth: int) -> Dim:
    token = lexer.token
    if token.kind == "int":
        return lexer.integer("a size")
    if token.kind != "word":
        raise lexer.expected("a dimension")
    lexer.advance()
    if token.text in FUNCTIONS and lexer.take("("):
        if depth == MAX_NESTING:
            raise lexer.error(f"dimensions nest at most {MAX_NESTING} levels", at=token.offset)
        left = parse_dim(lexer, symbols, depth + 1)
        lexer.expect(",", f" between the two dimensions of '{token.text}'")
        divisor = lexer.token.offset
        right = parse_dim(lexer, symbols, depth + 1)
        lexer.expect(")")
        if token.text in ("floordiv", "mod") and isinstance(right, int) and right < 1:
            raise lexer.error(f"the divisor of '{token.text}' must be positive, got {right}", at=divisor)
        return apply(token.text, left, right)
    if token.text not in symbols:
        hint = did_you_mean(token.text, symbols) or "declare it after the graph's name: graph @main(batch: 1..8)"
        raise lexer.error(f"unknown symbol '{token.text[:60]}'", at=token.offset, fix=hint)
    return symbols[token.text].dim


def parse_attribute(lexer: Lexer, type: AttributeType, symbols: Symbols, what: str, depth: int = 0) -> Any:
    """A value that an attribute of that type may hold; ``what`` names the attribute in errors."""
    offset = lexer.token.offset
    if depth == MAX_NESTING:
        raise lexer.error(f"attributes nest at most {MAX_NESTING} levels")
    if lexer.take("["):
        if type.item is None:
            raise lexer.error(f"{what} must be {type}, got a list", at=offset)
        items: list[Any] = []
        while not lexer.is_mark("]"):
            if items:
                lexer.expect(",", " or ']'")
            items.append(parse_attribute(lexer, type.item, symbols, what, depth + 1))
        lexer.expect("]")
        return tuple(items)
    value = _scalar(lexer, type, symbols, what, depth)
    if isinstance(value, int) and not isinstance(value, bool) and "float" in type.kinds and "int" not in type.kinds:
        value = float(value)
    if not accepts(type, value):
        raise lexer.error(f"{what} must be {type}", at=offset)
    return value


_WORDS: dict[str, tuple[str, bool | float | None]] = {
    "none": ("none", None),
    "true": ("bool", True),
    "false": ("bool", False),
    "nan": ("float", float("nan")),
    "inf": ("float", float("inf")),
}


def _scalar(lexer: Lexer, type: AttributeType, symbols: Symbols, what: str, depth: int) -> Any:
    token = lexer.token
    if token.kind == "string":
        return lexer.string(what)
    if token.kind == "word" and token.text in _WORDS and _WORDS[token.text][0] in type.kinds:
        return _WORDS[lexer.advance().text][1]
    if "weight" in type.kinds:
        return parse_weight(lexer, depth + 1)
    if "dtype" in type.kinds and (token.text in DTYPES or "expr" not in type.kinds):
        return _dtype(lexer)
    if "expr" in type.kinds:
        return parse_dim(lexer, symbols)
    if type.kinds & {"int", "float"}:
        return _number(lexer, type, what)
    raise lexer.expected(f"{type} for {what}")


def _number(lexer: Lexer, type: AttributeType, what: str) -> int | float:
    """An integer, or a float where the type takes one."""
    negative = lexer.take("-")
    if "float" in type.kinds and (lexer.token.kind == "float" or (negative and lexer.is_word("inf"))):
        offset = lexer.token.offset
        value = float(lexer.token.text)
        if lexer.token.kind == "float" and value == float("inf"):
            raise lexer.error(f"{what} is too large for a float", at=offset)
        lexer.advance()
        return -value if negative else value
    if lexer.token.kind != "int":
        raise lexer.expected(f"{type} for {what}")
    return -lexer.integer(what) if negative else lexer.integer(what)


def parse_weight(lexer: Lexer, depth: int = 0) -> Weight:
    """A stored weight, a dense one, or an expression."""
    offset = lexer.token.offset
    if depth > MAX_NESTING:
        raise lexer.error(f"weights nest at most {MAX_NESTING} levels")
    if lexer.take("@"):
        name = lexer.string("the name of a weight")
        lexer.expect(":", " before the weight's type")
        dtype, shape = _static_type(lexer)
        return Stored(name, dtype, shape)
    token = lexer.token
    if token.kind != "word":
        raise lexer.expected("a weight")
    lexer.advance()
    if token.text == "dense":
        return _dense(lexer)
    if token.text not in EXPRESSIONS:
        known = ["dense", *EXPRESSIONS]
        raise lexer.error(f"unknown weight '{token.text[:60]}'", at=offset, fix=did_you_mean(token.text, known))
    cls = EXPRESSIONS[token.text]
    lexer.expect("(")
    values: dict[str, Any] = {}
    for attribute in attributes(cls):
        if values:
            lexer.expect(",", f" before '{attribute.name}'")
        values[attribute.name] = _weight_argument(lexer, cls.name, attribute, depth)
    lexer.expect(")")
    try:
        return cls(**values)
    except OpTypeError as error:
        raise lexer.error(str(error), at=offset) from None


def _weight_argument(lexer: Lexer, expression: str, attribute: Attribute, depth: int) -> Any:
    what = f"'{attribute.name}' of '{expression}'"
    if not holds_weights(attribute.type):
        lexer.expect_word(attribute.name)
        lexer.expect("=")
    return parse_attribute(lexer, attribute.type, {}, what, depth)


def _static_type(lexer: Lexer) -> tuple[DType, tuple[int, ...]]:
    type_ = parse_type(lexer, {})
    return type_.dtype, type_.static_shape


def _dense(lexer: Lexer) -> Dense:
    lexer.expect("(")
    offset = lexer.token.offset
    texts: list[str] = []
    data: bytes | None = None
    if lexer.token.kind == "hex":
        digits = lexer.advance().text[2:]
        if len(digits) % 2:
            raise lexer.error("hexadecimal content must have an even number of digits", at=offset)
        data = bytes.fromhex(digits)
    else:
        lexer.expect("[", " or '0x…', the content")
        while not lexer.is_mark("]"):
            if texts:
                lexer.expect(",", " or ']'")
            texts.append(_element(lexer))
        lexer.expect("]")
    lexer.expect(":", " before the weight's type")
    dtype, shape = _static_type(lexer)
    lexer.expect(")")
    if data is None:
        try:
            data = elements(texts, dtype).tobytes()
        except (ValueError, OverflowError) as error:
            raise lexer.error(str(error), at=offset) from None
    size = TensorType(dtype, shape).size
    assert isinstance(size, int)
    if len(data) != size * dtype.numpy.itemsize:
        raise lexer.error(f"{dtype}{list(shape)} has {size} elements, got {len(data) // dtype.numpy.itemsize}", at=offset)
    return Dense(dtype, shape, data)


def _element(lexer: Lexer) -> str:
    sign = "-" if lexer.take("-") else ""
    if lexer.token.kind not in ("int", "float", "word") or len(lexer.token.text) > 400:
        raise lexer.expected("an element")
    return sign + lexer.advance().text
