"""Names in the ONNX model: unique, readable in a viewer, and the same for the same graph."""

from __future__ import annotations

from dataclasses import dataclass, field

from cgptc.ir.loc import Location


def scope(path: str) -> str:
    """A module path as viewers fold it: ``transformer.h.3.attn`` gives ``/transformer/h.3/attn``."""
    parts: list[str] = []
    for part in path.split("."):
        if part.isdigit() and parts:
            parts[-1] += f".{part}"
        elif part:
            parts.append(part)
    return "".join(f"/{part}" for part in parts)


@dataclass
class Namer:
    """Hands out unique names: the wished one first, then with a counter."""

    taken: set[str] = field(default_factory=set)
    _next: dict[str, int] = field(default_factory=dict)

    def unique(self, wished: str) -> str:
        name = wished
        while name in self.taken:
            count = self._next.get(wished, 1)
            self._next[wished] = count + 1
            name = f"{wished}_{count}"
        self.taken.add(name)
        return name

    def node(self, location: Location, op_type: str) -> str:
        """``/transformer/h.3/attn/MatMul``."""
        return self.unique(f"{scope(location.path)}/{op_type}")


def metadata(location: Location, op_name: str) -> dict[str, str]:
    """What a node says about its origin: IR operation, module paths and source lines."""
    properties = {"cgptc.op": op_name}
    paths = dict.fromkeys(frame.path for frame in location.frames if frame.path)
    sources = dict.fromkeys(f"{frame.file}:{frame.line}" for frame in location.frames if frame.file)
    if paths:
        properties["cgptc.module"] = ", ".join(paths)
    if sources:
        properties["cgptc.source"] = ", ".join(sources)
    return properties
