"""JSON as data: bounded in size, depth and count, with no key twice."""

from __future__ import annotations

import json
import re
from typing import TypeAlias

import numpy as np

from cgptc.frontend.readers.input_file import InputFile
from cgptc.frontend.readers.limits import HEADER_BYTES, JSON_DEPTH, JSON_VALUES
from cgptc.frontend.readers.quoting import quoted
from cgptc.ir.diagnostics import MalformedError

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"
JsonObject: TypeAlias = dict[str, JsonValue]

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # one pass, an open string included
_NOT_BRACKET = re.compile(rb"[^][{}]+")


class _DuplicateKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _DuplicateKeyError(f"the key {quoted(key)} occurs twice in one object")
            seen.add(key)
    return result


def parse_json_object(text: bytes, label: str, part: str = "the JSON text") -> JsonObject:
    """The object that ``text`` is; `MalformedError` where it is no JSON object, nests too deep, or holds a key twice.

    ``part`` is what messages call it, such as ``the header``. Strings are valid Unicode. NaN and infinities, which
    Python writes, are taken.
    """

    def malformed(what: str) -> MalformedError:
        return MalformedError("malformed-json", f"{part} {what}", file=label, fix="the file is damaged: write it again")

    if len(text) > HEADER_BYTES:
        raise malformed(f"has {len(text)} bytes, more than {HEADER_BYTES}")
    # The structure is counted before parsing: depth costs stack, and a byte can become a hundred.
    outside_strings = _STRING.sub(b"", text)
    if outside_strings.count(b",") > JSON_VALUES:
        raise malformed(f"holds more than {JSON_VALUES} values")
    brackets = np.frombuffer(_NOT_BRACKET.sub(b"", outside_strings), np.uint8)
    opening = (brackets == ord("{")) | (brackets == ord("["))
    if brackets.size and int(np.cumsum(np.where(opening, 1, -1), dtype=np.int32).max()) > JSON_DEPTH:
        raise malformed(f"nests deeper than {JSON_DEPTH} levels")
    if int(opening.sum()) > JSON_VALUES:
        raise malformed(f"holds more than {JSON_VALUES} values")
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except UnicodeError:
        raise malformed("is not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise malformed(f"is not JSON (line {error.lineno}, column {error.colno}: {error.msg})") from None
    except _DuplicateKeyError as error:
        raise malformed(f"is ambiguous: {error}") from None
    except ValueError:
        raise malformed("holds a number with too many digits") from None
    if not isinstance(value, dict):
        raise malformed("is not a JSON object")
    return value


def read_json_object(file: InputFile, part: str = "the JSON text") -> JsonObject:
    """The object that a whole file is."""
    if file.size > HEADER_BYTES:
        raise MalformedError("malformed-json", f"{part} has {file.size} bytes, more than {HEADER_BYTES}", file=file.label)
    return parse_json_object(file.read(0, file.size), file.label, part)
