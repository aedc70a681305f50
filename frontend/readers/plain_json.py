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

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)  # linear, since an open string matches too
_NOT_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STRUCTURE_BYTES = 1 << 18


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


def _structure(text: bytes) -> tuple[int, int]:
    """The depth of ``text``, valid UTF-8, and a bound on its values; in little memory, whatever it is."""
    level = depth = value_count = start = 0
    in_string = False
    while start < len(text):
        end = start + _STRUCTURE_BYTES
        while text[end - 1 : end] == b"\\":
            end += 1  # an escape is not cut in two
        # The quote closes a string that is open at the end, or opens one that swallows the mark, which no UTF-8 text holds.
        outside = _STRING.sub(b"", b'"' * in_string + text[start:end] + b'"\xff')
        in_string = outside.endswith(b"\xff")
        brackets = np.frombuffer(outside.translate(None, _NOT_BRACKET), np.uint8)
        opening = (brackets == ord("{")) | (brackets == ord("["))
        levels = level + np.cumsum(np.where(opening, 1, -1))
        if levels.size:
            level, depth = int(levels[-1]), max(depth, int(levels.max()))
        value_count += outside.count(b",") + int(opening.sum())
        start = end
    return depth, value_count


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
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError:
        raise malformed("is not valid UTF-8") from None
    depth, value_count = _structure(text)
    if depth > JSON_DEPTH:
        raise malformed(f"nests deeper than {JSON_DEPTH} levels")
    if value_count > JSON_VALUES:
        raise malformed(f"holds more than {JSON_VALUES} values")
    try:
        value = json.loads(decoded, object_pairs_hook=_object)
        if b"\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair is no text
    except UnicodeEncodeError:
        raise malformed("is not valid Unicode") from None
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
