"""JSON with one spelling per value, and a reader that bounds what it takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn, TypeAlias

Json: TypeAlias = bool | int | float | str | list["Json"] | dict[str, "Json"] | None

MAXIMUM_BYTES = 64 << 20
"""Larger JSON files are refused before they are parsed."""


def canonical_json(value: object) -> str:
    """The one spelling of a value: keys sorted, indented by one, ASCII, no NaN, a final newline.

    Raises ValueError for NaN and infinities, TypeError for what JSON cannot hold or for a key that is not a string.
    """
    _require_string_keys(value)
    return json.dumps(value, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def parse_json(data: bytes) -> Json:
    """Parse UTF-8 JSON from a source that is not trusted.

    ValueError says what is wrong: too large, not UTF-8, not JSON, nested too deeply, a key given twice, NaN.
    """
    if len(data) > MAXIMUM_BYTES:
        raise ValueError(f"is {len(data)} bytes, more than {MAXIMUM_BYTES}")
    try:
        value: Json = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8") from None
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"has the key '{twice[:80]}' twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"holds {name}, which is not JSON")


def _require_string_keys(value: object) -> None:
    # json.dumps would turn 1, True and None into strings silently, and sorting mixed keys fails late.
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, Mapping):
            for key, inner in item.items():
                if not isinstance(key, str):
                    raise TypeError(f"the key {key!r} is not a string")
                pending.append(inner)
        elif isinstance(item, list | tuple):
            pending.extend(item)
