"""Errors and warnings that a user reads.

Every user-visible failure is one line ``error[code]: file: what: how to fix`` and an exit code. `CgptcError` is the only
exception type that leaves the public API for bad input; what is a bug in cgptc itself raises `VerifyError` or any other type.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from cgptc.ir.printable import printable


class Exit(enum.IntEnum):
    """Process exit codes of the command line."""

    OK = 0
    USAGE = 2
    UNSAFE = 3
    MALFORMED = 4
    UNSUPPORTED = 5
    DOES_NOT_FIT = 6
    IO = 7
    MISMATCH = 8
    INTERNAL = 70
    INTERRUPTED = 130
    TERMINATED = 143


class CgptcError(Exception):
    """A failure with a cause that the user can do something about.

    ``code`` is a short kebab-case name, ``file`` the input it concerns (may be empty), ``what`` what was found and expected,
    ``fix`` the next step. ``details`` are further lines, such as the nodes concerned.
    """

    def __init__(
        self,
        code: str,
        what: str,
        *,
        exit: Exit,
        file: str = "",
        fix: str = "",
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.exit = exit
        self.file = file
        self.fix = fix
        self.details = tuple(details)

    def line(self) -> str:
        """The error as one line, in which nothing can move a terminal's cursor: names in it may come from any file."""
        return printable(f"error[{self.code}]: " + ": ".join(part for part in (self.file, self.what, self.fix) if part))

    def __str__(self) -> str:
        return "\n".join([self.line(), *map(printable, self.details)])


class UsageError(CgptcError):
    """A wrong argument or option (exit 2)."""

    def __init__(self, code: str, what: str, *, file: str = "", fix: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(code, what, exit=Exit.USAGE, file=file, fix=fix, details=details)


class UnsafeError(CgptcError):
    """The input could execute code, so it was not opened (exit 3)."""

    def __init__(self, code: str, what: str, *, file: str = "", fix: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(code, what, exit=Exit.UNSAFE, file=file, fix=fix, details=details)


class MalformedError(CgptcError):
    """The input is damaged, or lies about itself (exit 4)."""

    def __init__(self, code: str, what: str, *, file: str = "", fix: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(code, what, exit=Exit.MALFORMED, file=file, fix=fix, details=details)


class FileError(CgptcError):
    """Reading or writing failed (exit 7)."""

    def __init__(self, code: str, what: str, *, file: str = "", fix: str = "", details: Sequence[str] = ()) -> None:
        super().__init__(code, what, exit=Exit.IO, file=file, fix=fix, details=details)


class CompileError(CgptcError):
    """The model is well formed but cannot be compiled as asked (exit 5, or 6 where it does not fit the target)."""

    def __init__(
        self,
        code: str,
        what: str,
        *,
        exit: Exit = Exit.UNSUPPORTED,
        file: str = "",
        fix: str = "",
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(code, what, exit=exit, file=file, fix=fix, details=details)


class OpTypeError(Exception):
    """An operation was given operands of types that it does not accept. Callers add op and location."""


class VerifyError(Exception):
    """A pass or an importer broke an invariant of the IR: a bug in cgptc."""


def require(condition: bool, message: str) -> None:
    """Raise `OpTypeError` unless ``condition`` holds."""
    if not condition:
        raise OpTypeError(message)


@dataclass
class Warnings:
    """Warnings collected while compiling, in order, each once."""

    lines: list[str] = field(default_factory=list)

    def add(self, code: str, what: str) -> None:
        line = printable(f"warning[{code}]: {what}")
        if line not in self.lines:
            self.lines.append(line)
