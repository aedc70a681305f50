"""Kinds of a value's axes, as the planner reads them from a graph and the host is told of them."""

from __future__ import annotations

from collections.abc import Sequence

BATCH, TIME, FEATURE, ONE = "batch", "time", "feature", "one"
"""One is the time axis of a token that was picked. A model's second sequence has an axis of kind ``time.NAME``."""

JOIN = "*"
"""Between the kinds of axes that are one axis of a value: ``batch*time`` are all tokens of a batch."""


def parts(axes: Sequence[str]) -> list[str]:
    """The kinds of axes, those that are one axis apart."""
    return [kind for axis in axes for kind in axis.split(JOIN)]


def is_time(kind: str) -> bool:
    """Whether a kind is that of a sequence's tokens."""
    return kind == TIME or kind.startswith(f"{TIME}.")
