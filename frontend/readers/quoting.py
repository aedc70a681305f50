"""Names from a file, made fit for a one-line message."""

from __future__ import annotations

from cgptc.ir.printable import printable


def quoted(text: str, limit: int = 80) -> str:
    """``text`` in quotes, on one line, without control characters, cut to ``limit`` characters."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return f"'{printable(cut)}'"


def listed(names: list[str], limit: int = 5) -> str:
    """The first few names, quoted, and how many more there are."""
    text = ", ".join(quoted(name) for name in names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"
