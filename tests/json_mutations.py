"""Damage to JSON documents: edits that Hypothesis draws, after which a document is still JSON and may mean anything.

Edits of bytes mostly end before the parser is through; these reach what looks at its result.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

from cgptc.artifact.canonical import Json

NUMBERS = [0, 1, -1, 2, 0.5, -0.0, 1e308, float("inf"), float("nan")]
NUMBERS += [sign * (1 << bit) for bit in (15, 31, 32, 53, 62, 63, 64, 200) for sign in (1, -1)]
TEXTS = ["", "0", "x", "..", "/dev/null", "a\nb", "\x00", "\x1b[31m", "\x7f", "\u200b", "\ud800", "\U0001f600", "x" * 5000]
VALUES: list[Json] = [None, True, False, [], {}, [[]], [None], {"": 0}, *NUMBERS, *TEXTS]
KINDS = ("value", "copy", "nudge", "delete", "twice", "swap", "rename", "wrap")
# A way down from the root, which wraps around at every level and ends at a leaf: rare parts of a document are as near as crowded ones.
PLACES = st.lists(st.integers(0, 99), max_size=12)
JsonEdits = list[tuple[str, list[int], list[int], Json]]
FEW = settings(max_examples=max(1, settings.default.max_examples // 5))  # type: ignore[union-attr]
"""A fifth of the profile's examples, beside as many edits of bytes as it has."""
JSON_EDITS = st.lists(st.tuples(st.sampled_from(KINDS), PLACES, PLACES, st.sampled_from(VALUES)), min_size=1, max_size=4)


def mutate_json(data: bytes, edits: JsonEdits) -> bytes:
    """Apply edits one after another; NaN, infinities and half surrogate pairs are written as Python writes them."""
    root: list[Json] = [json.loads(data)]
    for kind, place, other, value in edits:
        holder, at = _find(root, place)
        here = holder[at]
        match kind:
            case "value":
                holder[at] = copy.deepcopy(value)
            case "copy":
                source, key = _find(root, other)
                holder[at] = copy.deepcopy(source[key])
            case "nudge":
                holder[at] = _nudged(here, len(other))
            case "wrap":
                holder[at] = [here]
            case "swap":
                sibling = _keys(holder)[sum(other) % len(holder)]
                holder[at], holder[sibling] = holder[sibling], here
            case "delete" if holder is not root:
                del holder[at]
            case "twice" if isinstance(holder, dict):
                holder[_other_name(at, value)] = copy.deepcopy(here)
            case "twice" if holder is not root:
                holder[at:at] = [copy.deepcopy(here) for _ in range(1 + len(other))]
            case "rename" if isinstance(holder, dict):
                members = [(_other_name(at, value) if key == at else key, each) for key, each in holder.items()]
                holder.clear()
                holder.update(members)
    return json.dumps(root[0]).encode()


def _keys(holder: Any) -> list[Any]:
    return list(holder) if isinstance(holder, dict) else list(range(len(holder)))


def _find(root: list[Json], place: list[int]) -> tuple[Any, Any]:
    """The list or object that holds a place, and the place's index or key in it."""
    holder: Any = root
    at: Any = 0
    for step in place:
        if not isinstance(holder[at], list | dict) or not holder[at]:
            break
        holder = holder[at]
        at = _keys(holder)[step % len(holder)]
    return holder, at


def _other_name(key: str, value: Json) -> str:
    return value if isinstance(value, str) else f"{key}_"


def _nudged(value: Json, amount: int) -> Json:
    """Nearly the same."""
    match value:
        case bool() | None:
            return not value
        case int() | float():
            return (value + 1, value - 1, -value, 2 * value, value // 2, str(value))[amount % 6]
        case str():
            return (value[1:], value[:-1], value + "x", value.upper(), value + "\n")[amount % 5]
        case _:
            return type(value)()
