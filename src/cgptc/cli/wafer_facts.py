"""What the report of a wafer artifact must say to be shown: whoever wrote the file may have made it up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cgptc.ir.diagnostics import MalformedError

Form: TypeAlias = "Callable[[object], bool] | Record | Each"
"""What a value must be."""

MOST = 1 << 62


@dataclass(frozen=True)
class Record:
    """An object with these members, and perhaps with the optional ones, all of them or none; others are ignored."""

    members: Mapping[str, Form]
    optional: tuple[Mapping[str, Form], ...] = ()


@dataclass(frozen=True)
class Each:
    """A list, or an object of any names, of values of one form."""

    form: Form
    kind: type[list[object]] | type[dict[str, object]] = list


def text(value: object) -> bool:
    return isinstance(value, str)


def count(value: object) -> bool:
    return type(value) is int and 0 <= value < MOST


def positive(value: object) -> bool:
    return count(value) and value != 0


def number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < MOST  # type: ignore[operator]


def above_zero(value: object) -> bool:
    return number(value) and value > 1 / MOST  # type: ignore[operator]


def one_or_two_names(value: object) -> bool:
    return isinstance(value, list) and len(value) in (1, 2) and all(map(text, value))


_REGION = {"name": text, **dict.fromkeys(("x", "y", "width", "height", "cycles", "area", "sram_bytes", "resident_bytes", "kernels"), count)}
_LINEAR = {**dict.fromkeys(("where", "grid", "kernel"), text), **dict.fromkeys(("k", "n", "layers"), positive), "density": number}
_TIED = {"table": text, "head": text, "regions": one_or_two_names, "bytes": count, "copies": positive}
_FACTS = Record(
    {
        **dict.fromkeys(("machine", "strategy", "dtype", "item", "slowest"), text),
        **dict.fromkeys(("context", "latency_cycles", "bound_cycles"), count),
        **dict.fromkeys(("pe_count", "sram_limit_bytes", "cycles_per_token"), positive),
        **dict.fromkeys(("tokens_per_second", "single_tokens_per_second"), number),
        **dict.fromkeys(("clock_hz", "pe_share"), above_zero),
        "sram_bytes": Record({"min": count, "mean": count, "max": count}),
        "assumed": Each(Record({"what": text, "cycles": Each(count)})),
        "linears": Each(Record({**_LINEAR, "decode": Each(number, dict), "prefill": Each(number, dict)})),
        "tied": Each(Record(_TIED)),
        "regions": Each(Record(_REGION)),
    },
    (
        {"prefill_chunk": count, "prompt_tokens": count, "prompt_cycles": positive},
        {"host_bytes": count, "host_cycles": count, "missed": Each(text)},
    ),
)


def require_wafer_facts(facts: Mapping[str, object], file: str) -> None:
    """`MalformedError` naming the first of a report's facts that is missing or cannot be shown."""
    found = _misfit(facts, _FACTS, "backend")
    if found is not None:
        raise MalformedError("report", f"'report.json' has no fit '{found}'", file=file, fix="compile the model again")


def _misfit(value: object, form: Form, name: str) -> str | None:
    """Where a value is not of a form; None where it is. As deep as the form."""
    match form:
        case Record(members, optional):
            if not isinstance(value, Mapping):
                return name
            wanted = dict(members)
            for further in optional:
                wanted |= further if not further.keys().isdisjoint(value) else {}
            parts = [(value.get(key), inner, f"{name}.{key}") for key, inner in wanted.items()]
        case Each(inner, kind):
            if not isinstance(value, kind):
                return name
            parts = [(item, inner, f"{name}.…") for item in (value.values() if isinstance(value, dict) else value)]
        case _:
            return None if form(value) else name
    return next((found for part in parts if (found := _misfit(*part)) is not None), None)
