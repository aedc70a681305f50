"""Where a node comes from in the user's model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Frame:
    """A module path such as ``transformer.h.3.attn`` and the source line that ran in it.

    ``file`` is relative to its package or bare: no absolute path enters a location. ``line`` is 0 where unknown.
    """

    path: str
    file: str = ""
    line: int = 0

    def __str__(self) -> str:
        source = f"{self.file}:{self.line}" if self.file else ""
        return f"{self.path} ({source})" if self.path and source else self.path or source


@dataclass(frozen=True)
class Location:
    """The frames that a node stands for: one after import, the union of what was matched after a rewrite."""

    frames: tuple[Frame, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.frames)

    def __str__(self) -> str:
        return ", ".join(map(str, self.frames)) or "<unknown>"

    @property
    def path(self) -> str:
        """The module path that all frames share the most of, "" where there is none."""
        paths = [frame.path.split(".") for frame in self.frames if frame.path]
        if not paths:
            return ""
        shared = paths[0]
        for path in paths[1:]:
            length = next((i for i, (a, b) in enumerate(zip(shared, path, strict=False)) if a != b), min(len(shared), len(path)))
            shared = shared[:length]
        return ".".join(shared)


UNKNOWN = Location()


def union(locations: Iterable[Location]) -> Location:
    """All frames, each once, in order of first appearance."""
    return Location(tuple(dict.fromkeys(frame for location in locations for frame in location.frames)))
