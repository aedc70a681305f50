"""Text from anywhere, made fit for one line of a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """``text`` with what does not print, line breaks and terminal codes among it, as escapes."""
    return text if text.isprintable() else "".join(part if part.isprintable() else ascii(part)[1:-1] for part in text)
