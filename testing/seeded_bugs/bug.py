"""Small changes of meaning in a package's own source, applied while it runs: a suite that misses one has a hole.

A seeded bug is data: a function, what its source says, and what it says instead. The source is compiled again with that one change and the
function gets the new code, so every reference to it sees the bug, whoever imported it.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import SourceFileLoader
from types import CodeType, FunctionType


class SeededBugError(ValueError):
    """The bug no longer fits the source that it is to change."""


@dataclass(frozen=True)
class SeededBug:
    """One bug. ``where`` is "module:Class.method" or "module:function"; ``right`` stands exactly once in its source.

    ``killer`` is the pytest id of a test that must fail with the bug applied: the cheapest and most telling one. Every bug of
    `SEEDED_BUGS` names one.
    """

    name: str
    where: str
    right: str
    wrong: str
    killer: str = ""

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Run a block with the bug in place. `SeededBugError` where the source has changed so that the bug fits no more."""
        function = self._function()
        sound = function.__code__
        function.__code__ = self._changed(function)
        try:
            yield
        finally:
            function.__code__ = sound

    def _function(self) -> FunctionType:
        module_name, _, path = self.where.partition(":")
        found: object = import_module(module_name)
        for part in path.split("."):
            try:
                found = vars(found)[part]
            except KeyError:
                raise SeededBugError(f"seeded bug '{self.name}': {module_name} has no '{path}'") from None
        if isinstance(found, property):
            found = found.fget
        found = inspect.unwrap(getattr(found, "__func__", found))  # type: ignore[arg-type]
        if not isinstance(found, FunctionType):
            raise SeededBugError(f"seeded bug '{self.name}': '{self.where}' is no function written in Python")
        return found

    def _changed(self, function: FunctionType) -> CodeType:
        module = sys.modules[function.__module__]
        lines, first = inspect.getsourcelines(function)
        text = "".join(lines)
        if text.count(self.right) != 1 or self.right == self.wrong:
            raise SeededBugError(f"seeded bug '{self.name}': {self.where} holds {self.right!r} {text.count(self.right)} times, not once")
        whole = inspect.getsource(module).splitlines(keepends=True)
        whole[first - 1 : first - 1 + len(lines)] = [text.replace(self.right, self.wrong)]
        path = str(module.__file__)
        # The import system's own compiler: what is compiled is this package's source, which nobody else can put here.
        changed = SourceFileLoader(module.__name__, path).source_to_code("".join(whole).encode(), path)
        code = _code_of(changed, function)
        if code.co_freevars != function.__code__.co_freevars:
            raise SeededBugError(f"seeded bug '{self.name}': the change takes other names from around {self.where}")
        return code


def _code_of(module: CodeType, function: FunctionType) -> CodeType:
    """The code object of a function in its module's, by name and first line: names such as ``_`` may repeat."""
    pending = [module]
    while pending:
        code = pending.pop()
        if (code.co_qualname, code.co_firstlineno) == (function.__qualname__, function.__code__.co_firstlineno):
            return code
        pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    raise SeededBugError(f"'{function.__qualname__}' is not where its module's source says")
