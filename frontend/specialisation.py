"""Which line of the user's model fixed a size, or assumed something of it: read from the guards that torch.export logs."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch._logging.structured import INTERN_TABLE

from cgptc.frontend.source_lines import package_path

_EVENTS = ("symbolic_shape_specialization", "guard_added", "guard_added_fast")
_OWN_FILES = ("frontend/capture.py", "frontend/dynamic_sizes.py")
_MACHINERY = ("torch/fx/", "torch/_logging/", "torch/__init__.py")


@dataclass(frozen=True)
class Guard:
    """An assumption about sizes and the user's line that led to it.

    ``asker`` is the line of Python code of a model, or of a layer of torch's, that asked: another answer might have taken another branch.
    It is None where torch's own shape functions or C++ asked; their answers decide which fast path they take, never which operations are
    recorded.
    """

    text: str
    file: str
    line: int
    asker: tuple[str, int] | None

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}" if self.file else self.text

    def mentions(self, symbol: str) -> bool:
        """Whether the assumption is about this one of torch's symbols."""
        return re.search(rf"\b{re.escape(symbol)}\b", self.text) is not None


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
    if "value" in details:
        sources = " = ".join(str(source) for source in details.get("sources") or ())
        text = f"fixes {sources or details.get('symbol')} to {details['value']}"
    else:
        text = f"assumes {details.get('expr', '')}"
    frames = [(_file_name(frame), int(frame.get("line") or 0)) for frame in details.get("user_stack") or details.get("stack") or []]
    file, line = _user_line(frames)
    return Guard(text, file, line, _asker([(package_path(name), number) for name, number in frames]))


def _asker(frames: Sequence[tuple[str, int]]) -> tuple[str, int] | None:
    """The Python line outside torch's shape functions that asked: its frame calls `SymBool.__bool__` and the like in torch's own module.

    None where there is none: what C++ asks, of strides for instance, comes straight from the machinery.
    """
    askers = [index for index, (file, _) in enumerate(frames) if not file.startswith(_MACHINERY)]
    if not askers or frames[askers[-1]][0].startswith("torch/_"):
        return None
    within = frames[askers[-1] + 1 : askers[-1] + 2]
    return frames[askers[-1]] if within and within[0][0] == "torch/__init__.py" else None


def _user_line(frames: Sequence[tuple[str, int]]) -> tuple[str, int]:
    """The innermost frame outside torch and this package."""
    for name, line in reversed(frames):
        shown = package_path(name)
        if shown and not shown.startswith("torch/") and not name.endswith(_OWN_FILES):
            return shown, line
    return "", 0


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
