"""Locations from what torch.export records: ``nn_module_stack`` and ``stack_trace``."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from pathlib import PurePath

from cgptc.ir.loc import Frame, Location

_FRAME = re.compile(r'^\s*File "([^"\n]+)", line (\d+)', re.MULTILINE)
_UNINFORMATIVE = ("torch/nn/functional.py", "torch/_tensor.py", "torch/functional.py")


@functools.lru_cache(maxsize=1024)
def package_path(file: str) -> str:
    """A source file relative to the folder that its package is installed in, or its bare name: never an absolute path."""
    path = PurePath(file.replace("\\", "/"))
    for root in ("site-packages", "dist-packages"):
        if root in path.parts:
            return "/".join(path.parts[path.parts.index(root) + 1 :])
    return path.name


def source_line(stack_trace: str) -> tuple[str, int]:
    """File and line of the innermost frame of a user's or a library's module, ("", 0) where there is none."""
    frames = [(package_path(file), int(line)) for file, line in _FRAME.findall(stack_trace)]
    telling = [frame for frame in frames if frame[0] not in _UNINFORMATIVE]
    outside = [frame for frame in telling if not frame[0].startswith("torch/")]
    for choice in (outside, telling, frames):
        if choice:
            return choice[-1]
    return "", 0


def module_path(stack: Iterable[str], *, root: str = "") -> str:
    """The innermost module's path from the paths of a module stack; a wrapper's own prefix ``root`` is cut off."""
    path = next(iter(list(stack)[::-1]), "")
    if root and (path == root or path.startswith(root + ".")):
        path = path[len(root) + 1 :]
    return path


def location(stack: Iterable[str], stack_trace: str, *, root: str = "") -> Location:
    """One frame, or no frame where nothing is known."""
    file, line = source_line(stack_trace)
    frame = Frame(module_path(stack, root=root), file, line)
    return Location((frame,)) if frame.path or frame.file else Location()
