"""What a command shows: results on stdout, messages and progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from cgptc.artifact.canonical import canonical_json
from cgptc.ir.diagnostics import CgptcError
from cgptc.ir.printable import printable


class ReaderLeftError(Exception):
    """Whoever read stdout has closed it: it has enough, and nothing is wrong."""


@dataclass(frozen=True)
class Screen:
    """Where a command prints, as its standard options ask: ``--json``, ``-q``, ``-v``, ``--debug``."""

    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False

    def result(self, text: str, value: object) -> None:
        """Print the command's result, once: ``text`` for people, or ``value`` as canonical JSON under ``--json``."""
        if self.json:
            write_out(canonical_json(value))
        elif text:
            write_out(text.rstrip("\n") + "\n")

    def stream(self, text: str) -> None:
        """Print a piece of a result as it comes; nothing under ``--json``."""
        if not self.json:
            write_out(text)

    def note(self, text: str) -> None:
        """Print a message that is not a result; silent under ``-q``."""
        if not self.quiet:
            sys.stderr.write(f"{text}\n")

    def detail(self, text: str) -> None:
        """Print a message that only ``-v`` asks for."""
        if self.verbose or self.debug:
            self.note(text)

    @contextmanager
    def progress(self, what: str) -> Iterator[None]:
        """Show on a terminal that work goes on; nothing in a pipe, under ``-q`` or ``--json``."""
        if self.quiet or self.json or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(what):
            yield


def write_out(text: str) -> None:
    """Write to stdout at once, letters that its encoding lacks escaped; `ReaderLeftError` where nobody reads any more."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise ReaderLeftError from None


def error_text(error: CgptcError) -> str:
    """The error as it goes to stderr: one line, then indented details. Nothing in it can move a terminal's cursor."""
    return "\n".join([error.line(), *("  " + printable(line) for line in error.details)])


def table(rows: Sequence[Sequence[str]], indent: str = "  ") -> str:
    """Rows in columns as wide as their widest cell; each row's last cell is as long as it likes."""
    if not rows:
        return ""
    widths = [max((len(row[column]) for row in rows if column < len(row) - 1), default=0) for column in range(max(map(len, rows)))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append((indent + "   ".join(cells)).rstrip())
    return "\n".join(lines)
