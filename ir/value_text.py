"""Attributes, types and weights in the text form: the half that writes. `value_parser` reads what this gives."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from cgptc.ir.attributes import AttributeType, attributes
from cgptc.ir.dims import Expr
from cgptc.ir.dtypes import DType, boolean
from cgptc.ir.op import Array, Op
from cgptc.ir.weight_expressions import Expression
from cgptc.ir.weights import Dense, Stored, Weight

_BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")

INLINE_ELEMENTS = 32
"""Dense weights of at most this many elements are written as a list, larger ones as the hex of their bytes."""


def quoted(text: str) -> str:
    """A string in JSON's notation, in ASCII."""
    return json.dumps(text)


def name_text(name: str) -> str:
    """A name, bare where it is a plain word."""
    return name if _BARE.match(name) else quoted(name)


def float_text(value: float) -> str:
    """The shortest decimal that reads back as the same number; ``nan``, ``inf``, ``-inf``."""
    return float.__repr__(float(value))


def op_attributes(op: Op) -> str:
    """``{name=value, …}`` with every attribute in order of declaration, "" where an op has none."""
    parts = [f"{attribute.name}={attribute_text(getattr(op, attribute.name), attribute.type)}" for attribute in attributes(type(op))]
    return f"{{{', '.join(parts)}}}" if parts else ""


def attribute_text(value: Any, type: AttributeType | None) -> str:
    """An attribute's value, written as its declared type asks: an integer in a float attribute prints as a float.

    What the verifier rejects is written as ``<type>``, which the parser rejects in turn.
    """
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() if type is not None and "float" in type.kinds and "int" not in type.kinds:
            return float_text(value)
        case int():
            return str(int(value))
        case float():
            return float_text(value)
        case str():
            return quoted(value)
        case DType() | Expr():
            return str(value)
        case tuple():
            return f"[{', '.join(attribute_text(item, type.item if type is not None else None) for item in value)}]"
        case Weight():
            return weight_text(value)
        case _:
            return f"<{value.__class__.__qualname__}>"


def weight_text(weight: Weight) -> str:
    """``@"name": type``, ``dense(content: type)``, or an expression as a call: operands first, then attributes by name."""
    match weight:
        case Stored():
            return f"@{quoted(weight.name)}: {weight.type}"
        case Dense():
            return f"dense({_content(weight)}: {weight.type})"
        case Expression():
            parts = []
            for attribute in attributes(type(weight)):
                text = attribute_text(getattr(weight, attribute.name), attribute.type)
                parts.append(text if holds_weights(attribute.type) else f"{attribute.name}={text}")
            return f"{weight.name}({', '.join(parts)})"
        case _:
            return f"<{type(weight).__qualname__}>"


def holds_weights(type: AttributeType) -> bool:
    """Whether an attribute is a weight or a tuple of weights."""
    return "weight" in type.kinds or (type.item is not None and "weight" in type.item.kinds)


def _content(weight: Dense) -> str:
    array = weight.array.reshape(-1)
    if array.size <= INLINE_ELEMENTS:
        texts = [_element(element, weight.dense_dtype) for element in array]
        if elements(texts, weight.dense_dtype).tobytes() == weight.data:  # a NaN's payload has no decimal
            return f"[{', '.join(texts)}]"
    return f"0x{weight.data.hex()}"


def _element(element: Any, dtype: DType) -> str:
    if dtype is boolean:
        return "true" if element else "false"
    return str(element)


def elements(texts: list[str], dtype: DType) -> Array:
    """The elements that texts stand for; ValueError or OverflowError for one that the dtype cannot hold."""
    if dtype is boolean:
        known = {"true": True, "false": False}
        if not all(text in known for text in texts):
            raise ValueError("elements must be true or false")
        return np.asarray([known[text] for text in texts], np.bool_)
    if not dtype.is_float:
        low, high = integer_range(dtype)
        integers = [int(text) for text in texts]
        if not all(low <= value <= high for value in integers):
            raise ValueError(f"elements must be between {low} and {high}")
        if dtype.bits < 8:
            return np.asarray(integers, np.int8).astype(dtype.numpy)
        return np.asarray(integers, dtype.numpy)
    floats = [float(text) for text in texts]
    with np.errstate(all="ignore"):
        array = np.asarray(floats, np.float64).astype(dtype.numpy)
    if any(math.isfinite(value) and not math.isfinite(float(kept)) for value, kept in zip(floats, array, strict=True)):
        raise ValueError(f"elements are too large for {dtype}")
    return array


def integer_range(dtype: DType) -> tuple[int, int]:
    """Smallest and largest value of an integer dtype."""
    return (0, (1 << dtype.bits) - 1) if dtype.kind == "uint" else (-(1 << dtype.bits - 1), (1 << dtype.bits - 1) - 1)
