"""What can be wrong with a wafer machine, plan or program.

These types are the wafer backend's own, so that programs load, verify and run where neither the graph IR nor the passes can be
imported. The backend's outer layer turns a `WaferError` into the error that a user reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Issue:
    """One broken rule: its code, where in the program, and what was found against what is allowed."""

    code: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.code}: {self.where}: {self.what}"


class WaferError(ValueError):
    """Something about a machine file, a program file or a run of a program that the reader can act upon.

    ``code`` is a short kebab-case name, ``what`` what was found and expected, ``fix`` the next step (may be empty).
    """

    def __init__(self, code: str, what: str, *, fix: str = "") -> None:
        super().__init__(f"{code}: {what}" + (f": {fix}" if fix else ""))
        self.code = code
        self.what = what
        self.fix = fix


class MachineError(WaferError):
    """A machine description that is malformed or describes no machine."""


class ProgramError(WaferError):
    """A program file that is malformed, or that asks for what no program can mean."""


class InvalidProgramError(WaferError):
    """A program that breaks rules of the machine; ``issues`` names each."""

    def __init__(self, issues: Sequence[Issue]) -> None:
        super().__init__(issues[0].code, f"{issues[0].where}: {issues[0].what}" + (f" (and {len(issues) - 1} more)" if issues[1:] else ""))
        self.issues = tuple(issues)


class ExecutionError(WaferError):
    """A program did while running what a verified program never does: read poison, left its memory, stalled."""
