"""Which line of the user's model fixed a size: read from the guards that torch.export logs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch._logging.structured import INTERN_TABLE

from cgptc.frontend.source_lines import package_path

_EVENTS = ("symbolic_shape_specialization", "guard_added", "guard_added_fast")
_OWN_FILES = ("frontend/capture.py", "frontend/specialisation.py")


@dataclass(frozen=True)
class Guard:
    """An assumption about a size, and the source line that made it."""

    text: str
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.file else self.text


class _Recorder(logging.Handler):
    """Collects torch's structured trace records."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.guards: dict[Guard, None] = {}

    def emit(self, record: logging.LogRecord) -> None:
        metadata = getattr(record, "metadata", None)
        if not isinstance(metadata, dict):
            return
        for event in _EVENTS:
            details = metadata.get(event)
            if isinstance(details, dict):
                self.guards.setdefault(_guard(details), None)


def _guard(details: dict[str, Any]) -> Guard:
    sources = [str(source) for source in details.get("sources") or ()]
    if "value" in details:
        text = f"the size {' = '.join(sources) or details.get('symbol')} is fixed to {details['value']}"
    else:
        text = f"assumes {details.get('expr', '')}"
    file, line = "", 0
    for frame in details.get("user_stack") or details.get("stack") or []:
        name = _file_name(frame)
        shown = package_path(name)
        if shown and not shown.startswith("torch/") and not name.endswith(_OWN_FILES):
            file, line = shown, int(frame.get("line") or 0)
    return Guard(text, file, line)


def _file_name(frame: dict[str, Any]) -> str:
    """Torch logs file names as indices into a table."""
    name = frame.get("filename")
    if isinstance(name, str):
        return name
    names = {number: text for text, number in INTERN_TABLE.items()}
    return str(names.get(name, ""))


@contextlib.contextmanager
def record_guards() -> Iterator[list[Guard]]:
    """Collect guards while the block runs; the list is complete when it ends."""
    guards: list[Guard] = []
    recorder = _Recorder()
    logger = logging.getLogger("torch.__trace")
    level, propagate = logger.level, logger.propagate
    logger.addHandler(recorder)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield guards
    finally:
        logger.removeHandler(recorder)
        logger.setLevel(level)
        logger.propagate = propagate
        guards += recorder.guards
