"""What may be seen of the passes while they run: the graph after each, on stderr or in a folder, and how long each took."""

from __future__ import annotations

import sys
from pathlib import Path

from cgptc.cli.screen import Screen
from cgptc.passes.instruments import PrintAfter, TimeEach, dump_to
from cgptc.passes.manager import Instrument, pass_class

ALL, CHANGED = "all", "changed"


class Watch:
    """The instruments that ``--print-ir-after``, ``--dump-ir`` and ``-v`` ask for. `UsageError` for a name that is no pass."""

    def __init__(self, screen: Screen, print_after: str | None, dump: Path | None) -> None:
        self._screen = screen
        self._named = print_after if print_after not in (None, ALL, CHANGED) else None
        self._printed = False
        self._times = TimeEach()
        if self._named is not None:
            pass_class(self._named)
        found: list[Instrument] = [self._times]
        if print_after is not None:
            names = frozenset({self._named}) if self._named is not None else None
            found.append(PrintAfter(self._print, names, only_changed=print_after == CHANGED))
        if dump is not None:
            found.append(PrintAfter(dump_to(dump)))
        self.instruments = tuple(found)

    def tell(self) -> None:
        """Say what ``-v`` shows, and where a pass to print after never ran."""
        if self._named is not None and not self._printed:
            self._screen.note(f"note: '{self._named}' is not in the pipeline, so there was nothing to print after it")
        for name, seconds, before, after in self._times.rows:
            self._screen.detail(f"  pass {name}: {seconds:.2f} s, {before} → {after} nodes")

    def _print(self, title: str, text: str) -> None:
        """On stderr, where ``-q`` does not silence what was asked for: stdout is for the result."""
        self._printed = True
        sys.stderr.write(f"// after {title}\n{text.rstrip()}\n")
