"""Runs of a benchmark that a file keeps from call to call, and the table of them on a page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from marked_text import write_between_marks
from page import table


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `KeptRuns` and `publish` take."""
    parser.add_argument("--results", type=Path, help="a file that keeps the runs from call to call")
    parser.add_argument("--note", default="", help="a remark on the machine for the table")
    parser.add_argument("--write", type=Path, help="a page with the marks of this table")


class KeptRuns:
    """What runs found, by name; of a file where there is one."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self._found: dict[str, Any] = json.loads(file.read_text()) if file is not None and file.exists() else {}

    def __contains__(self, name: str) -> bool:
        return name in self._found

    def of(self, name: str, run: Callable[[], dict[str, Any]]) -> Any:
        """What the run of that name found, which is made where it is not known."""
        if name not in self._found:
            self._found[name] = run()
            if self._file is not None:
                self._file.write_text(json.dumps(self._found))
        return self._found[name]


def publish(given: argparse.Namespace, name: str, what: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write the table of that name, after what was measured, where ``--write`` says."""
    if given.write is not None:
        write_between_marks(given.write, name, f"{what} {given.note}".strip() + "\n\n" + table(header, rows))
