"""How a model's outputs belong together: the tuples, lists and dictionaries that the original returned them in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

MAXIMUM_DEPTH = 32
"""Levels that results may nest."""


@dataclass(frozen=True)
class Output:
    """The graph's output of that number."""

    index: int


@dataclass(frozen=True)
class Plain:
    """What is no tensor and the same at every call."""

    value: bool | int | float | str | None


@dataclass(frozen=True)
class Items:
    """A tuple or a list."""

    is_tuple: bool
    items: tuple[ResultTree, ...]


@dataclass(frozen=True)
class Entries:
    """A dictionary, or an object with named fields, which comes as one."""

    entries: tuple[tuple[str | int, ResultTree], ...]


ResultTree: TypeAlias = Output | Plain | Items | Entries


def outputs_of(tree: ResultTree) -> list[int]:
    """The numbers of all outputs in it, in order."""
    match tree:
        case Output(index):
            return [index]
        case Items(_, items):
            return [index for item in items for index in outputs_of(item)]
        case Entries(entries):
            return [index for _, item in entries for index in outputs_of(item)]
        case _:
            return []


def filled(tree: ResultTree, values: Sequence[Any]) -> Any:
    """The nest with a value for each output."""
    match tree:
        case Output(index):
            return values[index]
        case Plain(value):
            return value
        case Items(is_tuple, items):
            found = [filled(item, values) for item in items]
            return tuple(found) if is_tuple else found
        case Entries(entries):
            return {key: filled(item, values) for key, item in entries}


def to_json(tree: ResultTree) -> dict[str, Any]:
    """One key says the kind."""
    match tree:
        case Output(index):
            return {"output": index}
        case Plain(value):
            return {"plain": value}
        case Items(is_tuple, items):
            return {"tuple" if is_tuple else "list": [to_json(item) for item in items]}
        case Entries(entries):
            return {"dict": [[key, to_json(item)] for key, item in entries]}


def from_json(value: object, output_count: int, depth: int = 0) -> ResultTree:
    """What `to_json` gave, of that many outputs at least. ValueError completes the sentence "its result …"."""
    if depth > MAXIMUM_DEPTH:
        raise ValueError(f"nests more than {MAXIMUM_DEPTH} levels")
    match value:
        case {"output": int() as index} if 0 <= index < output_count and not isinstance(index, bool):
            return Output(index)
        case {"plain": None | bool() | int() | float() | str() as plain}:
            return Plain(plain)
        case {"tuple": list() as items}:
            return Items(True, tuple(from_json(item, output_count, depth + 1) for item in items))
        case {"list": list() as items}:
            return Items(False, tuple(from_json(item, output_count, depth + 1) for item in items))
        case {"dict": list() as items}:
            entries: list[tuple[str | int, ResultTree]] = []
            for item in items:
                match item:
                    case [str() | int() as key, tree]:
                        entries.append((key, from_json(tree, output_count, depth + 1)))
                    case _:
                        raise ValueError("has an entry without a name")
            return Entries(tuple(entries))
    raise ValueError("is no nest of outputs")
