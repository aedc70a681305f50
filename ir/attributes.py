"""What an attribute may hold, read from the dataclass that declares it.

The printer, the parser, equality and the verifier all ask here, so that no list of attributes exists beside the declarations.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from dataclasses import dataclass
from typing import Any

from cgptc.ir.dims import Expr
from cgptc.ir.dtypes import DType
from cgptc.ir.weights import Weight


@dataclass(frozen=True)
class AttributeType:
    """Accepted kinds of value, among ``none bool int float str dtype expr weight tuple``, and what tuples hold.

    ``text`` is how the type reads in an error message.
    """

    kinds: frozenset[str]
    item: AttributeType | None = None
    text: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Attribute:
    """One field of an op or of a weight expression."""

    name: str
    type: AttributeType
    required: bool


_SCALARS: dict[object, str] = {
    type(None): "none",
    bool: "bool",
    int: "int",
    float: "float",
    str: "str",
    DType: "dtype",
    Expr: "expr",
}
_WORDS = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a string", "none": "none", "dtype": "a dtype"}


def attributes(cls: type[Any]) -> tuple[Attribute, ...]:
    """The attributes of a frozen dataclass, in order of declaration; TypeError for a field of a type that the text form lacks."""
    key: Any = cls
    return _declared(key)


@functools.cache
def _declared(cls: Any) -> tuple[Attribute, ...]:
    hints = _field_types(cls)
    found = []
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        try:
            found.append(Attribute(field.name, _attribute_type(hints[field.name]), required))
        except TypeError as error:
            raise TypeError(f"{cls.__qualname__}.{field.name}: {error}") from None
    return tuple(found)


def _field_types(cls: type[Any]) -> dict[str, Any]:
    """The resolved types of the fields alone: other annotations may name what is imported for type checkers only."""
    names = {field.name for field in dataclasses.fields(cls)}
    found: dict[str, Any] = {}
    for owner in reversed(cls.__mro__):
        own = {name: hint for name, hint in vars(owner).get("__annotations__", {}).items() if name in names}
        holder = type(owner.__name__, (), {"__annotations__": own, "__module__": owner.__module__})
        found |= typing.get_type_hints(holder)
    return found


def _attribute_type(hint: Any) -> AttributeType:
    if isinstance(hint, type) and issubclass(hint, Weight):
        return AttributeType(frozenset({"weight"}), text="a weight")
    if hint in _SCALARS:
        kind = _SCALARS[hint]
        return AttributeType(frozenset({kind}), text=_WORDS.get(kind, "a dimension"))
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        members = [_attribute_type(type(value)) for value in arguments]
        return _join(members, text=" or ".join(map(repr, arguments)))
    if origin in (typing.Union, types.UnionType):
        return _join([_attribute_type(argument) for argument in arguments])
    if origin is tuple:
        item = _join([_attribute_type(argument) for argument in arguments if argument is not Ellipsis])
        return AttributeType(frozenset({"tuple"}), item, f"[{item}, …]")
    raise TypeError(f"the text form has no attribute of type {hint}")


def _join(members: list[AttributeType], text: str = "") -> AttributeType:
    kinds = frozenset().union(*(member.kinds for member in members))
    if {"float", "expr"} <= kinds:
        raise TypeError("the text form cannot tell a float from a dimension")
    items = [member.item for member in members if member.item is not None]
    if not text:
        words = [member.text for member in members]
        if {"int", "expr"} <= kinds:  # Dim is a union
            words = ["a dimension", *(member.text for member in members if not member.kinds <= {"int", "expr"})]
        text = " or ".join(dict.fromkeys(words))
    return AttributeType(kinds, _join(items) if items else None, text)


def kind_of(value: object) -> str | None:
    """The kind of a plain value, None for anything else: a numpy scalar is not an attribute."""
    kind = _SCALARS.get(type(value))
    if kind is not None:
        return kind
    if type(value) is tuple:
        return "tuple"
    return "weight" if isinstance(value, Weight) else None


def accepts(type_: AttributeType, value: object) -> bool:
    """Whether an attribute of that type may hold ``value``. A float attribute takes integers too, as Python does."""
    kind = kind_of(value)
    if kind == "tuple" and "tuple" in type_.kinds:
        assert isinstance(value, tuple)
        return all(type_.item is not None and accepts(type_.item, item) for item in value)
    return kind in type_.kinds or (kind == "int" and "float" in type_.kinds)
