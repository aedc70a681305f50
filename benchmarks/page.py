"""Tables of benchmarks, with what they were measured on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conditions(what: str) -> str:
    """``what`` was measured, on which machine, with which versions."""
    from cgptc import __version__

    runtime = importlib.metadata.version("onnxruntime")
    return f"{what}; {os.cpu_count()} cores, {platform.machine()}, cgptc {__version__}, onnxruntime {runtime}:"
