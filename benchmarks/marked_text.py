"""Generated tables inside written pages: what stands between two marks is replaced."""

from __future__ import annotations

from pathlib import Path


def write_between_marks(file: Path, name: str, text: str) -> None:
    """Put ``text`` between ``<!-- NAME -->`` and ``<!-- end of NAME -->``; ValueError where they are not there."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, found_start, rest = file.read_text(encoding="utf-8").partition(start)
    _, found_end, after = rest.partition(end)
    if not found_start or not found_end:
        raise ValueError(f"{file} has no {start} … {end}")
    file.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}", encoding="utf-8")
